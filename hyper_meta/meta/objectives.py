"""Meta-objectives: the query loss after adaptation, summed over the tasks of a batch.

Every objective is `objective(params, batch) -> (sum, (count, metrics))` with metrics
{name: (sum, count)}; a task that only fills the batch counts for nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.meta.inner_loop import adapt_tasks, task_correct, task_loss
from hyper_meta.types import Examples, TaskBatch

Objective = Callable[[Any, TaskBatch], tuple[jax.Array, tuple[jax.Array, dict]]]


def hypernet_objective(
    generate: Callable, *, num_steps: int, learning_rate: float, first_order: bool
) -> Objective:
    """HNet (METHOD section 4): "multitask" is num_steps=0, MAML and FOMAML adapt the latent.

    generate(generator params, latent [Z]) -> weights [P]. The params are {"e0": [Z],
    "generator": pytree}. Multitask has nothing to hold out, so it learns from all of a task's
    examples; MAML adapts on the support set and is judged on the query set.
    """

    def adapted_weights(params: Any, batch: TaskBatch) -> jax.Array:
        latents = adapt_tasks(
            generate,
            params,
            batch,
            num_steps=num_steps,
            learning_rate=learning_rate,
            first_order=first_order,
        )
        return jax.vmap(generate, in_axes=(None, 0))(params["generator"], latents)

    def shared_weights(params: Any, batch: TaskBatch) -> jax.Array:
        weights = generate(params["generator"], params["e0"])
        return jnp.broadcast_to(weights, (len(batch.mask), *weights.shape))

    if num_steps == 0:
        return _judged_on(shared_weights, all_examples)
    return _judged_on(adapted_weights, lambda batch: batch.query)


def conditional_objective(generate: Callable) -> Objective:
    """Conditional multitask (METHOD section 4): the weights come from the question embedding.

    generate(params, question [D]) -> weights [P]. Learns from all of a task's examples.
    """
    weights_fn = jax.vmap(generate, in_axes=(None, 0))
    return _judged_on(lambda params, batch: weights_fn(params, batch.question), all_examples)


def all_examples(batch: TaskBatch) -> Examples:
    """Support and query together: fields [T, Ns + Nq, ...]."""
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), batch.support, batch.query)


def _judged_on(weights_fn: Callable, examples_fn: Callable[[TaskBatch], Examples]) -> Objective:
    """The objective of weights_fn(params, batch) -> [T, P] on examples_fn(batch)."""

    def objective(params: Any, batch: TaskBatch) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        examples, weights = examples_fn(batch), weights_fn(params, batch)
        inputs = (weights, examples, batch.answers, batch.answer_mask)
        losses = jax.vmap(task_loss)(*inputs)
        right, total = jax.vmap(task_correct)(*inputs)
        loss = jnp.where(batch.mask, losses, 0).sum()
        count = batch.mask.sum().astype(jnp.float32)
        accuracy = jnp.where(batch.mask, right / jnp.maximum(total, 1), 0).sum()
        metrics = {"loss": (loss, count), "accuracy": (accuracy, count)}
        return loss, (count, metrics)

    return objective
