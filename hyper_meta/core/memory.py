"""What fits into the memory of this machine, before it is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.errors import UserError

# The limits of a container, of either version of control groups.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_bytes() -> int:
    """Bytes of memory that this process may have at most: of the first accelerator, or on CPU of
    the machine or its container."""
    device = parallel.device()
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return int(limit) if limit else 1 << 62
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in LIMITS:
        try:
            known.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return min(known)


def tree_bytes(shapes: Any) -> int:
    """Bytes of the arrays of a pytree, or of its jax.ShapeDtypeStructs."""
    leaves = [leaf for leaf in jax.tree.leaves(shapes) if hasattr(leaf, "dtype")]
    keys = jax.dtypes.prng_key
    plain = [leaf for leaf in leaves if not jax.numpy.issubdtype(leaf.dtype, keys)]
    return sum(int(np.prod(leaf.shape, dtype=object)) * leaf.dtype.itemsize for leaf in plain)


def check_fits(needed: int, what: str, remedy: str) -> None:
    """Raises UserError where so many bytes are more than `memory_bytes`.

    what: what needs them; remedy: what to do.
    """
    most = memory_bytes()
    if needed > most:
        raise UserError(
            f"{what} takes at least {needed / 2**30:,.1f} GiB, there are {most / 2**30:,.1f} GiB "
            f"of memory: {remedy}"
        )
