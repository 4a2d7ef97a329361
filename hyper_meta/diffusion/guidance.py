"""Classifier-free guidance: one denoiser, asked with and without its condition.

Axes: B batch, D embedding, Z latent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hyper_meta.diffusion.noise import NoiseProcess, decode_prediction
from hyper_meta.diffusion.samplers import DenoiseFn


def classifier_free(
    predict_fn: Callable[..., jax.Array],
    process: NoiseProcess,
    *,
    condition: jax.Array,
    scale: float | jax.Array,
    prediction: str,
) -> DenoiseFn:
    """The guided denoise_fn: (z_t [B, Z], t [B] int32) -> (z0 [B, Z], eps [B, Z]).

        eps = (1 - scale) * eps(z_t, t, none) + scale * eps(z_t, t, condition)

    (Ho and Salimans 2022, equation 6, with their w = scale - 1), hence the same mixture of
    scores. Scale 0 is the unconditional model, 1 the conditional, above 1 sharper than either.
    The mixture is taken of the network's outputs: at fixed (z_t, t) both eps and z0 are affine in
    the output, and the weights sum to one, so mixing outputs mixes eps and z0 alike.

    Both questions go through the network in one call of 2B rows.

    Args:
      predict_fn: (z_t [2B, Z], t [2B] int32, condition [2B, D], keep [2B] bool) -> [2B, Z].
      condition: [B, D] float32.
      scale: scalar or [B] float32; may be traced, so every scale shares one compilation.
      prediction: a key of noise.PREDICTIONS.

    Raises:
      ValueError: unknown prediction, when the denoise_fn is called.
    """
    batch_size = condition.shape[0]
    keep = jnp.arange(2 * batch_size) >= batch_size
    weight = jnp.broadcast_to(scale, (batch_size,))[:, None]

    def denoise_fn(z_t, t):
        twice = [jnp.concatenate([array, array]) for array in (z_t, t, condition)]
        unconditional, conditional = jnp.split(predict_fn(*twice, keep), 2)
        output = (1 - weight) * unconditional + weight * conditional
        return decode_prediction(process, z_t, t=t, output=output, prediction=prediction)

    return denoise_fn
