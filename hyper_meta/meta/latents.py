"""Latent data sets (every training task adapted several times, method.md section 5), and support
sets of k examples of each answer.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, Key

from hyper_meta.core.types import Array, Examples, TaskBatch
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task
from hyper_meta.meta.learners import Learner


def random_subset(
    key: Key[jax.Array, ""], mask: Bool[Array, " N"], smallest_share: float
) -> Bool[Array, " N"]:
    """The mask [N] bool of a random share of a mask's examples, uniform in [smallest_share, 1]."""
    share_key, order_key = jax.random.split(key)
    share = jax.random.uniform(share_key, minval=smallest_share, maxval=1.0)
    keep = jnp.ceil(share * mask.sum())
    scores = jnp.where(mask, jax.random.uniform(order_key, mask.shape), jnp.inf)
    rank = jnp.argsort(jnp.argsort(scores))
    return mask & (rank < keep)


def stochastic_points(
    learner: Learner,
    params: Any,
    task: TaskBatch,
    keys: Key[jax.Array, " R"],
    loop: InnerLoop,
    *,
    smallest_share: float,
) -> Any:
    """The points, leaves [R, ...], of a task adapted R times, each on a random subset of examples.

    keys: [R] PRNG keys; each draws a subset of the support set.
    """

    def repeat(key: jax.Array) -> Any:
        mask = random_subset(key, task.support.mask, smallest_share)
        subset = task.replace(support=task.support.replace(mask=mask))
        return adapt_task(learner, params, subset, loop)

    return jax.vmap(repeat)(keys)


def few_shots(
    key: Key[jax.Array, ""], examples: Examples, shots: Int[Array, ""], width: int
) -> Examples:
    """At most `shots` random examples of each answer, fields [width, ...], padding last.

    The examples of k shots are among those of k + 1.

    Args:
      key: PRNG key.
      examples: fields [N, ...].
      width: static, at least the number of examples of the result.
    """
    draws = jax.random.uniform(key, examples.mask.shape)
    label = jnp.where(examples.mask, examples.label, jnp.iinfo(jnp.int32).max)
    order = jnp.lexsort((draws, label))
    ordered = label[order]
    rank = jnp.arange(len(order)) - jnp.searchsorted(ordered, ordered, side="left")
    kept = examples.mask[order] & (rank < shots)
    front = order[jnp.argsort(~kept, stable=True)[:width]]
    chosen = jax.tree.map(lambda leaf: leaf[front], examples)
    return chosen.replace(mask=jnp.arange(len(front)) < kept.sum())
