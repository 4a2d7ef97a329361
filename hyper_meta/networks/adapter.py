"""The paper's network: a residual adapter on frozen CLIP embeddings (CLIP-Adapter, Gao et al. 2021;
method.md section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from hyper_meta.core.types import Array
from hyper_meta.networks.base import BaseNetwork, lay_out


def adapter(embed_dim: int, *, hidden_dim: int, blend: float) -> BaseNetwork:
    """The adapter of H = hidden_dim hidden units."""
    return BaseNetwork(
        name="adapter",
        settings={"hidden_dim": hidden_dim, "blend": blend},
        embed_dim=embed_dim,
        layers=lay_out(
            [
                ("W1", (embed_dim, hidden_dim)),
                ("b1", (hidden_dim,)),
                ("W2", (hidden_dim, embed_dim)),
                ("b2", (embed_dim,)),
            ]
        ),
        adapt=adapt_features,
    )


def split_weights(
    weights: Shaped[Array, "*B P"], embed_dim: int
) -> tuple[
    Shaped[Array, "*B D H"], Shaped[Array, "*B H"], Shaped[Array, "*B H D"], Shaped[Array, "*B D"]
]:
    """Cuts [..., P] float32 into w1 [..., D, H], b1 [..., H], w2 [..., H, D], b2 [..., D];
    P = 2 D H + H + D."""
    hidden_dim = (weights.shape[-1] - embed_dim) // (2 * embed_dim + 1)
    size, lead = embed_dim * hidden_dim, weights.shape[:-1]
    w1, b1, w2, b2 = jnp.split(weights, [size, size + hidden_dim, 2 * size + hidden_dim], axis=-1)
    return (
        w1.reshape(*lead, embed_dim, hidden_dim),
        b1,
        w2.reshape(*lead, hidden_dim, embed_dim),
        b2,
    )


def adapt_features(
    weights: Float[Array, " P"], features: Float[Array, "N D"]
) -> Float[Array, "N D"]:
    """y = x + W2 relu(W1 x / sqrt(D) + b1) / sqrt(H) + b2.

    weights: [P] float32 of unit scale; features: [N, D] float32. Returns [N, D] float32.
    """
    w1, b1, w2, b2 = split_weights(weights, features.shape[-1])
    hidden = jax.nn.relu(features @ w1 / jnp.sqrt(w1.shape[0]) + b1)
    return features + hidden @ w2 / jnp.sqrt(w2.shape[0]) + b2
