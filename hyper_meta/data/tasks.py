"""Tasks: the record every data set gives, one table of all of them on the device, and ragged
tasks as batches of a few fixed shapes.

The table is ragged and unpadded (flat arrays with offsets); `gather` pads on the device to the
shape of a batch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from hyper_meta.core.types import Examples, TaskBatch, UserError

MOST_UNITS = 64  # that batches of many tasks are cut into


@dataclasses.dataclass(frozen=True)
class Task:
    """One task as a data set gives it.

    sentence: the question; answers: candidate answers; template: sentence with {} for an answer;
    family, group: for reports; support, query: [(image id, index into answers), ...].
    """

    sentence: str
    answers: tuple[str, ...]
    template: str
    family: str
    group: str
    support: tuple[tuple[str, int], ...]
    query: tuple[tuple[str, int], ...]

    def prompts(self) -> list[str]:
        """The template filled with each answer (plainly: an answer may hold braces)."""
        return [self.template.replace("{}", answer) for answer in self.answers]


def hold_out(tasks: Sequence[Task], share: float, *, seed: int) -> dict[str, list[Task]]:
    """{"train" | "validation": tasks}: a share in (0, 1) of training tasks for validation, drawn by
    the seed alone and of the group "validation". Raises UserError where either would be empty."""
    num_validation = round(share * len(tasks)) if 0 < share < 1 else 0
    if not 0 < num_validation < len(tasks):
        raise UserError(
            f"validation_share={share} of {len(tasks)} training tasks given, a share in (0, 1) "
            "that leaves tasks for both training and validation is expected"
        )
    chosen = set(np.random.default_rng(seed).permutation(len(tasks))[:num_validation].tolist())
    return {
        "train": [task for row, task in enumerate(tasks) if row not in chosen],
        "validation": [
            dataclasses.replace(task, group="validation")
            for row, task in enumerate(tasks)
            if row in chosen
        ],
    }


def without_images(tasks: Sequence[Task], missing: Collection[str]) -> list[Task]:
    """The tasks without the examples of some images, and without those that keep no support or no
    query example."""
    kept = []
    for task in tasks:
        support, query = (
            tuple(item for item in part if item[0] not in missing)
            for part in (task.support, task.query)
        )
        if support and query:
            kept.append(dataclasses.replace(task, support=support, query=query))
    return kept


@struct.dataclass
class TaskTable:
    """T tasks with their features, for the device.

    image_features: [I, D] float32; question_features: [T, D] float32; answer_features: [R, D]
    float32, the answers of all tasks one after another; item_image, item_label: [M] int32, each
    task's support examples and then its query examples, one task after another; item_offset,
    support_size, query_size, answer_offset, answer_count: [T] int32.
    """

    image_features: jax.Array
    question_features: jax.Array
    answer_features: jax.Array
    item_image: jax.Array
    item_label: jax.Array
    item_offset: jax.Array
    support_size: jax.Array
    query_size: jax.Array
    answer_offset: jax.Array
    answer_count: jax.Array


@dataclasses.dataclass(frozen=True)
class DataSet:
    """tasks and tables by split ("train", "validation", "test"); source: hashes of their origin,
    "dataset" and "encoder"."""

    tasks: dict[str, list[Task]]
    tables: dict[str, TaskTable]
    source: dict[str, str]


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
    members: tuple[np.ndarray, ...]


@struct.dataclass
class Batches:
    """S batches of B tasks; inside a step, one batch.

    shape: [S] int32, index into the shapes or layouts; ids: [S, B] int32 rows of the table; mask:
    [S, B] bool, False for a row that only fills the batch; window: [S, B] int32, see `gather`.
    """

    shape: np.ndarray
    ids: np.ndarray
    mask: np.ndarray
    window: np.ndarray


def build_table(
    tasks: Sequence[Task],
    *,
    image_ids: Sequence[str],
    image_features: np.ndarray,
    sentences: Sequence[str],
    sentence_features: np.ndarray,
) -> TaskTable:
    """Joins tasks with the features of their images and sentences.

    image_features: [I, D] float32, in the order of image_ids; sentence_features: [n, D] float32, in
    the order of sentences. Raises UserError where a task has an image or sentence without features.
    """
    image_row = {image: row for row, image in enumerate(image_ids)}
    sentence_row = {sentence: row for row, sentence in enumerate(sentences)}
    items = [item for task in tasks for item in (*task.support, *task.query)]
    prompts = [prompt for task in tasks for prompt in task.prompts()]
    try:
        item_image = [image_row[image] for image, _ in items]
        question_rows = [sentence_row[task.sentence] for task in tasks]
        prompt_rows = [sentence_row[prompt] for prompt in prompts]
    except KeyError as missing:
        raise UserError(f"no features for {missing}: rebuild the feature store") from None
    support_size = np.array([len(task.support) for task in tasks], np.int32)
    query_size = np.array([len(task.query) for task in tasks], np.int32)
    answer_count = np.array([len(task.answers) for task in tasks], np.int32)
    return TaskTable(
        image_features=image_features,
        question_features=sentence_features[question_rows],
        answer_features=sentence_features[prompt_rows],
        item_image=np.array(item_image, np.int32),
        item_label=np.array([label for _, label in items], np.int32),
        item_offset=_offsets(support_size + query_size),
        support_size=support_size,
        query_size=query_size,
        answer_offset=_offsets(answer_count),
        answer_count=answer_count,
    )


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)


def gather(table: TaskTable, batch: Batches, shape: BatchShape) -> TaskBatch:
    """Pads the tasks of one batch to a shape, on the device.

    batch: fields [B]. Where a task has more examples than the shape holds, a window of them is
    taken, starting at example `batch.window` modulo their number; every other task comes whole.
    Padded features are zero. Returns a TaskBatch of B tasks.
    """
    ids, mask = batch.ids, batch.mask
    start, num_support = table.item_offset[ids], table.support_size[ids]
    answer = table.answer_offset[ids][:, None] + jnp.arange(shape.answers)
    answer_mask = jnp.arange(shape.answers) < table.answer_count[ids][:, None]
    answers = table.answer_features[jnp.minimum(answer, len(table.answer_features) - 1)]
    read = functools.partial(_gather_examples, table, batch)
    return TaskBatch(
        question=table.question_features[ids],
        answers=jnp.where(answer_mask[..., None], answers, 0),
        answer_mask=answer_mask,
        support=read(start, num_support, shape.support),
        query=read(start + num_support, table.query_size[ids], shape.query),
        mask=mask,
    )


def _gather_examples(
    table: TaskTable, batch: Batches, start: jax.Array, size: jax.Array, width: int
) -> Examples:
    """Up to `width` of the flat items start[b] : start[b] + size[b] of each task, padded."""
    column = jnp.arange(width)
    there = (column < size[:, None]) & batch.mask[:, None]
    first = jnp.where(size > width, batch.window, 0)
    item = (first[:, None] + column) % jnp.maximum(size, 1)[:, None] + start[:, None]
    item = jnp.where(there, item, 0)
    features = table.image_features[table.item_image[item]]
    return Examples(
        features=jnp.where(there[..., None], features, 0),
        label=jnp.where(there, table.item_label[item], 0),
        mask=there,
    )


def perturb(tasks: TaskBatch, keys: jax.Array, noise: float) -> TaskBatch:
    """Adds Gaussian noise to the image features of B tasks, against memorising images.

    keys: [B] PRNG keys, one a task; noise: its deviation, as a share of the root mean square of
    each image's features. Padding stays zero.
    """

    def add(examples: Examples, keys: jax.Array) -> Examples:
        features = examples.features
        draws = jax.vmap(lambda key: jax.random.normal(key, features.shape[1:]))(keys)
        scale = noise * jnp.sqrt(jnp.mean(features**2, axis=-1, keepdims=True))
        return examples.replace(features=features + scale * draws)

    support_keys, query_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    return tasks.replace(
        support=add(tasks.support, support_keys), query=add(tasks.query, query_keys)
    )


def task_shapes(table: TaskTable) -> np.ndarray:
    """[T, 3] int64: support examples, query examples and answers of each task."""
    columns = (table.support_size, table.query_size, table.answer_count)
    return np.stack([np.asarray(column, np.int64) for column in columns], axis=1)


def cap_sizes(sizes: np.ndarray, max_support: int, max_query: int) -> np.ndarray:
    """Sizes [T, 3] when a training step reads at most so many examples of a task."""
    return np.minimum(sizes, [max_support, max_query, np.iinfo(np.int64).max])


def choose_shapes(sizes: np.ndarray, max_shapes: int) -> list[BatchShape]:
    """The max_shapes (or fewer) batch shapes that waste the least padded work on these tasks.

    sizes: [T, 3] as of `task_shapes`. Tasks sorted by their number of examples are cut into
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


def smallest_fit(sizes: np.ndarray, shapes: Sequence[BatchShape]) -> np.ndarray:
    """For each task the index of the first shape that fits it: [T] int64."""
    limits = np.array([dataclasses.astuple(shape) for shape in shapes])
    return np.argmax((sizes[:, None] <= limits).all(axis=2), axis=1)


def choose_layouts(
    sizes: np.ndarray, batch_size: int, *, max_layouts: int, num_groups: int
) -> list[Layout]:
    """The max_layouts (or fewer) layouts whose batches hold all tasks with the least padded work.

    sizes: [T, 3] as of `task_shapes`. Tasks sorted by their number of examples are cut into runs of
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
    sizes: np.ndarray, shapes: Sequence[BatchShape], *, max_examples: int, multiple: int
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
    batches: Sequence[Batches], sizes: np.ndarray, layouts: Sequence[Sequence[BatchShape]]
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
