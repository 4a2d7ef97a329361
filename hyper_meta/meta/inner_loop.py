"""Inner-loop adaptation: plain SGD of a learner on one task, as one differentiable scan.

The tasks of these functions are a TaskBatch without its axis T; vmap brings it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.losses import correct_sum, cross_entropy_sum
from hyper_meta.meta.learners import Learner
from hyper_meta.models.adapter import adapter_logits
from hyper_meta.types import Examples, TaskBatch


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """How a task is adapted.

    num_steps: SGD steps; learning_rate: float or traced scalar; first_order: the inner gradients
    are constants (FOMAML, Finn et al. 2017); blend: see `models.adapter.adapter_logits`.
    """

    num_steps: int
    learning_rate: float | jax.Array
    first_order: bool = False
    blend: float = 1.0


def adapt_task(
    learner: Learner, params: Any, task: TaskBatch, loop: InnerLoop, *, start: Any = None
) -> Any:
    """The point where num_steps SGD steps on the support set end.

    start: a point, None for the learner's own. Differentiable in params and start.
    """

    def never(point: Any, _: jax.Array) -> None:
        return None

    return _descend(learner, params, task, loop, start, never)[0]


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

    def read_some(point: Any, number: jax.Array) -> Any:
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(read, point))
        # Which step it is does not depend on the task, so under vmap too a read is left out.
        wanted = jnp.isin(number, jnp.array(steps))
        return jax.lax.cond(wanted, read, lambda point: nothing, point)

    end, path = _descend(learner, params, task, loop, start, read_some)
    earlier = jnp.array(steps[:-1], jnp.int32)
    seen = jax.tree.map(lambda xs: xs[earlier], path)
    return jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), seen, read(end))


def _descend(
    learner: Learner,
    params: Any,
    task: TaskBatch,
    loop: InnerLoop,
    start: Any,
    read: Callable[[Any, jax.Array], Any],
) -> tuple[Any, Any]:
    """(the last point, read(point, number of steps so far) before each step)."""
    if start is None:
        start = learner.start(params, task.question, loop.num_steps)

    def loss_fn(weights: jax.Array) -> jax.Array:
        return task_loss(weights, task.support, task.answers, task.answer_mask, blend=loop.blend)

    def step(point: Any, number: jax.Array) -> tuple[Any, Any]:
        moved = learner.step(
            loss_fn, params, task.question, point, loop.learning_rate, first_order=loop.first_order
        )
        return moved, read(point, number)

    return jax.lax.scan(step, start, jnp.arange(loop.num_steps))


def task_loss(
    weights: jax.Array,
    examples: Examples,
    answers: jax.Array,
    answer_mask: jax.Array,
    *,
    blend: float = 1.0,
) -> jax.Array:
    """Mean cross-entropy of one task: [] float32 in nats, 0 for a task without examples.

    weights: [P]; examples: fields [N, ...]; answers: [A, D]; answer_mask: [A].
    """
    logits = adapter_logits(weights, examples.features, answers, answer_mask, blend=blend)
    total, count = cross_entropy_sum(logits, examples.label, examples.mask)
    return total / jnp.maximum(count, 1)


def task_correct(
    weights: jax.Array,
    examples: Examples,
    answers: jax.Array,
    answer_mask: jax.Array,
    *,
    blend: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """(right answers, examples) of one task, [] float32 each; shapes as in `task_loss`."""
    logits = adapter_logits(weights, examples.features, answers, answer_mask, blend=blend)
    return correct_sum(logits, examples.label, examples.mask)
