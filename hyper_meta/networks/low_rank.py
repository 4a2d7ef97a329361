"""A low-rank residual on frozen features: y = x + B A x, of a given rank."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hyper_meta.networks.base import BaseNetwork, lay_out


def low_rank(embed_dim: int, *, rank: int, blend: float) -> BaseNetwork:
    """The residual of this rank r: P = 2 D r weights."""
    layers = lay_out([("A", (embed_dim, rank)), ("B", (rank, embed_dim))])

    def adapt(weights: jax.Array, features: jax.Array) -> jax.Array:
        """y = x + B (A x / sqrt(D)) / sqrt(r), weights [P] of unit scale."""
        a, b = jnp.split(weights, [layers[1].start])
        inner = features @ a.reshape(layers[0].shape) / jnp.sqrt(embed_dim)
        return features + inner @ b.reshape(layers[1].shape) / jnp.sqrt(rank)

    return BaseNetwork("low_rank", {"rank": rank, "blend": blend}, embed_dim, layers, adapt)
