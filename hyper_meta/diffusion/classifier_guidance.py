"""Classifier guidance: a latent moved until HyperCLIP reads the question in its weights
(method.md section 5).

Axes: P adapter weights, Z latent, W width of the generator's last hidden layer, Dq question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import lax
from jaxtyping import Float, Key

from hyper_meta.core.losses import normalise
from hyper_meta.core.moments import floor_deviation
from hyper_meta.core.types import Array, Scalar
from hyper_meta.models.generator import Factors
from hyper_meta.models.sentences import SentenceMoments

# Names of the update rules: gradients -> updates, to be multiplied by minus the learning rate.
OPTIMIZERS = {"adam": optax.scale_by_adam, "sgd": optax.identity}


@struct.dataclass
class WeightStatistics:
    """What weights and questions are standardised by; measured on the training tasks.

    weight_mean, weight_std: [P] float32; questions: of those of the tasks.
    """

    weight_mean: Float[Array, "*devices P"]
    weight_std: Float[Array, "*devices P"]
    questions: SentenceMoments


@dataclasses.dataclass(frozen=True)
class Guidance:
    """How a latent is moved.

    optimizer: a key of OPTIMIZERS; steps: the numbers of steps to read the latent at; cosine: the
    rate decays to zero over the largest of them, or stays; langevin: size of the noise, 0 for none.
    """

    optimizer: str
    steps: tuple[int, ...]
    cosine: bool
    langevin: float

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}: one of {sorted(OPTIMIZERS)}")


def standardise_weights(
    statistics: WeightStatistics, weights: Float[Array, "*B P"]
) -> Float[Array, "*B P"]:
    """[..., P] float32 to mean 0 and deviation 1 over the weights of the latent data set."""
    return (weights - statistics.weight_mean) / statistics.weight_std


def weight_moments(
    factors: Factors, params: Any, latents: Float[Array, "n Z"]
) -> tuple[Float[Array, " P"], Float[Array, " P"]]:
    """Mean and standard deviation [P] float32 of the weights of latents [n, Z].

    Exact, and without the n x P weights: they are linear in the n x W hidden units, so their
    covariance is kernel^T C kernel with C that of the hidden units.
    """
    kernel, bias = factors.head(params)
    hidden = factors.hidden(params, latents)
    mean = hidden.mean(axis=0)
    with jax.default_matmul_precision("highest"):
        covariance = (hidden - mean).T @ (hidden - mean) / len(hidden)
        variance = jnp.sum(kernel * (covariance @ kernel), axis=0)
        return mean @ kernel + bias, floor_deviation(jnp.sqrt(jnp.maximum(variance, 0)))


def fold_embed(factors: Factors, module: nn.Module, model: Any) -> Callable:
    """HyperCLIP of generated weights, latent [..., Z] -> [..., Dq], that never makes the weights.

    The generator's last layer, the standardisation and the encoder's first layer are all affine:
    together one [W, 128] matrix, made once. It acts on the difference from the hidden units of e0,
    so that large weights with small deviations do not cancel in float32.

    module: a models.hyperclip.HyperCLIP; model: {"hyperclip": its params, "statistics":
    WeightStatistics, "e0": [Z], "generator": generator params}.
    """
    kernel, bias = factors.head(model["generator"])
    centre = factors.hidden(model["generator"], model["e0"])
    first = model["hyperclip"]["layers_0"]
    with jax.default_matmul_precision("highest"):
        weights = standardise_weights(model["statistics"], centre @ kernel + bias)
        projection = first["kernel"] / jnp.sqrt(len(weights))
        offset = weights @ projection + first["bias"]
        folded = (kernel / model["statistics"].weight_std) @ projection

    def embed(latent: jax.Array) -> jax.Array:
        hidden = factors.hidden(model["generator"], latent)
        x = (hidden - centre) @ folded + offset
        return module.apply({"params": model["hyperclip"]}, x, method="finish")

    return embed


def guidance_loss(
    embed_fn: Callable,
    latent: Float[Array, " Z"],
    start: Float[Array, " Z"],
    *,
    question: Float[Array, " Dq"],
    pull: Scalar,
) -> Float[Array, ""]:
    """-cos(embed(e), q) + pull / 2 ||e - e0||^2, [] float32 (method.md section 5).

    latent, start: [Z]; question: [Dq], of any length.
    """
    cosine = jnp.sum(normalise(embed_fn(latent)) * normalise(question))
    return 0.5 * pull * jnp.sum(jnp.square(latent - start)) - cosine


def guide(
    embed_fn: Callable,
    start: Float[Array, " Z"],
    *,
    question: Float[Array, " Dq"],
    rate: Scalar,
    pull: Scalar,
    key: Key[jax.Array, ""],
    settings: Guidance,
) -> Float[Array, "n Z"]:
    """Minimises guidance_loss from start: [len(settings.steps), Z], the latents of one path.

    Step i = 0, 1, ... of N, with u the optimizer's update for the gradient g:
        rate_i = rate * (1 + cos(pi i / N)) / 2, or rate
        e <- e - rate_i * u(g + langevin * N(0, I) / sqrt(rate_i))
    so that with SGD the noise of a step has the deviation langevin * sqrt(rate_i) (Welling and Teh
    2011, equation 4, at langevin sqrt(2) with rate for their epsilon / 2).

    embed_fn: [Z] -> [Dq]; start: [Z]; question: [Dq]; rate: [], positive; pull: [], at least 0;
    both may be traced. key: a PRNG key, of the noise.
    """
    tx, num_steps = OPTIMIZERS[settings.optimizer](), max(settings.steps)
    asked = jnp.asarray(settings.steps)[:, None]

    def step(carry: tuple, i: jax.Array) -> tuple[tuple, None]:
        latent, opt_state, kept = carry
        gradient = jax.grad(guidance_loss, argnums=1)(
            embed_fn, latent, start, question=question, pull=pull
        )
        decay = 0.5 * (1 + jnp.cos(jnp.pi * i / num_steps)) if settings.cosine else 1.0
        step_rate = (rate * decay).astype(latent.dtype)
        if settings.langevin:
            noise = jax.random.normal(jax.random.fold_in(key, i), latent.shape, latent.dtype)
            gradient += settings.langevin * noise / jnp.sqrt(step_rate)
        update, opt_state = tx.update(gradient, opt_state)
        latent = latent - step_rate * update
        return (latent, opt_state, jnp.where(asked == i + 1, latent, kept)), None

    kept = jnp.broadcast_to(start, (len(settings.steps), *start.shape))
    carry, _ = lax.scan(step, (start, tx.init(start), kept), jnp.arange(num_steps))
    return carry[2]
