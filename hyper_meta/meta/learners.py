"""Learners: where the adaptation to a task starts, what it moves, and the network of a point.

HNet moves the latent of a generator, MNet the adapter's weights themselves, the conditional
hypernetwork all weights of its generator (METHOD section 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.models.hypernet import apply_hidden, split_layers


@dataclasses.dataclass(frozen=True)
class Learner:
    """Three pure functions of the meta-parameters, a question [D] and a point (a pytree).

    start: (params, question, num_steps) -> the point where num_steps steps may start.
    weights: (params, question, point) -> adapter weights [P].
    step: (loss_fn of weights, params, question, point, learning_rate, first_order=bool) -> the
    point after one SGD step; with first_order the gradient is a constant. moves: whether steps do
    anything.
    """

    start: Callable
    weights: Callable
    step: Callable
    moves: bool = True


def latent_learner(generate: Callable, *, pull: float = 0.0) -> Learner:
    """HNet: the point is the latent [Z]; params are {"e0": [Z], "generator": pytree}.

    generate: (generator params, latent [Z]) -> weights [P]; pull: weight of 1/2 ||e - e0||^2 in the
    inner loss, which keeps the latent calm.
    """

    def start(params: Any, question: jax.Array, num_steps: int) -> jax.Array:
        return params["e0"]

    def weights(params: Any, question: jax.Array, point: jax.Array) -> jax.Array:
        return generate(params["generator"], point)

    def step(loss_fn, params, question, point, learning_rate, *, first_order):
        def inner_loss(point: jax.Array) -> jax.Array:
            distance = jnp.sum((point - params["e0"]) ** 2)
            return loss_fn(weights(params, question, point)) + 0.5 * pull * distance

        gradient = _constant_if(first_order, jax.grad(inner_loss)(point))
        return point - learning_rate * gradient

    return Learner(start, weights, step)


def weights_learner() -> Learner:
    """MNet: the point is the adapter [P] itself; params are {"e0": [P], "generator": {}}."""
    return latent_learner(lambda _, point: point)


def fixed_learner(generate: Callable) -> Learner:
    """Weights from the question alone, generate(params, question [D]) -> [P]: nothing moves."""

    def step(loss_fn, params, question, point, learning_rate, *, first_order):
        return point

    return Learner(
        start=lambda params, question, num_steps: None,
        weights=lambda params, question, point: generate(params, question),
        step=step,
        moves=False,
    )


def generator_learner(prepare: Callable[[jax.Array], jax.Array]) -> Learner:
    """The conditional hypernetwork of which every weight moves; params are a Generator's.

    prepare: question [D] -> the generator's input [D].

    A task has one question, so the generator sees one input, and the gradient of its last layer,
    nearly all of its weights, is an outer product: of the hidden units h and of g = d loss / d
    weights. Its k-th SGD step is therefore kept as the pair (h_k, learning rate g_k), and the
    moved layer gives W h + b - sum_k (h_k . h + 1) (learning rate g_k): exactly what SGD gives,
    in k P numbers a task where a copy of the layer needs 128 P.

    The point is {"hidden": layers, "codes": [num_steps, width], "updates": [num_steps, P],
    "taken": [] int32}.
    """

    def start(params: Any, question: jax.Array, num_steps: int) -> Any:
        hidden, last = split_layers(params)
        width, num_weights = last["kernel"].shape
        slots = max(1, num_steps)  # a scan of no steps is traced too
        return {
            "hidden": hidden,
            "codes": jnp.zeros((slots, width)),
            "updates": jnp.zeros((slots, num_weights)),
            "taken": jnp.zeros((), jnp.int32),
        }

    def code_and_weights(params: Any, question: jax.Array, point: Any) -> tuple:
        code = apply_hidden(point["hidden"], prepare(question))
        _, last = split_layers(params)
        # Slots without a step yet hold zero updates.
        moved = (point["codes"] @ code + 1) @ point["updates"]
        return code, code @ last["kernel"] + last["bias"] - moved

    def weights(params: Any, question: jax.Array, point: Any) -> jax.Array:
        return code_and_weights(params, question, point)[1]

    def step(loss_fn, params, question, point, learning_rate, *, first_order):
        def inner_loss(hidden: Any, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
            code, weights = code_and_weights(params, question, point | {"hidden": hidden})
            return loss_fn(weights + shift), code

        no_shift = jnp.zeros(point["updates"].shape[1])
        gradients, code = jax.grad(inner_loss, argnums=(0, 1), has_aux=True)(
            point["hidden"], no_shift
        )
        for_hidden, for_weights = _constant_if(first_order, gradients)
        slot = point["taken"]
        return {
            "hidden": jax.tree.map(lambda x, g: x - learning_rate * g, point["hidden"], for_hidden),
            "codes": point["codes"].at[slot].set(_constant_if(first_order, code)),
            "updates": point["updates"].at[slot].set(learning_rate * for_weights),
            "taken": slot + 1,
        }

    return Learner(start, weights, step)


def _constant_if(condition: bool, tree: Any) -> Any:
    return jax.lax.stop_gradient(tree) if condition else tree
