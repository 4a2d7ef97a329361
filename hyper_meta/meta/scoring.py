"""Query accuracy of a method on every task of a table, shape by shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from hyper_meta import parallel
from hyper_meta.data.tasks import (
    Batches,
    BatchShape,
    TaskTable,
    choose_shapes,
    gather,
    task_shapes,
    whole_pass,
)
from hyper_meta.losses import correct_sum
from hyper_meta.meta.inner_loop import adapt_tasks
from hyper_meta.models.adapter import adapter_logits, answer_logits
from hyper_meta.types import TaskBatch

# (params, B tasks, extra [B, ...]) -> out, a pytree of arrays [B, ...].
TaskFn = Callable[[Any, TaskBatch, Any], Any]
# The same with out the logits on the query set, [B, K, N, A], K samples.
Method = TaskFn


def compile_pass(
    task_fn: TaskFn, table: TaskTable, *, max_shapes: int, max_examples: int
) -> Callable[[Any, Any], Any]:
    """Compiles task_fn for one pass over all T tasks of a table, in a few fixed shapes.

    Returns a function (params, extra) -> out, a pytree of numpy arrays [T, ...]. params are
    replicated; extra is a pytree of host arrays [T, ...].
    """
    sizes = task_shapes(table)
    shapes = choose_shapes(sizes, max_shapes)
    devices = jax.local_device_count()
    passes = whole_pass(sizes, shapes, max_examples=max_examples, multiple=devices)
    replicated = parallel.replicate(table)

    def at_shape(shape: BatchShape) -> Callable:
        def run(params: Any, table: TaskTable, x: tuple[Batches, Any]) -> Any:
            batch, extra = x
            return task_fn(params, gather(table, batch, shape), extra)

        return parallel.compile_map(run)

    compiled = [at_shape(shape) for shape in shapes]

    def whole(params: Any, extra: Any) -> Any:
        ids, outputs = [], []
        for run, batches in zip(compiled, passes, strict=True):
            for batch in steps_of(batches):
                out = run(params, replicated, (batch, _rows(extra, batch.ids)))
                outputs.append(_rows(out, batch.mask))
                ids.append(batch.ids[batch.mask])
        order = np.argsort(np.concatenate(ids))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[order], *outputs)

    return whole


def steps_of(batches: Batches) -> Iterator[Batches]:
    """Each batch by itself, with fields [B]; the shape is repeated so that all fields are alike."""
    for shape, ids, mask, window in zip(
        batches.shape, batches.ids, batches.mask, batches.window, strict=True
    ):
        yield Batches(np.full(ids.shape, shape), ids, mask, window)


def _rows(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def scores_of(method: Method) -> TaskFn:
    """The query score of a method: (right answers [B], query examples [B]) float32.

    Right answers are the mean over samples.
    """

    def score(params: Any, tasks: TaskBatch, extra: Any) -> tuple[jax.Array, jax.Array]:
        right, total = jax.vmap(correct_sum, in_axes=(1, None, None))(
            method(params, tasks, extra), tasks.query.label, tasks.query.mask
        )
        return right.mean(axis=0), total[0]

    return score


def query_logits(weights: jax.Array, tasks: TaskBatch) -> jax.Array:
    """[B, K, P] weights -> [B, K, N, A] logits on the query set."""
    over_samples = jax.vmap(adapter_logits, in_axes=(0, None, None, None))
    return jax.vmap(over_samples)(weights, tasks.query.features, tasks.answers, tasks.answer_mask)


def clip_method(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
    """CLIP as base model: no adapter."""
    logits = jax.vmap(answer_logits)(tasks.query.features, tasks.answers, tasks.answer_mask)
    return logits[:, None]


def latent_method(generate: Callable) -> Method:
    """Weights generated from given latents: extra is [B, K, Z]; params are the generator's."""

    def method(params: Any, tasks: TaskBatch, extra: jax.Array) -> jax.Array:
        return query_logits(generate(params["generator"], extra), tasks)

    return method


def few_shot_method(generate: Callable, *, num_steps: int, learning_rate: float) -> Method:
    """The latent adapted on the support set from e0."""

    def method(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        latents = adapt_tasks(
            generate, params, tasks, num_steps=num_steps, learning_rate=learning_rate
        )
        return query_logits(generate(params["generator"], latents[:, None]), tasks)

    return method


def conditional_method(generate: Callable) -> Method:
    """Weights from the question embedding; params are those of the conditional hypernetwork."""

    def method(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        return query_logits(generate(params, tasks.question[:, None]), tasks)

    return method
