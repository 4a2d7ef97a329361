"""The training objective of a conditional denoiser.

Axes: B batch, Z latent, S diffusion steps.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from hyper_meta.core.types import Array, SentenceFeatures
from hyper_meta.diffusion.noise import NoiseProcess, diffuse, prediction_target
from hyper_meta.models.sentences import keep_sentences


@dataclasses.dataclass(frozen=True)
class Denoising:
    """What a denoiser is trained to do.

    process: by which latents are noised; prediction: what it predicts of them, a key of
    noise.PREDICTIONS; drop_rate: in [0, 1], the probability that an example's condition is dropped.
    """

    process: NoiseProcess
    prediction: str
    drop_rate: float


def denoising_loss(
    predict_fn: Callable[..., jax.Array],
    denoising: Denoising,
    *,
    z0: Float[Array, "B Z"],
    condition: SentenceFeatures,
    mask: Bool[Array, " B"],
    keys: Key[jax.Array, " B"],
    metric: Float[Array, "B Z Z"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum over examples of the denoising error, and the number of examples.

    The error of one example is the mean over Z of (output - target)^2 (Ho et al. 2020, equation
    14), at a uniform step. Dropped conditions train the unconditional model that guidance needs (Ho
    and Salimans 2022, algorithm 1). An example draws its step, its noise and whether its condition
    is dropped from its own key, so the draws do not depend on how a batch is divided over devices.

    Args:
      predict_fn: (z_t [B, Z], t [B] int32, condition of leading axis B, keep [B] bool) -> [B, Z].
      z0: standardised latents.
      condition: standardised sentences, leading axis B.
      mask: [B] bool; a row that is False adds exactly zero, even where it holds NaN.
      keys: PRNG keys, one per example.
      metric: positive semi-definite, one per example, such as
        meta.fisher.standardised_metric; the error becomes d^T metric d / Z with d = output -
        target. None is the identity.

    Returns:
      (sum, count): scalars, float32. Add both over devices, then divide once.

    Raises:
      ValueError: unknown prediction.
    """
    # Masked rows are zero before the network too: in the gradient, 0 * NaN would be NaN.
    z0 = jnp.where(mask[:, None], z0, 0)
    condition, process = keep_sentences(condition, mask), denoising.process
    t, noise, keep = _draw(keys, process.num_steps, z0=z0, drop_rate=denoising.drop_rate)
    target = prediction_target(process, z0, t=t, noise=noise, prediction=denoising.prediction)
    output = predict_fn(diffuse(process, z0, t=t, noise=noise), t, condition, keep)
    error = jnp.where(mask, _errors(output - target, mask, metric), 0)
    return jnp.sum(error), jnp.sum(mask, dtype=error.dtype)


def _errors(difference: jax.Array, mask: jax.Array, metric: jax.Array | None) -> jax.Array:
    """[B]: the mean over Z of differences [B, Z] squared, or by a metric [B, Z, Z]."""
    if metric is None:
        return jnp.mean(difference * difference, axis=-1)
    metric = jnp.where(mask[:, None, None], metric, 0)
    return jnp.mean(difference * jnp.einsum("bij,bj->bi", metric, difference), axis=-1)


def _draw(keys, num_steps, *, z0, drop_rate):
    """(t [B] int32, noise [B, Z], keep [B] bool), row b from keys[b] alone."""

    def draw_one(key):
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        t = jax.random.randint(time_key, (), 0, num_steps, jnp.int32)
        noise = jax.random.normal(noise_key, z0.shape[1:], z0.dtype)
        return t, noise, jax.random.bernoulli(drop_key, 1 - drop_rate)

    return jax.vmap(draw_one)(keys)
