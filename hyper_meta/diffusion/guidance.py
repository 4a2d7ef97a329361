"""Guidance of a denoiser: by its condition (classifier-free), by a classifier of noisy latents, and
by a support loss (few-shot).

Axes: B batch, Z latent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyper_meta.core.losses import normalise
from hyper_meta.core.types import Array, Scalar, SentenceFeatures
from hyper_meta.diffusion.noise import NoiseProcess, decode_prediction, levels
from hyper_meta.diffusion.samplers import DenoiseFn


def classifier_free(
    predict_fn: Callable[..., jax.Array],
    process: NoiseProcess,
    *,
    condition: SentenceFeatures,
    scale: Scalar | Float[Array, " B"] | None,
    prediction: str,
) -> DenoiseFn:
    """The guided denoise_fn: (z_t [B, Z], t [B] or [1] int32) -> (z0, eps), each [B, Z].

        eps = (1 - scale) * eps(z_t, t, none) + scale * eps(z_t, t, condition)

    (Ho and Salimans 2022, equation 6, with their w = scale - 1), hence the same mixture of
    scores. Scale 0 is the unconditional model, 1 the conditional, above 1 sharper than either.
    The mixture is taken of the network's outputs: at fixed (z_t, t) both eps and z0 are affine in
    the output, and the weights sum to one, so mixing outputs mixes eps and z0 alike.

    Both questions go through the network in one call of 2B rows.

    Args:
      predict_fn: (z_t [2B, Z], t [2B] or [1] int32, condition of leading axis 2B, keep [2B] bool)
        -> [2B, Z].
      condition: standardised sentences, leading axis B.
      scale: scalar or [B] float32; may be traced, so every scale shares one compilation. None is
        scale 1 in calls of B rows.
      prediction: a key of noise.PREDICTIONS.

    Raises:
      ValueError: unknown prediction, when the denoise_fn is called.
    """
    batch_size = len(condition.pooled)

    def conditional_output(z_t, t):
        return predict_fn(z_t, t, condition, jnp.ones(batch_size, bool))

    def guided_output(z_t, t):
        keep = jnp.arange(2 * batch_size) >= batch_size
        weight = jnp.broadcast_to(scale, (batch_size,))[:, None]
        z_t, conditions = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), (z_t, condition))
        t = t if len(t) == 1 else jnp.concatenate([t, t])
        unconditional, conditional = jnp.split(predict_fn(z_t, t, conditions, keep), 2)
        return (1 - weight) * unconditional + weight * conditional

    def denoise_fn(z_t, t):
        output = (conditional_output if scale is None else guided_output)(z_t, t)
        return decode_prediction(process, z_t, t=t, output=output, prediction=prediction)

    return denoise_fn


def unconditional(
    predict_fn: Callable[..., jax.Array],
    process: NoiseProcess,
    *,
    condition: SentenceFeatures,
    prediction: str,
) -> DenoiseFn:
    """The denoise_fn of the null sentence, scale 0 of `classifier_free` in calls of B rows."""
    dropped = jnp.zeros(len(condition.pooled), bool)

    def denoise_fn(z_t, t):
        output = predict_fn(z_t, t, condition, dropped)
        return decode_prediction(process, z_t, t=t, output=output, prediction=prediction)

    return denoise_fn


def by_classifier(
    denoise_fn: DenoiseFn,
    process: NoiseProcess,
    *,
    log_prob_fn: Callable[[jax.Array, jax.Array], jax.Array],
    scale: Scalar | Float[Array, " B"],
) -> DenoiseFn:
    """The denoise_fn guided by a classifier of noisy latents:

        eps <- eps - scale sigma_t grad_{z_t} log p(condition | z_t)

    which adds the classifier's score to the denoiser's (Dhariwal and Nichol 2021, algorithm 2; the
    scale is their s), and z0 moves by scale sigma^2 / signal of the gradient, so that z_t = signal
    z0 + sigma eps still holds. Scale 1 with an exact classifier is the conditional model.

    Args:
      denoise_fn: see samplers; of the unconditional model.
      log_prob_fn: (z_t [B, Z], t [B] or [1] int32) -> [B], each of its own row.
      scale: scalar or [B]; may be traced.
    """
    gradient = jax.grad(lambda z_t, t: jnp.sum(log_prob_fn(z_t, t)))

    def guided_fn(z_t, t):
        z0, eps = denoise_fn(z_t, t)
        signal, sigma = levels(process, t)
        push = jnp.broadcast_to(scale, z_t.shape[:1])[:, None] * sigma * gradient(z_t, t)
        return z0 + sigma / signal * push, eps - push

    return guided_fn


def few_shot(
    denoise_fn: DenoiseFn,
    process: NoiseProcess,
    *,
    grad_fn: Callable[[jax.Array], jax.Array],
    strength: Scalar | Float[Array, " B"],
) -> DenoiseFn:
    """The denoise_fn pushed down a loss (method.md section 5), row by row:

        eps <- eps + strength ||eps|| grad / ||grad||,   grad = grad_fn(z0)

    and z0 moves by -sigma / signal of that, so that z_t = signal z0 + sigma eps still holds. At the
    noisy end of a process that push is long in z0: let the sampler clip. A gradient of norm below
    1e-6 has no direction and leaves its row alone, as strength 0 does, to the last bit.

    Args:
      denoise_fn: see samplers.
      grad_fn: z0 [B, Z] -> [B, Z], the gradient of each row's loss at its predicted z0, both in
        the units of the denoiser (standardised latents).
      strength: scalar or [B], g; may be traced.
    """

    def guided_fn(z_t, t):
        z0, eps = denoise_fn(z_t, t)
        signal, sigma = levels(process, t)
        size = jnp.broadcast_to(strength, z_t.shape[:1])[:, None]
        size = size * jnp.linalg.norm(eps, axis=-1, keepdims=True)
        push = size * normalise(grad_fn(z0))
        return z0 - sigma / signal * push, eps + push

    return guided_fn
