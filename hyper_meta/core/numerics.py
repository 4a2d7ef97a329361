"""The settings of jax that this package's numbers depend on, whatever the process has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def own_numerics() -> Iterator[None]:
    """float32, and the random numbers that training drew. Also a decorator of a function."""
    with (
        jax.enable_x64(False),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield
