"""Ragged tasks as batches of a few fixed shapes: which tasks, padded to what, in which order."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import struct
from jaxtyping import Bool, Int

from hyper_meta.core.types import Array

MOST_UNITS = 64  # that batches of many tasks are cut into


@dataclasses.dataclass(frozen=True, order=True)
class BatchShape:
    """Padded sizes of a batch of tasks: examples of each subset, and answers."""

    support: int
    query: int
    answers: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Of like training batches: the i-th task of a batch is padded to shapes[i modulo their
    number]; members: for each shape the tasks that are padded to it, rows of the table."""

    shapes: tuple[BatchShape, ...]
    members: tuple[Int[np.ndarray, " _"], ...]


@struct.dataclass
class Batches:
    """S batches of B tasks; inside a step, one batch.

    shape: [S] int32, index into the shapes or layouts; ids: [S, B] int32 rows of the table; mask:
    [S, B] bool, False for a row that only fills the batch; window: [S, B] int32, see `gather`.
    """

    shape: Int[Array, " ..."]
    ids: Int[Array, "*S B"]
    mask: Bool[Array, "*S B"]
    window: Int[Array, "*S B"]


def cap_sizes(
    sizes: Int[np.ndarray, "T 3"], max_support: int, max_query: int
) -> Int[np.ndarray, "T 3"]:
    """Sizes [T, 3] when a training step reads at most so many examples of a task."""
    return np.minimum(sizes, [max_support, max_query, np.iinfo(np.int64).max])


def choose_shapes(sizes: Int[np.ndarray, "T 3"], max_shapes: int) -> list[BatchShape]:
    """The max_shapes (or fewer) batch shapes that waste the least padded work on these tasks.

    sizes: as of `task_shapes`. Tasks sorted by their number of examples are cut into
    consecutive runs, each padded to its own maxima; the cuts are optimal, work being counted as
    padded examples. Returns shapes in ascending order, the last fits all.
    """
    different, counts = np.unique(sizes, axis=0, return_counts=True)
    order = np.argsort(different[:, :2].sum(axis=1), kind="stable")
    ordered = different[order]
    smaller = np.concatenate([[0], np.cumsum(counts[order])])  # tasks before each

    def work(stop: int) -> np.ndarray:
        # The widest task of ordered[start:stop], for every start at once.
        widest = np.maximum.accumulate(ordered[:stop][::-1], axis=0)[::-1]
        return (smaller[stop] - smaller[:stop]) * (widest[:, 0] + widest[:, 1])

    shapes = [ordered[run].max(axis=0) for run in _best_runs(work, len(ordered), max_shapes)]
    # A shape also fits every smaller task, so that left-over tasks can fill a larger batch.
    growing = np.maximum.accumulate(np.array(shapes), axis=0)
    return [BatchShape(*map(int, row)) for row in growing]


def _best_runs(work: Callable[[int], np.ndarray], num: int, max_runs: int) -> list[slice]:
    """Cuts num things into at most max_runs runs of the least work (dynamic programming).

    work: stop -> [stop], that of the run from each start to stop.
    """
    best = np.full((max_runs + 1, num + 1), np.inf)
    best[0, 0] = 0
    cut = np.zeros((max_runs + 1, num + 1), int)
    for stop in range(1, num + 1):
        of_run = work(stop)
        for k in range(1, max_runs + 1):
            total = best[k - 1, :stop] + of_run
            cut[k, stop] = np.argmin(total)
            best[k, stop] = total[cut[k, stop]]
    runs, stop = [], num
    for k in range(int(np.argmin(best[:, num])), 0, -1):
        runs.append(slice(int(cut[k, stop]), stop))
        stop = runs[-1].start
    return runs[::-1]


def smallest_fit(
    sizes: Int[np.ndarray, "T 3"], shapes: Sequence[BatchShape]
) -> Int[np.ndarray, " T"]:
    """For each task the index of the first shape that fits it: [T] int64."""
    limits = np.array([dataclasses.astuple(shape) for shape in shapes])
    return np.argmax((sizes[:, None] <= limits).all(axis=2), axis=1)


def choose_layouts(
    sizes: Int[np.ndarray, "T 3"], batch_size: int, *, max_layouts: int, num_groups: int
) -> list[Layout]:
    """The max_layouts (or fewer) layouts whose batches hold all tasks with the least padded work.

    sizes: as of `task_shapes`. Tasks sorted by their number of examples are cut into runs of
    whole batches, the largest first, and each run into num_groups groups of like size, each padded
    to its own maxima; num_groups divides batch_size. Only the last batches miss tasks.
    """
    order = np.argsort(-sizes[:, :2].sum(axis=1), kind="stable")
    num_batches = -(-len(order) // batch_size)
    unit = -(-num_batches // MOST_UNITS)  # runs are of so many batches

    def rows(start: int, stop: int) -> int:
        """How many a group has in the batches of the units from start to stop."""
        return (min(unit * stop, num_batches) - unit * start) * batch_size // num_groups

    def groups(start: int, stop: int) -> list[np.ndarray]:
        """The tasks of each group; of the last ones there may be fewer than rows."""
        edges = unit * start * batch_size + rows(start, stop) * np.arange(num_groups + 1)
        return [order[first:last] for first, last in itertools.pairwise(edges)]

    def work(stop: int) -> np.ndarray:
        def of_run(start: int) -> int:
            return sum(sum(_widest(sizes[part])[:2]) for part in groups(start, stop))

        return np.array([rows(start, stop) * of_run(start) for start in range(stop)])

    runs = _best_runs(work, -(-num_batches // unit), max_layouts)
    parts = [groups(run.start, run.stop) for run in runs]
    return [
        Layout(tuple(BatchShape(*_widest(sizes[part])) for part in run), tuple(run))
        for run in parts
    ]


def merge_shapes(shapes: Sequence[BatchShape], num_tasks: int) -> list[BatchShape]:
    """The shapes of a device's num_tasks of a batch with these shapes: fewer and wider ones, where
    it has too few tasks to have as many of each."""
    limits = np.array([dataclasses.astuple(shape) for shape in shapes])
    num_groups = math.gcd(len(shapes), num_tasks)
    merged = limits.reshape(-1, num_groups, 3).max(axis=0)
    return [BatchShape(*row) for row in merged.tolist()]


def _widest(sizes: np.ndarray) -> list[int]:
    """The largest of [n, 3] sizes, [1, 1, 1] of none."""
    return sizes.max(axis=0, initial=1).tolist()


def pack(rng: np.random.Generator, layouts: Sequence[Layout], batch_size: int) -> Batches:
    """One pass over the tasks of the layouts in random order, its batches shuffled."""
    parts = []
    for index, layout in enumerate(layouts):
        num_batches = -(-sum(map(len, layout.members)) // batch_size)
        num_groups = len(layout.members)
        ids = np.zeros((num_batches * batch_size // num_groups, num_groups), np.int32)
        mask = np.zeros(ids.shape, bool)
        for group, members in enumerate(layout.members):
            ids[: len(members), group] = rng.permutation(members)
            mask[: len(members), group] = True
        ids, mask = (x.reshape(num_batches, batch_size) for x in (ids, mask))
        window = rng.integers(2**30, size=ids.shape, dtype=np.int32)
        parts.append(Batches(np.full(num_batches, index, np.int32), ids, mask, window))
    batches = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    shuffled = rng.permutation(len(batches.shape))
    return jax.tree.map(lambda leaf: leaf[shuffled], batches)


def scheduled_batches(
    seed: int, start: int, stop: int, *, layouts: Sequence[Layout], batch_size: int
) -> Batches:
    """The batches of training steps start to stop, pass after pass; they depend on nothing else."""
    num_tasks = sum(len(members) for layout in layouts for members in layout.members)
    per_pass = -(-num_tasks // batch_size)
    first = start // per_pass
    passes = [
        pack(np.random.default_rng([seed, number]), layouts, batch_size)
        for number in range(first, -(-stop // per_pass))
    ]
    rows = slice(start - first * per_pass, stop - first * per_pass)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[rows], *passes)


def whole_pass(
    sizes: Int[np.ndarray, "T 3"], shapes: Sequence[BatchShape], *, max_examples: int, multiple: int
) -> list[Batches]:
    """Every task once, for evaluation: for each shape its batches, none for an unused shape.

    The batches of a shape are alike in size: as few as keep each within max_examples padded
    examples, with at least one task, rounded up to a multiple (the number of devices).
    """
    fit = smallest_fit(sizes, shapes)
    result = []
    for index, shape in enumerate(shapes):
        members = np.flatnonzero(fit == index)
        most = max(1, max_examples // (shape.support + shape.query))
        num_batches = max(1, -(-len(members) // most))
        batch_size = -(-max(1, len(members)) // num_batches)
        batch_size = -(-batch_size // multiple) * multiple
        batches = pack(np.random.default_rng(0), [Layout((shape,), (members,))], batch_size)
        result.append(batches.replace(shape=np.full_like(batches.shape, index)))
    return result


def wasted_share(
    batches: Sequence[Batches],
    sizes: Int[np.ndarray, "T 3"],
    layouts: Sequence[Sequence[BatchShape]],
) -> float:
    """The share of padded examples among all the examples computed, in [0, 1).

    sizes: [T, 3] as of `task_shapes`; layouts: the shapes of each, as of `Layout`; examples beyond
    a task's shape are not computed.
    """
    limits = np.array([[dataclasses.astuple(shape) for shape in shapes] for shapes in layouts])
    useful = computed = 0
    for part in batches:
        group = np.arange(part.ids.shape[1]) % limits.shape[1]
        limit = limits[part.shape][:, group, :2]
        useful += (np.minimum(sizes[part.ids, :2], limit) * part.mask[..., None]).sum()
        computed += limit.sum()
    return 1 - float(useful) / float(computed)
