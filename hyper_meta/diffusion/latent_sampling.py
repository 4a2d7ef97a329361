"""HyperLDM: latents of a weight generator, sampled from a question (method.md section 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float

from hyper_meta.core.moments import moments
from hyper_meta.core.types import Array, Scalar, SentenceFeatures
from hyper_meta.diffusion import guidance
from hyper_meta.diffusion.noise import NoiseProcess
from hyper_meta.diffusion.samplers import Noise, ddim_sample, ddpm_sample, from_latents, from_noise
from hyper_meta.models.sentences import (
    SentenceMoments,
    measure_sentences,
    standardise_sentences,
)


@struct.dataclass
class LatentStatistics:
    """What latents and questions are standardised by; measured on the training tasks.

    latent_mean, latent_std: [Z] float32; questions: of those of the tasks; clip: [] float32, the
    largest standardised latent entry, to which predictions are held.
    """

    latent_mean: Float[Array, "*devices Z"]
    latent_std: Float[Array, "*devices Z"]
    questions: SentenceMoments
    clip: Scalar | Float[Array, " devices"]


def latent_statistics(
    latents: Float[Array, "n Z"], questions: SentenceFeatures
) -> LatentStatistics:
    """Statistics of latents [n, Z] float32 and of questions with leading axis T."""
    latent_mean, latent_std = moments(latents)
    clip = jnp.abs((latents - latent_mean) / latent_std).max()
    return LatentStatistics(latent_mean, latent_std, measure_sentences(questions), clip)


def standardise_latents(
    statistics: LatentStatistics, latents: Float[Array, "*B Z"]
) -> Float[Array, "*B Z"]:
    """[..., Z] float32 to mean 0 and deviation 1 over the latent data set."""
    return (latents - statistics.latent_mean) / statistics.latent_std


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How latents are sampled, all static.

    prediction: a key of noise.PREDICTIONS, what the denoiser outputs; sampling_steps: S samples
    with DDPM, fewer with deterministic DDIM; posterior_variance: v in [0, 1], see
    samplers.ddpm_sample, 0 with DDIM; start_time: share of the S steps in (0, 1], 1 starts from
    noise, less from a given latent diffused that far, and takes that share of sampling_steps.

    Raises ValueError for a number outside its range.
    """

    prediction: str
    sampling_steps: int
    posterior_variance: float
    start_time: float

    def __post_init__(self):
        if (
            self.sampling_steps < 1
            or not 0 <= self.posterior_variance <= 1
            or not 0 < self.start_time <= 1
        ):
            raise ValueError(
                "Sampling expects sampling_steps >= 1, posterior_variance in [0, 1] and "
                f"start_time in (0, 1], got {self}"
            )


@dataclasses.dataclass(frozen=True)
class LatentDenoiser:
    """A trained denoiser of standardised latents: predict_fn, see `guidance.classifier_free`."""

    predict_fn: Callable[..., jax.Array]
    process: NoiseProcess
    statistics: LatentStatistics


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Few-shot guidance, see `guidance.few_shot`.

    grad_fn: latents [B, Z] in the generator's units -> [B, Z], the gradient of each row's support
    loss; strength: scalar or [B] float32.
    """

    grad_fn: Callable[[jax.Array], jax.Array]
    strength: Scalar | Float[Array, " B"]


def draw_latents(
    denoiser: LatentDenoiser,
    sampling: Sampling,
    *,
    questions: SentenceFeatures,
    scale: Float[Array, " B"] | None,
    noise: Noise,
    start: Float[Array, " Z"] | Float[Array, "B Z"],
    few_shot: FewShot | None = None,
    log_prob_fn: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Float[Array, "B Z"]:
    """One latent per row, in the generator's units: [B, Z] float32.

    Args:
      questions: leading axis B, as the encoder gives them.
      scale: [B] float32, the classifier-free guidance scale; None is 1, at half the work; of the
        classifier where there is one.
      noise: of the rows.
      start: [Z] or [B, Z] float32 in the generator's units, e0; unused at start_time 1.
      few_shot: None for zero-shot samples.
      log_prob_fn: a classifier of standardised noisy latents, see `guidance.by_classifier`, that
        guides the unconditional denoiser; None: the denoiser reads the questions.

    Raises:
      ValueError: unknown prediction, more sampling steps than S, or a posterior variance where
        DDIM samples.
    """
    process, statistics = denoiser.process, denoiser.statistics
    condition = standardise_sentences(statistics.questions, questions)
    model = {"condition": condition, "prediction": sampling.prediction}
    if log_prob_fn is None:
        denoise_fn = guidance.classifier_free(denoiser.predict_fn, process, scale=scale, **model)
    else:
        denoise_fn = guidance.by_classifier(
            guidance.unconditional(denoiser.predict_fn, process, **model),
            process,
            log_prob_fn=log_prob_fn,
            scale=scale,
        )
    if few_shot is not None:
        denoise_fn = _few_shot(denoise_fn, process, statistics, few_shot)
    latents = _reverse(denoise_fn, denoiser, sampling, noise=noise, start=start)
    return latents * statistics.latent_std + statistics.latent_mean


def _few_shot(denoise_fn, process, statistics, few_shot):
    """The denoise_fn guided by a gradient in the generator's units; d/dz = std d/de."""

    def grad_fn(z0):
        latents = z0 * statistics.latent_std + statistics.latent_mean
        return few_shot.grad_fn(latents) * statistics.latent_std

    return guidance.few_shot(denoise_fn, process, grad_fn=grad_fn, strength=few_shot.strength)


def _reverse(denoise_fn, denoiser, sampling, *, noise, start):
    """[B, Z], standardised: the reverse process that `sampling` describes."""
    process, statistics = denoiser.process, denoiser.statistics
    if sampling.sampling_steps > process.num_steps:
        raise ValueError(
            f"sampling_steps must lie in [1, {process.num_steps}], got {sampling.sampling_steps}"
        )
    ancestral = sampling.sampling_steps == process.num_steps
    if sampling.posterior_variance and not ancestral:
        raise ValueError(
            f"posterior_variance {sampling.posterior_variance} needs DDPM, which takes all "
            f"{process.num_steps} steps, got sampling_steps={sampling.sampling_steps}"
        )
    latent_dim = statistics.latent_mean.shape[0]
    if sampling.start_time == 1:
        begin = from_noise(process, noise, latent_dim=latent_dim)
    else:
        latents = jnp.broadcast_to(start, (len(noise.keys), latent_dim))
        begin = from_latents(
            process,
            noise,
            latents=standardise_latents(statistics, latents),
            time=max(1, round(sampling.start_time * process.num_steps)) - 1,
        )
    arguments = {"start": begin, "clip": statistics.clip}
    if ancestral:
        variance = sampling.posterior_variance
        return ddpm_sample(denoise_fn, process, **arguments, posterior_variance=variance)
    share = (begin.time + 1) / process.num_steps
    num_steps = max(1, round(sampling.sampling_steps * share))
    return ddim_sample(denoise_fn, process, **arguments, num_steps=num_steps, eta=0.0)
