"""One table of tasks with their features, for the device.

The table is ragged and unpadded (flat arrays with offsets); `gather` pads on the device to the
shape of a batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int, Key

from hyper_meta.core.types import Array, Examples, SentenceFeatures, TaskBatch, UserError
from hyper_meta.data.batching import Batches, BatchShape
from hyper_meta.data.features import Features
from hyper_meta.data.tasks import Task


@struct.dataclass
class TaskTable:
    """T tasks with their features, for the device.

    image_features: of I images; questions: leading axis T; answer_features: of the answers of all
    tasks, one task after another; item_image, item_label: each task's support examples and then its
    query examples, one task after another; item_offset, answer_offset: where a task begins.
    """

    image_features: Float[Array, "I D"]
    questions: SentenceFeatures
    answer_features: Float[Array, "R D"]
    item_image: Int[Array, " M"]
    item_label: Int[Array, " M"]
    item_offset: Int[Array, " T"]
    support_size: Int[Array, " T"]
    query_size: Int[Array, " T"]
    answer_offset: Int[Array, " T"]
    answer_count: Int[Array, " T"]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """tasks and tables by split ("train", "validation", "test"); source: hashes of their origin,
    "dataset", "encoder" and "question_encoder"; encode: n sentences -> their features, leading axis
    n, as the tables have them, None where there is no encoder."""

    tasks: dict[str, list[Task]]
    tables: dict[str, TaskTable]
    source: dict[str, str]
    encode: Callable[[Sequence[str]], SentenceFeatures] | None = None


def build_table(tasks: Sequence[Task], features: Features) -> TaskTable:
    """Joins tasks with the features of their images, questions and answer prompts.

    Raises UserError where a task has an image or sentence without features.
    """
    items = [item for task in tasks for item in (*task.support, *task.query)]
    prompts = [prompt for task in tasks for prompt in task.prompts()]
    question_rows = _rows(features.questions, [task.sentence for task in tasks])
    support_size = np.array([len(task.support) for task in tasks], np.int32)
    query_size = np.array([len(task.query) for task in tasks], np.int32)
    answer_count = np.array([len(task.answers) for task in tasks], np.int32)
    return TaskTable(
        image_features=features.image_features,
        questions=jax.tree.map(lambda leaf: leaf[question_rows], features.question_features),
        answer_features=features.prompt_features[_rows(features.prompts, prompts)],
        item_image=_rows(features.image_ids, [image for image, _ in items]),
        item_label=np.array([label for _, label in items], np.int32),
        item_offset=_offsets(support_size + query_size),
        support_size=support_size,
        query_size=query_size,
        answer_offset=_offsets(answer_count),
        answer_count=answer_count,
    )


def _rows(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """[n] int32: where each of n wanted names is among names. Raises UserError for one that is
    not."""
    row = {name: number for number, name in enumerate(names)}
    try:
        return np.array([row[name] for name in wanted], np.int32)
    except KeyError as missing:
        raise UserError(f"no features for {missing}: rebuild the feature store") from None


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
        question=jax.tree.map(lambda leaf: leaf[ids], table.questions),
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


def perturb(tasks: TaskBatch, keys: Key[jax.Array, " B"], noise: float) -> TaskBatch:
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


def task_shapes(table: TaskTable) -> Int[np.ndarray, "T 3"]:
    """[T, 3] int64: support examples, query examples and answers of each task."""
    columns = (table.support_size, table.query_size, table.answer_count)
    return np.stack([np.asarray(column, np.int64) for column in columns], axis=1)
