"""From the states of tokens to one vector: the poolings of the sentence-transformers library, by
its names.

Axes: B batch, L tokens, W width. Every mask has its True entries first, at least one in a row.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Bool, Float

from hyper_meta.core.types import Array

States = Float[Array, "B L W"]
Mask = Bool[Array, "B L"]
Pooled = Float[Array, "B W"]


def _cls(states: States, mask: Mask) -> Pooled:
    return states[:, 0]


def _max(states: States, mask: Mask) -> Pooled:
    return jnp.where(mask[..., None], states, -jnp.inf).max(axis=1)


def _mean(states: States, mask: Mask) -> Pooled:
    return _weighted(states, mask)


def _mean_sqrt_len(states: States, mask: Mask) -> Pooled:
    return _weighted(states, mask) * jnp.sqrt(mask.sum(axis=1, keepdims=True))


def _weighted_mean(states: States, mask: Mask) -> Pooled:
    return _weighted(states, mask * (1 + jnp.arange(mask.shape[1])))


def _last_token(states: States, mask: Mask) -> Pooled:
    last = mask.sum(axis=1) - 1
    return jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]


def _weighted(states: States, weights: Array) -> Pooled:
    """The mean over tokens with weights [B, L]."""
    return (states * weights[..., None]).sum(axis=1) / weights.sum(axis=1, keepdims=True)


# In the order in which several are put side by side.
POOLINGS = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}


def pool(
    states: Float[Array, "B L W"], mask: Bool[Array, "B L"], modes: Sequence[str]
) -> Float[Array, "B Dq"]:
    """The poolings of states side by side, Dq = W times their number. modes: keys of POOLINGS."""
    return jnp.concatenate([POOLINGS[mode](states, mask) for mode in modes], axis=-1)


def unit_length(vectors: Float[Array, "B Dq"]) -> Float[Array, "B Dq"]:
    """Vectors at length 1; those shorter than 1e-12 as torch's `normalize` leaves them."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
