"""Several processes of one program, each with devices of its own (jax.distributed).

All processes run the same code on the same data. Only process 0 reads and writes the files of a
work directory. It sends what it has read to the others, so that all take the same decisions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from hyper_meta.core.errors import UserError

PATIENCE = 24 * 3600  # seconds that a process waits for process 0
PIECE = 2**28  # bytes of one message
_waits = itertools.count()


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes of a run. To be called before anything is computed.

    With None for all three, JAX asks the cluster (Cloud TPU, Slurm, Open MPI, Kubernetes).

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: how many processes the run has.
      process_id: the number of this process, from 0.

    Raises:
      UserError: the processes cannot be joined.
    """
    # JAX's own handler would swallow the SIGTERM that train.loop waits for.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run cannot be joined ({error}): start all of them with the "
            "same command, and where they do not find each other, with --coordinator HOST:PORT "
            "--num-processes N --process-id I"
        ) from error


def is_main() -> bool:
    """Whether this is process 0, which reads and writes files and prints."""
    return jax.process_index() == 0


def from_main(fn: Callable[[], Any]) -> Any:
    """The value of fn(), which process 0 alone calls and sends to all processes.

    Args:
      fn: () -> dicts, lists, strings, numbers, None and numpy arrays.

    Raises:
      UserError: in the other processes, where fn raises in process 0; process 0 raises fn's error.
    """
    if jax.process_count() == 1:
        return fn()
    sent, failure = b"", None
    if is_main():
        try:
            sent = serialization.msgpack_serialize({"value": fn()})
        except Exception as error:  # the others must not wait in vain
            failure = error
            sent = serialization.msgpack_serialize({"failed": f"process 0: {error}"})
    received = serialization.msgpack_restore(_broadcast(sent))
    if failure is not None:
        raise failure
    if "failed" in received:
        raise UserError(received["failed"])
    return received["value"]


def main_first(fn: Callable[[], Any]) -> Any:
    """The value of fn(), called by process 0 first and by the others afterwards.

    So the others find on a shared disk the files that process 0 has written.
    """
    if jax.process_count() == 1:
        return fn()
    results = []
    from_main(lambda: results.append(fn()))
    return results[0] if is_main() else fn()


def largest(number: int) -> int:
    """The largest of the numbers of all processes, int32."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def gather_rows(tree: Any) -> Any:
    """Numpy leaves [processes * n, ...], joined from the leaves [n, ...] of all processes."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True))


def _broadcast(sent: bytes) -> bytes:
    """The bytes of process 0. A collective times out early, so all wait for process 0 first."""
    from orbax.checkpoint import multihost  # which takes long to import

    everyone = set(range(jax.process_count()))
    multihost.sync_global_processes(f"main_{next(_waits)}", timeout=PATIENCE, processes=everyone)
    size = int(multihost_utils.broadcast_one_to_all(np.uint32(len(sent))))
    parts = []
    for start in range(0, size, PIECE):
        piece = sent[start : start + PIECE]
        # A power of two, since every size is compiled.
        room = min(PIECE, 1 << max(10, (size - start - 1).bit_length()))
        padded = np.frombuffer(piece.ljust(room, b"\0"), np.uint8)
        parts.append(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
    return b"".join(parts)[:size]
