"""Meta-objectives: the query loss after adaptation, summed over the tasks of a batch.

Every objective is `objective(params, groups) -> (sum, (count, metrics))` with metrics
{name: (sum, count)}; groups are the tasks of the batch, in TaskBatches that differ in padding; a
task that only fills the batch counts for nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.core.types import Examples, TaskBatch
from hyper_meta.meta.inner_loop import (
    InnerLoop,
    adapt_tasks,
    by_group,
    questions_of,
    task_correct,
    task_loss,
)
from hyper_meta.meta.learners import Learner

Objective = Callable[[Any, Sequence[TaskBatch]], tuple[jax.Array, tuple[jax.Array, dict]]]


def meta_objective(learner: Learner, loop: InnerLoop) -> Objective:
    """MAML and FOMAML adapt on the support set and are judged on the query set; with zero steps
    (multitask) there is nothing to hold out, and all of a task's examples are learnt from
    (method.md section 4)."""

    def objective(
        params: Any, groups: Sequence[TaskBatch]
    ) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        points = adapt_tasks(learner, params, groups, loop)
        mask = jnp.concatenate([group.mask for group in groups])
        weights = jax.vmap(learner.weights, (None, 0, 0))(params, questions_of(groups), points)

        def judge(weights: jax.Array, group: TaskBatch) -> tuple[jax.Array, jax.Array, jax.Array]:
            examples = group.query if loop.num_steps else all_examples(group)
            judged = (weights, examples, group.answers, group.answer_mask)
            losses, (right, total) = (
                jax.vmap(functools.partial(fn, learner.network))(*judged)
                for fn in (task_loss, task_correct)
            )
            return losses, right, total

        losses, right, total = by_group(judge, weights, groups)
        loss = jnp.where(mask, losses, 0).sum()
        count = mask.sum().astype(jnp.float32)
        accuracy = jnp.where(mask, right / jnp.maximum(total, 1), 0).sum()
        metrics = {"loss": (loss, count), "accuracy": (accuracy, count)}
        return loss, (count, metrics)

    return objective


def all_examples(batch: TaskBatch) -> Examples:
    """Support and query together: fields [T, Ns + Nq, ...]."""
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), batch.support, batch.query)
