"""HyperLDM: latents of a weight generator, sampled from a question (METHOD section 5)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from hyper_meta.diffusion.guidance import classifier_free
from hyper_meta.diffusion.noise import NoiseProcess
from hyper_meta.diffusion.samplers import ddim_sample, ddpm_sample
from hyper_meta.losses import normalise


@struct.dataclass
class Statistics:
    """What latents and questions are standardised by; measured on the training tasks.

    latent_mean, latent_std: [Z] float32; question_mean, question_std: [D] float32; clip: []
    float32, the largest standardised latent entry, to which predictions are held.
    """

    latent_mean: jax.Array
    latent_std: jax.Array
    question_mean: jax.Array
    question_std: jax.Array
    clip: jax.Array


def moments(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation (at least 1e-6) over the first axis of [n, ...] float32."""
    return values.mean(axis=0), jnp.maximum(values.std(axis=0), 1e-6)


def measure(latents: jax.Array, questions: jax.Array) -> Statistics:
    """Statistics of latents [n, Z] and questions [T, D], float32."""
    latent_mean, latent_std = moments(latents)
    question_mean, question_std = moments(questions)
    clip = jnp.abs((latents - latent_mean) / latent_std).max()
    return Statistics(latent_mean, latent_std, question_mean, question_std, clip)


def standardise_latents(statistics: Statistics, latents: jax.Array) -> jax.Array:
    """[..., Z] float32 to mean 0 and deviation 1 over the latent data set."""
    return (latents - statistics.latent_mean) / statistics.latent_std


def standardise_questions(statistics: Statistics, questions: jax.Array) -> jax.Array:
    """[..., D] float32 to mean 0 and deviation 1 over the training questions."""
    return (questions - statistics.question_mean) / statistics.question_std


def question_cosine(statistics: Statistics, asked: jax.Array, known: jax.Array) -> jax.Array:
    """Cosine of the standardised questions asked [n, D] and known [m, D], float32: [n, m]."""
    asked, known = (normalise(standardise_questions(statistics, x)) for x in (asked, known))
    return asked @ known.T


def sample_latents(
    predict_fn: Callable[..., jax.Array],
    process: NoiseProcess,
    statistics: Statistics,
    *,
    questions: jax.Array,
    scale: jax.Array,
    keys: jax.Array,
    prediction: str,
    sampling_steps: int,
) -> jax.Array:
    """One latent per row, in the generator's units: [B, Z] float32.

    predict_fn: see `guidance.classifier_free`; questions: [B, D] float32, raw; scale: [B] float32,
    the guidance scale; keys: [B] PRNG keys. sampling_steps: S samples with DDPM, fewer with DDIM.
    """
    denoise_fn = classifier_free(
        predict_fn,
        process,
        condition=standardise_questions(statistics, questions),
        scale=scale,
        prediction=prediction,
    )
    latent_dim = statistics.latent_mean.shape[0]
    arguments = {"keys": keys, "latent_dim": latent_dim, "clip": statistics.clip}
    if sampling_steps == process.num_steps:
        latents = ddpm_sample(denoise_fn, process, **arguments)
    else:
        latents = ddim_sample(denoise_fn, process, **arguments, num_steps=sampling_steps, eta=0.0)
    return latents * statistics.latent_std + statistics.latent_mean
