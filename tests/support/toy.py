"""A stage small enough to be killed many times; as a script: FOLDER NUM_STEPS."""

import dataclasses
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyper_meta.core import parallel
from hyper_meta.train import loop
from hyper_meta.train.state import create_state, smoothed_params

SEED = 3
BATCH = 16
NUM_STEPS = 240
CHUNK_STEPS = 4


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(8)(x)))[..., 0]


def _init(key):
    net = Net()
    params = net.init(key, jnp.zeros((1, 3)))["params"]
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    statistics = {"mean": jnp.full(3, 0.5)}
    return create_state(net.apply, params, tx=tx, ema_decay=0.9, statistics=statistics)


def _step(state, data, x, key):
    shared, sharded = x
    features = data["features"][sharded["index"]] - state.statistics["mean"]
    keys = parallel.example_keys(key, features.shape[0])
    features += 0.1 * jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)

    def loss_fn(params):
        error = state.apply_fn({"params": params}, features) - data["target"][sharded["index"]]
        error = jnp.where(sharded["mask"], error, 0)
        count = sharded["mask"].sum()
        return shared["weight"] * (error**2).sum(), (count, {"bias": (error.sum(), count)})

    grads, metrics = parallel.global_mean(*jax.value_and_grad(loss_fn, has_aux=True)(state.params))
    return state.apply_gradients(grads=grads), metrics


def _schedule(start, stop):
    rngs = [np.random.default_rng([SEED, step]) for step in range(start, stop)]
    index = np.stack([rng.integers(0, 64, BATCH) for rng in rngs])
    # The first devices of many get no valid example at all.
    mask = np.arange(BATCH) >= np.array([rng.integers(3, BATCH) for rng in rngs])[:, None]
    weight = np.linspace(1, 2, NUM_STEPS, dtype=np.float32)[start:stop]
    return {"weight": weight}, {"index": index, "mask": mask}


def make_stage():
    rng = np.random.default_rng(SEED)
    features = rng.normal(size=(64, 3)).astype(np.float32)
    data = {"features": features, "target": np.sin(features.sum(1))}
    net, constants = Net(), parallel.replicate({})

    def predict(params, data, x):
        return net.apply({"params": params}, x)

    predict = parallel.compile_map(predict)

    def validate(state):
        error = predict(smoothed_params(state), constants, features) - data["target"]
        return -float((error**2).mean()), {"bias": float(error.mean())}

    return loop.Stage(
        name="toy",
        num_steps=NUM_STEPS,
        chunk_steps=CHUNK_STEPS,
        most_at_once=CHUNK_STEPS,
        init=_init,
        step=_step,
        data=data,
        schedule=_schedule,
        validate=validate,
    )


def run(directory, **changes):
    stage = dataclasses.replace(make_stage(), **changes)
    return loop.run_stage(stage, directory, seed=SEED, checkpoint_every=2, progress=False)


if __name__ == "__main__":
    try:
        run(sys.argv[1], num_steps=int(sys.argv[2]))
    except loop.Interrupted as interruption:
        print(interruption, flush=True)
