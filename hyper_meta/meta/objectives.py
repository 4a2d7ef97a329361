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
from jaxtyping import Float

from hyper_meta.core.types import Array, Examples, TaskBatch
from hyper_meta.meta.inner_loop import (
    InnerLoop,
    adapt_tasks,
    by_group,
    questions_of,
    task_correct,
    task_loss,
)
from hyper_meta.meta.learners import Learner
from hyper_meta.networks.base import BaseNetwork

Objective = Callable[[Any, Sequence[TaskBatch]], tuple[jax.Array, tuple[jax.Array, dict]]]


def meta_objective(learner: Learner, loop: InnerLoop) -> Objective:
    """MAML and FOMAML adapt on the support set and are judged on the query set; with zero steps
    (multitask) there is nothing to hold out, and all of a task's examples are learnt from
    (method.md section 4)."""

    def objective(
        params: Any, groups: Sequence[TaskBatch]
    ) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        points = adapt_tasks(learner, params, groups, loop)
        weights = jax.vmap(learner.weights, (None, 0, 0))(params, questions_of(groups), points)
        return judge_networks(learner.network, weights, groups, held_out=loop.num_steps > 0)

    return objective


def judge_networks(
    network: BaseNetwork,
    weights: Float[Array, "T P"],
    groups: Sequence[TaskBatch],
    *,
    held_out: bool,
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], dict]]:
    """What an Objective returns, of the networks [T, P] of the tasks of the groups, one group after
    another; held_out: on their query sets, else on all of their examples."""
    mask = jnp.concatenate([group.mask for group in groups])

    def judge(weights: jax.Array, group: TaskBatch) -> tuple[jax.Array, jax.Array, jax.Array]:
        examples = group.query if held_out else all_examples(group)
        judged = (weights, examples, group.answers, group.answer_mask)
        losses, (right, total) = (
            jax.vmap(functools.partial(fn, network))(*judged) for fn in (task_loss, task_correct)
        )
        return losses, right, total

    losses, right, total = by_group(judge, weights, groups)
    loss = jnp.where(mask, losses, 0).sum()
    count = mask.sum().astype(jnp.float32)
    accuracy = jnp.where(mask, right / jnp.maximum(total, 1), 0).sum()
    return loss, (count, {"loss": (loss, count), "accuracy": (accuracy, count)})


def mixed_objective(objectives: Sequence[tuple[float, Objective]]) -> Objective:
    """The sum of objectives of the same tasks, each times its share; those of share 0 are not
    computed. The metrics are those of the first, and of each other one with its number after the
    name: "accuracy", "accuracy_1"."""
    shares = [(share, objective) for share, objective in objectives if share]

    def mixed(params: Any, groups: Sequence[TaskBatch]) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        loss, metrics, count = jnp.zeros(()), {}, jnp.zeros(())
        for number, (share, objective) in enumerate(shares):
            part, (count, parts) = objective(params, groups)
            loss += share * part
            metrics |= {f"{name}_{number}" if number else name: x for name, x in parts.items()}
        return loss, (count, {**metrics, "loss": (loss, count)})

    return mixed


def members_objective(
    objective: Callable[[Any, jax.Array], tuple[jax.Array, tuple[jax.Array, dict]]],
    num_members: int,
) -> Callable[[Any], tuple[jax.Array, tuple[jax.Array, dict]]]:
    """The sum over M members, params leaves [M, ...], of objective(params, number of the member):
    each member's gradient is its own. Loss and metrics are means over members."""

    def of_members(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        losses, (counts, metrics) = jax.vmap(objective)(params, jnp.arange(num_members))
        metrics = jax.tree.map(lambda values: values.mean(axis=0), metrics)
        return losses.sum(), (counts[0], metrics)

    return of_members


def all_examples(batch: TaskBatch) -> Examples:
    """Support and query together: fields [T, Ns + Nq, ...]."""
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), batch.support, batch.query)
