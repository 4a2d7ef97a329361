"""Inner-loop adaptation: plain SGD of a learner, as one differentiable scan.

A task of these functions is a TaskBatch without its axis T; vmap brings it. Groups are TaskBatches
that differ in padding: a generator makes the weights of all their tasks in one product.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hyper_meta.core.losses import correct_sum, cross_entropy_sum
from hyper_meta.core.types import Array, Examples, Scalar, SentenceFeatures, TaskBatch
from hyper_meta.meta.learners import Learner
from hyper_meta.networks.base import BaseNetwork


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """How a task is adapted.

    num_steps: SGD steps; learning_rate: float or traced scalar; first_order: the inner gradients
    are constants (FOMAML, Finn et al. 2017).
    """

    num_steps: int
    learning_rate: Scalar
    first_order: bool = False


def adapt_tasks(learner: Learner, params: Any, groups: Sequence[TaskBatch], loop: InnerLoop) -> Any:
    """The points, leaves [T, ...], of all T tasks of the groups, one group after another: each
    where num_steps SGD steps from the learner's start on the task's support set end."""
    questions = questions_of(groups)

    def start(question: SentenceFeatures) -> Any:
        return learner.start(params, question, loop.num_steps)

    return _descend(learner, params, groups, loop, jax.vmap(start)(questions), _read_nothing)[0]


def adapt_task(
    learner: Learner, params: Any, task: TaskBatch, loop: InnerLoop, *, start: Any = None
) -> Any:
    """The point where num_steps SGD steps on the support set end.

    start: a point, None for the learner's own. Differentiable in params and start.
    """
    return _descend_alone(learner, params, task, loop, start, _read_nothing)[0]


def adapt_and_read(
    learner: Learner,
    params: Any,
    task: TaskBatch,
    loop: InnerLoop,
    read_fn: Callable[[jax.Array], Any],
    *,
    steps: tuple[int, ...],
    start: Any = None,
) -> Any:
    """read_fn(weights [P]) after each number of steps of an increasing tuple that ends with
    loop.num_steps: leaves [len(steps), ...]. Only then is it called."""
    if steps != tuple(sorted(set(steps))) or steps[-1] != loop.num_steps:
        raise ValueError(f"steps={steps}: they must increase and end with {loop.num_steps}")

    def read(point: Any) -> Any:
        return read_fn(learner.weights(params, task.question, point))

    def read_some(points: Any, number: jax.Array) -> Any:
        point = _alone(points)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(read, point))
        # Which step it is does not depend on the task, so under vmap too a read is left out.
        wanted = jnp.isin(number, jnp.array(steps))
        return jax.lax.cond(wanted, read, lambda point: nothing, point)

    end, path = _descend_alone(learner, params, task, loop, start, read_some)
    earlier = jnp.array(steps[:-1], jnp.int32)
    seen = jax.tree.map(lambda xs: xs[earlier], path)
    return jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), seen, read(end))


def _read_nothing(points: Any, number: jax.Array) -> None:
    return None


def _descend_alone(
    learner: Learner, params: Any, task: TaskBatch, loop: InnerLoop, start: Any, read: Callable
) -> tuple[Any, Any]:
    """`_descend` of one task, from a point, or from None for the learner's own start."""
    if start is None:
        start = learner.start(params, task.question, loop.num_steps)
    group, start = jax.tree.map(lambda x: jnp.asarray(x)[None], (task, start))
    points, path = _descend(learner, params, [group], loop, start, read)
    return _alone(points), path


def _alone(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def _descend(
    learner: Learner,
    params: Any,
    groups: Sequence[TaskBatch],
    loop: InnerLoop,
    start: Any,
    read: Callable[[Any, jax.Array], Any],
) -> tuple[Any, Any]:
    """(the last points [T, ...], read(points, number of steps so far) before each step)."""
    questions = questions_of(groups)
    losses_of = jax.vmap(functools.partial(task_loss, learner.network))

    def group_losses(weights: jax.Array, group: TaskBatch) -> jax.Array:
        return losses_of(weights, group.support, group.answers, group.answer_mask)

    def loss_fn(weights: jax.Array) -> jax.Array:
        return by_group(group_losses, weights, groups).sum()

    def step(points: Any, number: jax.Array) -> tuple[Any, Any]:
        moved = learner.step(
            loss_fn, params, questions, points, loop.learning_rate, first_order=loop.first_order
        )
        return moved, read(points, number)

    return jax.lax.scan(step, start, jnp.arange(loop.num_steps))


def questions_of(groups: Sequence[TaskBatch]) -> SentenceFeatures:
    """The questions of all T tasks of the groups, leading axis T, one group after another."""
    questions = [group.question for group in groups]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *questions)


def by_group(fn: Callable, weights: Float[Array, "T P"], groups: Sequence[Any]) -> Any:
    """fn(weights [t, P], group) -> leaves [t, ...] of each group, joined to [T, ...].

    weights: of the tasks of the groups, one group after another, all of the same number.
    """
    parts = jnp.split(weights, len(groups))
    results = [fn(*pair) for pair in zip(parts, groups, strict=True)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *results)


def task_loss(
    network: BaseNetwork,
    weights: Float[Array, " P"],
    examples: Examples,
    answers: Float[Array, "A D"],
    answer_mask: Bool[Array, " A"],
) -> Float[Array, ""]:
    """Mean cross-entropy of one task: [] float32 in nats, 0 for a task without examples.

    weights: [P]; examples: fields [N, ...]; answers: [A, D]; answer_mask: [A].
    """
    logits = network.logits(weights, examples.features, answers, answer_mask)
    total, count = cross_entropy_sum(logits, examples.label, examples.mask)
    return total / jnp.maximum(count, 1)


def task_correct(
    network: BaseNetwork,
    weights: Float[Array, " P"],
    examples: Examples,
    answers: Float[Array, "A D"],
    answer_mask: Bool[Array, " A"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(right answers, examples) of one task, [] float32 each; shapes as in `task_loss`."""
    logits = network.logits(weights, examples.features, answers, answer_mask)
    return correct_sum(logits, examples.label, examples.mask)
