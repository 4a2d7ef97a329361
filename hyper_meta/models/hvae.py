"""HVAE: a variational autoencoder of adapted weights, whose decoder is a generator like HNet's
(method.md section 4). P here is the width of its input, the components of train/stages/hvae.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from hyper_meta.core.losses import gaussian_kl
from hyper_meta.core.types import Array


class WeightsEncoder(nn.Module):
    """[..., P] float32 -> mean and log-variance of the posterior, [..., Z] float32 each.

    hidden_dims: widths of the ReLU layers. The log-variance starts around -1 (method.md section 4).
    The first layer's 1/sqrt(P) is in the forward pass: with P terms to a sum, steps of Adam on a
    kernel of that scale would be far too long.
    """

    hidden_dims: Sequence[int]
    latent_dim: int

    @nn.compact
    def __call__(
        self, weights: Float[Array, "*B P"]
    ) -> tuple[Float[Array, "*B Z"], Float[Array, "*B Z"]]:
        x = weights / jnp.sqrt(weights.shape[-1])
        kernel_init = nn.initializers.normal(math.sqrt(2))
        for width in self.hidden_dims:
            x = nn.relu(nn.Dense(width, kernel_init=kernel_init)(x))
            kernel_init = nn.initializers.he_normal()
        mean, raw = jnp.split(nn.Dense(2 * self.latent_dim)(x), 2, axis=-1)
        return mean, raw - 1


def sample_posterior(
    mean: Float[Array, "B Z"], logvar: Float[Array, "B Z"], keys: Key[jax.Array, " B"]
) -> Float[Array, "B Z"]:
    """z = mean + exp(logvar / 2) * N(0, I), row b from keys[b] alone: [B, Z] float32."""
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys)
    return mean + jnp.exp(logvar / 2) * noise


def hvae_loss(
    encode: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    decode: Callable[[jax.Array], jax.Array],
    weights: Float[Array, "B P"],
    *,
    beta: float,
    keys: Key[jax.Array, " B"],
) -> tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]:
    """The loss of each example, [ ||decode(z) - x||^2 + beta KL ] / sqrt(P) (method.md section 4).

    Args:
      encode: x [B, P] -> mean, log-variance [B, Z].
      decode: z [B, Z] -> [B, P].
      weights: x, [B, P] float32, divided by their scale s already, or components of that.
      beta: weight of the KL, beta >= 0.
      keys: PRNG keys, one per example.

    Returns:
      The loss [B] float32, and its parts: "error" [B], the squared error summed over the weights,
      and "kl" [B], in nats.
    """
    mean, logvar = encode(weights)
    error = jnp.sum(jnp.square(decode(sample_posterior(mean, logvar, keys)) - weights), axis=-1)
    kl = gaussian_kl(mean, logvar)
    return (error + beta * kl) / jnp.sqrt(weights.shape[-1]), {"error": error, "kl": kl}
