"""Inner-loop adaptation of one task: plain SGD on a latent, as one differentiable scan."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.losses import correct_sum, cross_entropy_sum
from hyper_meta.models.adapter import adapter_logits
from hyper_meta.types import Examples, TaskBatch

GenerateFn = Callable[[jax.Array], jax.Array]  # latent [Z] -> adapter weights [P]


def adapt(
    loss_fn: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    num_steps: int,
    learning_rate: float,
    first_order: bool = False,
) -> jax.Array:
    """Takes num_steps SGD steps from start and returns where they end, shape and dtype of start.

    Differentiable in start and in what loss_fn closes over. first_order treats the inner gradients
    as constants (FOMAML, Finn et al. 2017).
    """

    def step(latent: jax.Array, _: None) -> tuple[jax.Array, None]:
        gradient = jax.grad(loss_fn)(latent)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        return latent - learning_rate * gradient, None

    return jax.lax.scan(step, start, None, length=num_steps)[0]


def task_loss(
    weights: jax.Array, examples: Examples, answers: jax.Array, answer_mask: jax.Array
) -> jax.Array:
    """Mean cross-entropy of one task: [] float32 in nats, 0 for a task without examples.

    weights: [P]; examples: fields [N, ...]; answers: [A, D]; answer_mask: [A].
    """
    logits = adapter_logits(weights, examples.features, answers, answer_mask)
    total, count = cross_entropy_sum(logits, examples.label, examples.mask)
    return total / jnp.maximum(count, 1)


def task_correct(
    weights: jax.Array, examples: Examples, answers: jax.Array, answer_mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(right answers, examples) of one task, [] float32 each; shapes as in `task_loss`."""
    logits = adapter_logits(weights, examples.features, answers, answer_mask)
    return correct_sum(logits, examples.label, examples.mask)


def adapt_latent(
    generate_fn: GenerateFn,
    start: jax.Array,
    examples: Examples,
    answers: jax.Array,
    answer_mask: jax.Array,
    *,
    num_steps: int,
    learning_rate: float,
    pull: float = 0.0,
    first_order: bool = False,
) -> jax.Array:
    """Adapts one task's latent [Z] on its examples through the generator.

    pull: weight of 1/2 ||latent - start||^2, which keeps the latent calm.
    """

    def loss_fn(latent: jax.Array) -> jax.Array:
        distance = jnp.sum((latent - start) ** 2)
        loss = task_loss(generate_fn(latent), examples, answers, answer_mask)
        return loss + 0.5 * pull * distance

    return adapt(
        loss_fn,
        start,
        num_steps=num_steps,
        learning_rate=learning_rate,
        first_order=first_order,
    )


def adapt_tasks(
    generate: Callable,
    params: Any,
    tasks: TaskBatch,
    *,
    num_steps: int,
    learning_rate: float,
    first_order: bool = False,
) -> jax.Array:
    """The latents of T tasks, each adapted from e0 on its support set: [T, Z] float32.

    generate(generator params, latent [Z]) -> weights [P]; params: {"e0": [Z], "generator": pytree}.
    """

    def one_task(support: Examples, answers: jax.Array, answer_mask: jax.Array) -> jax.Array:
        return adapt_latent(
            functools.partial(generate, params["generator"]),
            params["e0"],
            support,
            answers,
            answer_mask,
            num_steps=num_steps,
            learning_rate=learning_rate,
            first_order=first_order,
        )

    return jax.vmap(one_task)(tasks.support, tasks.answers, tasks.answer_mask)
