"""Meta-objectives: the query loss after adaptation, summed over the tasks of a batch.

Every objective is `objective(params, batch) -> (sum, (count, metrics))` with metrics
{name: (sum, count)}; a task that only fills the batch counts for nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.meta.inner_loop import InnerLoop, adapt_task, task_correct, task_loss
from hyper_meta.meta.learners import Learner
from hyper_meta.types import Examples, TaskBatch

Objective = Callable[[Any, TaskBatch], tuple[jax.Array, tuple[jax.Array, dict]]]


def meta_objective(learner: Learner, loop: InnerLoop) -> Objective:
    """MAML and FOMAML adapt on the support set and are judged on the query set; with zero steps
    (multitask) there is nothing to hold out, and all of a task's examples are learnt from
    (METHOD section 4)."""

    def objective(params: Any, batch: TaskBatch) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        judged_on = batch.query if loop.num_steps else all_examples(batch)

        def one_task(task: TaskBatch, examples: Examples) -> tuple:
            point = adapt_task(learner, params, task, loop)
            weights = learner.weights(params, task.question, point)
            judged = (weights, examples, task.answers, task.answer_mask)
            loss = task_loss(*judged, blend=loop.blend)
            return loss, *task_correct(*judged, blend=loop.blend)

        losses, right, total = jax.vmap(one_task)(batch, judged_on)
        loss = jnp.where(batch.mask, losses, 0).sum()
        count = batch.mask.sum().astype(jnp.float32)
        accuracy = jnp.where(batch.mask, right / jnp.maximum(total, 1), 0).sum()
        metrics = {"loss": (loss, count), "accuracy": (accuracy, count)}
        return loss, (count, metrics)

    return objective


def all_examples(batch: TaskBatch) -> Examples:
    """Support and query together: fields [T, Ns + Nq, ...]."""
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), batch.support, batch.query)
