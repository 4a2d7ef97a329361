"""The HVAE stage: an autoencoder of adapted weights, and its latent space.

Its inputs are the K principal components of standardised weights: a rotation, which keeps
distances. The weights themselves, tens of thousands in some hundred networks, are too many and too
noisy (method.md section 8): an autoencoder of them explains nothing of held-out networks of
Meta-VQA, of which linear components explain 43%.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from hyper_meta.core import parallel
from hyper_meta.core.moments import floor_deviation
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import Array, UserError
from hyper_meta.models.generator import (
    GENERATOR,
    Factors,
    Generator,
    generate_weights,
    join_layers,
    split_layers,
)
from hyper_meta.models.hvae import WeightsEncoder, hvae_loss
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.parts import schedule_of, update
from hyper_meta.train.state import TrainState, create_state

HELD_OUT = 10  # one training task in so many is kept for validation
COLUMNS = 4096  # weights that are rotated at once, to save memory


def encoder_module(config: RunSettings) -> WeightsEncoder:
    """The encoder that the config describes."""
    return WeightsEncoder(tuple(config.hvae.hidden_dims), config.hvae.latent_dim)


def decoder_module(config: RunSettings, num_components: int) -> Generator:
    """The decoder that the config describes, of K = num_components."""
    return Generator(tuple(config.hvae.hidden_dims), num_components)


def hvae_stage(
    config: RunSettings,
    name: str,
    weights: Float[np.ndarray, " ..."],
    start: Float[np.ndarray, " ..."],
    *,
    learning_rate: float,
) -> Stage:
    """HVAE on adapted weights [T, R, P] float32, fine-tuned from start [P] (method.md section 4).

    Of (w - mean) / s it sees the K principal components, see `weights_statistics`; s is the
    deviation of each weight, or 1 where hvae.standardise is off. Best by the loss on a tenth of the
    training tasks, which are neither fitted nor part of the statistics. Raises UserError for less
    than two tasks, or a start that is no weights of these.
    """
    _check(name, weights, start)
    settings = config.hvae
    held_out, fitted = _divide(config.seed, len(weights))
    statistics = weights_statistics(
        weights, fitted, standardise=settings.standardise, components=settings.components
    )
    components, norms = project(statistics, weights)
    encoder, decoder = encoder_module(config), decoder_module(config, components.shape[-1])
    losses = functools.partial(_losses, encoder, settings.beta)
    return Stage(
        name=name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        most_at_once=64,
        init=functools.partial(_init, (encoder, decoder), statistics, learning_rate),
        step=functools.partial(_hvae_step, losses),
        data=components,
        schedule=schedule_of(functools.partial(_draw, config, fitted, weights.shape[1])),
        validate=_compile_validation(config, losses, components[held_out], norms[held_out]),
    )


def _check(name: str, weights: np.ndarray, start: np.ndarray) -> None:
    num_tasks, _, num_weights = weights.shape
    if num_tasks < 2 or start.shape != (num_weights,):
        raise UserError(
            f"stage {name}: weights {weights.shape} and start {start.shape} given, two or more "
            "tasks [T, R, P] and the weights [P] they started from are expected"
        )


def _init(
    modules: tuple[WeightsEncoder, Generator],
    statistics: dict[str, Any],
    learning_rate: float,
    key: jax.Array,
) -> TrainState:
    """An untrained (encoder, decoder)."""
    encoder, decoder = modules
    encoder_key, decoder_key = jax.random.split(key)
    params = {
        "encoder": encoder.init(encoder_key, jnp.zeros(decoder.num_weights))["params"],
        "decoder": decoder.init(decoder_key, jnp.zeros(encoder.latent_dim))["params"],
    }
    tx = optax.adam(learning_rate)
    return create_state(None, params, tx=tx, ema_decay=None, statistics=statistics)


def _draw(
    config: RunSettings, fitted: np.ndarray, repeats: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random ones of the fitted tasks, and of the repeats of each."""
    rng, size = np.random.default_rng([config.seed, step]), config.hvae.batch_size
    return rng.choice(fitted, size), rng.integers(repeats, size=size)


def weights_statistics(
    weights: Float[np.ndarray, "T R P"],
    tasks: Int[np.ndarray, " _"],
    *,
    standardise: bool,
    components: int,
) -> dict[str, Float[np.ndarray, " ..."] | np.float32]:
    """The statistics by which weights [T, R, P] are standardised and rotated, of the given tasks.

    Returns {"mean": [P], "scale": [P], "directions": [K, P], "size": []} float32: the orthonormal
    directions of largest variance of (w - mean) / scale, the largest first, and the root mean
    square of the components along them. K is `components`, or what the number of rows allows.
    """
    mean = sum(weights[t].mean(axis=0, dtype=np.float64) for t in tasks) / len(tasks)
    scale = np.ones_like(mean)
    if standardise:
        variance = sum(np.square(weights[t] - mean).mean(axis=0) for t in tasks) / len(tasks)
        scale = floor_deviation(np.sqrt(variance))
    statistics = {"mean": np.float32(mean), "scale": np.float32(scale)}
    directions, size = _principal(statistics, weights[tasks], components)
    return {**statistics, "directions": directions, "size": size}


def _principal(
    statistics: dict[str, np.ndarray], weights: np.ndarray, count: int
) -> tuple[np.ndarray, np.float32]:
    """The "directions" and "size" of `weights_statistics`, from the rows' Gram matrix."""
    rows = weights.reshape(-1, weights.shape[-1])
    count = min(count, len(rows) - 1, rows.shape[1])
    gram = sum(part @ part.T for _, part in _standardised_columns(statistics, rows))
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    # Directions without variance stay at zero: they contribute neither weights nor loss.
    real = values > 1e-6 * values[0]
    to_unit = np.where(real, vectors / np.sqrt(np.where(real, values, 1)), 0).astype(np.float32)
    directions = np.empty((count, rows.shape[1]), np.float32)
    for columns, part in _standardised_columns(statistics, rows):
        directions[:, columns] = to_unit.T @ part
    return directions, np.float32(np.sqrt(values.sum() / gram.shape[0] / count))


def _standardised_columns(
    statistics: dict[str, np.ndarray], rows: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of the columns of weights [n, P], and those columns standardised."""
    for first in range(0, rows.shape[1], COLUMNS):
        columns = slice(first, first + COLUMNS)
        mean, scale = statistics["mean"][columns], statistics["scale"][columns]
        yield columns, (rows[:, columns] - mean) / scale


def project(
    statistics: dict[str, Float[Array, " ..."] | np.float32], weights: Float[np.ndarray, "*T P"]
) -> tuple[Float[np.ndarray, "*T K"], Float[np.ndarray, "*T"]]:
    """(components [..., K] float32, squared lengths [...]) of standardised weights.

    weights: [..., P] float32; their standardised form is (w - mean) / scale.
    """
    rows = weights.reshape(-1, weights.shape[-1])
    components, norms = 0, 0
    for columns, part in _standardised_columns(statistics, rows):
        components = components + part @ statistics["directions"][:, columns].T
        norms = norms + np.square(part).sum(axis=1)
    shape = weights.shape[:-1]
    return components.reshape(*shape, -1), norms.reshape(shape)


def hvae_space(
    config: RunSettings, params: Any, statistics: Any, start: Float[Array, " P"]
) -> dict:
    """The latent space of a trained HVAE, with the keys of HNet's.

    params, statistics: of the stage, numpy leaves; start: [P] float32. Returns {"e0": the posterior
    mean of start, [Z], "generator": {"decoder": that of the stage with the rotation back as part of
    its last layer, "mean": [P], "scale": [P]}}, numpy leaves.
    """
    components, _ = project(statistics, start)
    e0, _ = encoder_module(config).apply(
        {"params": params["encoder"]}, components / statistics["size"]
    )
    back = statistics["size"] * statistics["directions"]
    hidden, last = split_layers(params["decoder"])
    decoder = join_layers(hidden, jax.tree.map(lambda x: x @ back, last))
    generator = {"decoder": decoder, "mean": statistics["mean"], "scale": statistics["scale"]}
    return {"e0": np.asarray(e0), "generator": generator}


def hvae_generate(params: Any, latent: Float[Array, "*B Z"]) -> Float[Array, "*B P"]:
    """(the "generator" of `hvae_space`, latent [..., Z]) -> weights [..., P], as adapters are."""
    decoded = generate_weights(GENERATOR, params["decoder"], latent)
    return decoded * params["scale"] + params["mean"]


def _head(params: Any) -> tuple[jax.Array, jax.Array]:
    kernel, bias = GENERATOR.head(params["decoder"])
    return kernel * params["scale"], bias * params["scale"] + params["mean"]


# The factors of `hvae_generate`; scale and mean are part of the last layer.
HVAE = Factors(lambda params, latent: GENERATOR.hidden(params["decoder"], latent), _head)


def _divide(seed: int, num_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the tasks held out, at least one, and of those fitted."""
    order = np.random.default_rng([seed, num_tasks]).permutation(num_tasks)
    size = max(1, num_tasks // HELD_OUT)
    return order[:size], order[size:]


def _losses(
    encoder: WeightsEncoder,
    beta: float,
    params: Any,
    size: jax.Array,
    components: jax.Array,
    keys: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`hvae_loss` of components [B, K] for these parameters; the networks see them over their
    size."""
    return hvae_loss(
        lambda x: encoder.apply({"params": params["encoder"]}, x / size),
        lambda z: size * generate_weights(GENERATOR, params["decoder"], z),
        components,
        beta=beta,
        keys=keys,
    )


def _hvae_step(
    losses: Callable, state: TrainState, components: jax.Array, x: Any, key: jax.Array
) -> tuple[TrainState, dict]:
    """One update on random repeats of random tasks."""
    _, (task, repeat) = x
    keys = parallel.example_keys(key, len(task))
    rows, size = components[task, repeat], state.statistics["size"]

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        loss, parts = losses(params, size, rows, keys)
        count = jnp.asarray(len(loss), jnp.float32)
        return loss.sum(), (count, {name: (part.sum(), count) for name, part in parts.items()})

    return update(state, loss_fn)


def _compile_validation(
    config: RunSettings, losses: Callable, components: np.ndarray, norms: np.ndarray
) -> Callable:
    """state -> (minus the mean loss on components [n, R, K], metrics); the same noise every time.

    "explained": the share of the variance of standardised weights, with squared lengths norms
    [n, R], that the reconstructions explain; what lies off the directions is not explained.
    """
    components, norms = components.reshape(-1, components.shape[-1]), norms.ravel()
    num_rows, size = len(components), config.hvae.batch_size
    outside = norms - np.square(components).sum(axis=1)
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(config.seed), num_rows)))

    def evaluate(model: Any, _: None, x: tuple) -> dict[str, jax.Array]:
        loss, parts = losses(*model, x[0], jax.random.wrap_key_data(x[1]))
        return {"loss": loss, **parts}

    mapped = parallel.compile_map(evaluate)

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        outs = []
        for first in range(0, num_rows, size):
            rows = np.arange(first, first + size) % num_rows
            model = (state.params, state.statistics["size"])
            out = mapped(model, None, (components[rows], keys[rows]))
            outs.append(jax.tree.map(lambda leaf: leaf[: num_rows - first], out))  # noqa: B023
        mean = {k: float(np.concatenate([out[k] for out in outs]).mean()) for k in outs[0]}
        left = mean["error"] + outside.mean()
        metrics = {"kl": mean["kl"], "explained": float(1 - left / norms.mean())}
        return -mean["loss"], metrics

    return validate
