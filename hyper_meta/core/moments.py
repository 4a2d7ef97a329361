"""Means and deviations to standardise with."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from hyper_meta.core.types import Array

# A dimension that hardly varies over the data is no signal: a new point that differs there would
# lie far from all of them. Its deviation counts as this share of that of the others.
SMALLEST_DEVIATION = 0.01


def moments(values: Float[Array, " n *X"]) -> tuple[Float[Array, "*X"], Float[Array, "*X"]]:
    """Mean and deviation, see `floor_deviation`, over the first axis of [n, ...] float32."""
    return values.mean(axis=0), floor_deviation(values.std(axis=0))


def floor_deviation(deviation: Float[Array, "*X"]) -> Float[Array, "*X"]:
    """[...] float32 deviations, each at least SMALLEST_DEVIATION of their root mean square."""
    share = SMALLEST_DEVIATION * jnp.sqrt(jnp.mean(jnp.square(deviation)))
    return jnp.maximum(deviation, jnp.maximum(share, 1e-6))
