"""Query accuracy of networks on every task of a table, shape by shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from hyper_meta.core import parallel
from hyper_meta.core.losses import correct_sum
from hyper_meta.core.scores import Scores
from hyper_meta.core.types import Array, TaskBatch
from hyper_meta.data.batching import Batches, BatchShape, choose_shapes, whole_pass
from hyper_meta.data.table import TaskTable, gather, task_shapes
from hyper_meta.meta.inner_loop import InnerLoop, adapt_and_read, adapt_task, task_correct
from hyper_meta.meta.latents import few_shots
from hyper_meta.meta.learners import Learner
from hyper_meta.networks.base import BaseNetwork, answer_logits

jax.tree_util.register_dataclass(Scores)  # so that compiled functions return it

# (params, B tasks, extra [B, ...]) -> out, a pytree of arrays [B, ...].
TaskFn = Callable[[Any, TaskBatch, Any], Any]
# A TaskFn whose out is the logits on the query set, [B, K, N, A] of K samples.
LogitsFn = TaskFn


def compile_pass(
    task_fn: TaskFn, table: TaskTable, *, max_shapes: int, max_examples: int
) -> Callable[..., Any]:
    """Compiles task_fn for passes over tasks of a table, in a few fixed shapes.

    Returns a function (params, extra, rows=None) -> out, a pytree of numpy arrays [n, ...]. params
    are replicated; extra is a pytree of host arrays [n, ...]; rows: [n] int, the tasks in rising
    order, None for all T of the table.
    """
    sizes = task_shapes(table)
    shapes = choose_shapes(sizes, max_shapes)
    passes = whole_pass(sizes, shapes, max_examples=max_examples, multiple=parallel.num_devices())
    replicated = parallel.replicate(table)

    def at_shape(shape: BatchShape) -> Callable:
        def run(params: Any, table: TaskTable, x: tuple[Batches, Any]) -> Any:
            batch, extra = x
            return task_fn(params, gather(table, batch, shape), extra)

        return parallel.compile_map(run)

    compiled = [at_shape(shape) for shape in shapes]

    def whole(params: Any, extra: Any, rows: np.ndarray | None = None) -> Any:
        rows = np.arange(len(sizes)) if rows is None else rows
        place = np.zeros(len(sizes), int)  # of a task in extra
        place[rows] = np.arange(len(rows))
        ids, outputs = [], []
        for run, batches in zip(compiled, passes, strict=True):
            for batch in steps_of(only(batches, rows)):
                out = run(params, replicated, (batch, _rows(extra, place[batch.ids])))
                outputs.append(_rows(out, batch.mask))
                ids.append(batch.ids[batch.mask])
        order = np.argsort(np.concatenate(ids))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[order], *outputs)

    return whole


def only(batches: Batches, rows: Int[np.ndarray, " n"]) -> Batches:
    """The tasks of batches of one shape that are among rows, in as few batches of the same size."""
    member = batches.mask & np.isin(batches.ids, rows)
    size = batches.ids.shape[1]
    num_batches = -(-int(member.sum()) // size)

    def repack(values: np.ndarray) -> np.ndarray:
        packed = np.zeros(num_batches * size, values.dtype)
        packed[: member.sum()] = values[member]
        return packed.reshape(num_batches, size)

    # A row that only fills the batch is a task of it: rows of the pass have data, others may not.
    ids = repack(batches.ids)
    mask = repack(member)
    ids = np.where(mask, ids, ids[:, :1])
    return Batches(batches.shape[:num_batches], ids, mask, repack(batches.window))


def steps_of(batches: Batches) -> Iterator[Batches]:
    """Each batch by itself, with fields [B]; the shape is repeated so that all fields are alike."""
    for shape, ids, mask, window in zip(
        batches.shape, batches.ids, batches.mask, batches.window, strict=True
    ):
        yield Batches(np.full(ids.shape, shape), ids, mask, window)


def _rows(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def scores_of(method: LogitsFn) -> TaskFn:
    """The query `Scores` of a method, [B] float32; correct answers are the mean over samples."""

    def score(params: Any, tasks: TaskBatch, extra: Any) -> Scores:
        correct, count = jax.vmap(correct_sum, in_axes=(1, None, None))(
            method(params, tasks, extra), tasks.query.label, tasks.query.mask
        )
        return Scores(correct.mean(axis=0), count[0])

    return score


def query_logits(
    network: BaseNetwork, weights: Float[Array, "B K P"], tasks: TaskBatch
) -> Float[Array, "B K N A"]:
    """[B, K, P] weights -> [B, K, N, A] logits on the query set."""

    def of_task(weights: jax.Array, task: TaskBatch) -> jax.Array:
        def of_sample(weights: jax.Array) -> jax.Array:
            features = task.query.features
            return network.logits(weights, features, task.answers, task.answer_mask)

        return jax.vmap(of_sample)(weights)

    return jax.vmap(of_task)(weights, tasks)


def clip_method(params: Any, tasks: TaskBatch, extra: Any) -> Float[Array, "B 1 N A"]:
    """CLIP as base model: no network."""
    logits = jax.vmap(answer_logits)(tasks.query.features, tasks.answers, tasks.answer_mask)
    return logits[:, None]


def latent_method(network: BaseNetwork, generate: Callable) -> LogitsFn:
    """Weights generated from given latents: extra is [B, K, Z]; params {"generator": ...}."""

    def method(params: Any, tasks: TaskBatch, extra: jax.Array) -> jax.Array:
        return query_logits(network, generate(params["generator"], extra), tasks)

    return method


def point_method(network: BaseNetwork, generate: Callable) -> LogitsFn:
    """Weights generated from given points: extra has leaves [B, K, ...].

    generate: (params, points of one task, leaves [K, ...]) -> weights [K, P] of the network.
    """
    weights_fn = point_weights(generate)

    def method(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        return query_logits(network, weights_fn(params, tasks, extra), tasks)

    return method


def point_weights(generate: Callable) -> TaskFn:
    """The weights [B, K, P] of given points, see `point_method`."""

    def weights(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        return jax.vmap(generate, (None, 0))(params, extra)

    return weights


def ensemble(method: LogitsFn) -> LogitsFn:
    """The mean of the logits of the K samples, as one: [B, 1, N, A]."""

    def mean_of(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        return method(params, tasks, extra).mean(axis=1, keepdims=True)

    return mean_of


def mean_of_log_probabilities(method: LogitsFn) -> LogitsFn:
    """The mean of the log-probabilities of the K samples, as one: [B, 1, N, A]."""

    def mean_of(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        logits = jax.nn.log_softmax(method(params, tasks, extra), axis=-1)
        return logits.mean(axis=1, keepdims=True)

    return mean_of


def with_answers_shuffled(method: LogitsFn) -> LogitsFn:
    """The method where each answer's text is that of the task's next answer."""

    def shuffled(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        count = tasks.answer_mask.sum(axis=1, keepdims=True)
        position = jnp.arange(tasks.answer_mask.shape[1])
        following = jnp.where(tasks.answer_mask, (position + 1) % jnp.maximum(count, 1), position)
        answers = jnp.take_along_axis(tasks.answers, following[..., None], axis=1)
        return method(params, tasks.replace(answers=answers), extra)

    return shuffled


def adapted_method(learner: Learner, loop: InnerLoop) -> LogitsFn:
    """The network of a learner adapted on the support set; with zero steps, of where it starts."""

    def method(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        def weights(task: TaskBatch) -> jax.Array:
            point = adapt_task(learner, params, task, loop)
            return learner.weights(params, task.question, point)

        return query_logits(learner.network, jax.vmap(weights)(tasks)[:, None], tasks)

    return method


def adaptation_curve(
    learner: Learner, loop: InnerLoop, *, steps: tuple[int, ...], max_shots: int | None
) -> TaskFn:
    """Query scores after each number of steps of an increasing tuple that ends with
    loop.num_steps: (right [B, len(steps)], total [B, 1]).

    The extra of the TaskFn is {"learning_rate": [B] float32, "shots": [B] int32, "key": [B, 2]
    uint32, "start": points with leaves [B, ...] or None for the learner's own}; of the support set,
    `shots` examples of each answer are used. max_shots: static, the most of them; None for all.
    """

    def one_task(params: Any, task: TaskBatch, extra: Any) -> tuple[jax.Array, jax.Array]:
        width, num_answers = len(task.support.mask), len(task.answer_mask)
        if max_shots is not None:
            width = min(width, max_shots * num_answers)
        key = jax.random.wrap_key_data(extra["key"])
        support = few_shots(key, task.support, extra["shots"], width)

        def read(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
            judged = (weights, task.query, task.answers, task.answer_mask)
            return task_correct(learner.network, *judged)

        return adapt_and_read(
            learner,
            params,
            task.replace(support=support),
            dataclasses.replace(loop, learning_rate=extra["learning_rate"]),
            read,
            steps=steps,
            start=extra["start"],
        )

    def curve(params: Any, tasks: TaskBatch, extra: Any) -> tuple[jax.Array, jax.Array]:
        right, total = jax.vmap(one_task, (None, 0, 0))(params, tasks, extra)
        return right, total[:, :1]

    return curve
