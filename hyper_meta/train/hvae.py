"""The HVAE stage: an autoencoder of the weights that adaptation found, and its latent space."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from hyper_meta import parallel
from hyper_meta.meta.hyperclip import GENERATOR, Factors, floor_deviation, generate_weights
from hyper_meta.models.hvae import Encoder, hvae_loss
from hyper_meta.models.hypernet import Generator
from hyper_meta.train.loop import Stage
from hyper_meta.train.state import TrainState, create_state
from hyper_meta.types import UserError

HELD_OUT = 10  # one training task in so many is kept for validation


def encoder_module(config: ConfigDict) -> nn.Module:
    """The encoder that the config describes."""
    return Encoder(tuple(config.hvae.hidden_dims), config.hvae.latent_dim)


def decoder_module(config: ConfigDict, num_weights: int) -> nn.Module:
    """The decoder that the config describes, of P = num_weights."""
    return Generator(tuple(config.hvae.hidden_dims), num_weights)


def hvae_stage(config: ConfigDict, name: str, weights: np.ndarray, start: np.ndarray) -> Stage:
    """HVAE on adapted weights [T, R, P] float32, fine-tuned from start [P] (METHOD section 4).

    It sees (w - mean) / s: the mean over the fitted tasks, which differs from raw weights only in
    where the biases of encoder and decoder start, and s their deviation, or 1 where
    hvae.standardise is off. Best by the loss on a tenth of the training tasks, which are not
    fitted. Raises UserError for less than two tasks, or a start that is no weights of these.
    """
    settings, (num_tasks, repeats, num_weights) = config.hvae, weights.shape
    if num_tasks < 2 or start.shape != (num_weights,):
        raise UserError(
            f"stage {name}: weights {weights.shape} and start {start.shape} given, two or more "
            "tasks [T, R, P] and the weights [P] they started from are expected"
        )
    held_out, fitted = _divide(config.seed, num_tasks)
    statistics = measure(weights, fitted, standardise=settings.standardise)
    encoder, decoder = encoder_module(config), decoder_module(config, num_weights)

    def init(key: jax.Array) -> TrainState:
        encoder_key, decoder_key = jax.random.split(key)
        params = {
            "encoder": encoder.init(encoder_key, jnp.zeros(num_weights))["params"],
            "decoder": decoder.init(decoder_key, jnp.zeros(settings.latent_dim))["params"],
        }
        tx = optax.adam(settings.learning_rate)
        return create_state(None, params, tx=tx, ema_decay=None, statistics=statistics)

    def schedule(first: int, stop: int) -> tuple[None, Any]:
        rngs = [np.random.default_rng([config.seed, step]) for step in range(first, stop)]
        size = settings.batch_size
        draws = [(rng.choice(fitted, size), rng.integers(repeats, size=size)) for rng in rngs]
        task, repeat = np.stack(draws, axis=1)
        return None, (task, repeat)

    losses = functools.partial(_losses, encoder, decoder, settings.beta)
    return Stage(
        name=name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        init=init,
        step=functools.partial(_hvae_step, losses),
        data=weights,
        schedule=schedule,
        validate=_compile_validation(config, losses, weights[held_out].reshape(-1, num_weights)),
    )


def measure(weights: np.ndarray, tasks: np.ndarray, *, standardise: bool) -> dict[str, np.ndarray]:
    """{"mean": [P], "scale": [P]} float32 of these tasks of weights [T, R, P], one after the other
    to save memory."""
    mean = sum(weights[t].mean(axis=0, dtype=np.float64) for t in tasks) / len(tasks)
    scale = np.ones_like(mean)
    if standardise:
        variance = sum(np.square(weights[t] - mean).mean(axis=0) for t in tasks) / len(tasks)
        scale = floor_deviation(np.sqrt(variance))
    return {"mean": np.float32(mean), "scale": np.float32(scale)}


def hvae_space(config: ConfigDict, params: Any, statistics: Any, start: np.ndarray) -> dict:
    """The latent space of a trained HVAE, with the keys of HNet's.

    params, statistics: of the stage, numpy leaves; start: [P] float32. Returns {"e0": the posterior
    mean of start, [Z], "generator": {"decoder": params, "mean": [P], "scale": [P]}}, numpy leaves.
    """
    standardised = (start - statistics["mean"]) / statistics["scale"]
    e0, _ = encoder_module(config).apply({"params": params["encoder"]}, standardised)
    return {"e0": np.asarray(e0), "generator": {"decoder": params["decoder"], **statistics}}


def hvae_generate(params: Any, latent: jax.Array) -> jax.Array:
    """(the "generator" of `hvae_space`, latent [..., Z]) -> weights [..., P], as adapters are."""
    decoded = generate_weights(GENERATOR, params["decoder"], latent)
    return decoded * params["scale"] + params["mean"]


def _head(params: Any) -> tuple[jax.Array, jax.Array]:
    kernel, bias = GENERATOR.head(params["decoder"])
    return kernel * params["scale"], bias * params["scale"] + params["mean"]


# `hvae_generate` taken apart: scale and mean are part of the last layer.
HVAE = Factors(lambda params, latent: GENERATOR.hidden(params["decoder"], latent), _head)


def _divide(seed: int, num_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the tasks held out, at least one, and of those fitted."""
    order = np.random.default_rng([seed, num_tasks]).permutation(num_tasks)
    size = max(1, num_tasks // HELD_OUT)
    return order[:size], order[size:]


def _losses(
    encoder: nn.Module,
    decoder: nn.Module,
    beta: float,
    params: Any,
    weights: jax.Array,
    keys: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`hvae_loss` of standardised weights [B, P] for these parameters."""
    return hvae_loss(
        lambda x: encoder.apply({"params": params["encoder"]}, x),
        lambda z: decoder.apply({"params": params["decoder"]}, z),
        weights,
        beta=beta,
        keys=keys,
    )


def _hvae_step(
    losses: Callable, state: TrainState, weights: jax.Array, x: Any, key: jax.Array
) -> tuple[TrainState, dict]:
    """One update on random repeats of random tasks."""
    _, (task, repeat) = x
    keys = parallel.example_keys(key, len(task))
    rows = (weights[task, repeat] - state.statistics["mean"]) / state.statistics["scale"]

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        loss, parts = losses(params, rows, keys)
        count = jnp.asarray(len(loss), jnp.float32)
        return loss.sum(), (count, {name: (part.sum(), count) for name, part in parts.items()})

    results = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.global_mean(*results)
    return state.apply_gradients(grads=grads), metrics


def _compile_validation(config: ConfigDict, losses: Callable, weights: np.ndarray) -> Callable:
    """state -> (minus the mean loss on weights [n, P], metrics); the same noise every time.

    "explained": the share of the variance about the mean that the reconstructions explain.
    """
    num_rows, size = len(weights), config.hvae.batch_size
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(config.seed), num_rows)))

    def evaluate(model: Any, _: None, x: tuple) -> dict[str, jax.Array]:
        params, statistics = model
        rows = (x[0] - statistics["mean"]) / statistics["scale"]
        loss, parts = losses(params, rows, jax.random.wrap_key_data(x[1]))
        return {"loss": loss, "variance": jnp.square(rows).sum(axis=-1), **parts}

    mapped = parallel.compile_map(evaluate)

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        outs = []
        for first in range(0, num_rows, size):
            rows = np.arange(first, first + size) % num_rows
            out = mapped((state.params, state.statistics), None, (weights[rows], keys[rows]))
            outs.append(jax.tree.map(lambda leaf: leaf[: num_rows - first], out))  # noqa: B023
        mean = {k: float(np.concatenate([out[k] for out in outs]).mean()) for k in outs[0]}
        metrics = {"kl": mean["kl"], "explained": 1 - mean["error"] / mean["variance"]}
        return -mean["loss"], metrics

    return validate
