"""Learners: where the adaptation to a task starts, what it moves, and the network of a point.

HNet moves the latent of a generator, MNet the weights themselves, the conditional
hypernetwork all weights of its generator (method.md section 4).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.models.generator import apply_hidden, split_layers
from hyper_meta.models.sentences import says_something
from hyper_meta.networks.base import BaseNetwork


@dataclasses.dataclass(frozen=True)
class Learner:
    """Three pure functions of the meta-parameters, a question and a point (a pytree).

    network: whose weights these are.
    start: (params, question, num_steps) -> the point where num_steps steps may start.
    weights: (params, question, point) -> weights [P].
    step: (loss_fn, params, T questions, points [T, ...], learning_rate, first_order=bool) -> the
    points of T tasks after one SGD step, where loss_fn gives the sum of the tasks' losses from
    their weights [T, P]; with first_order the gradient is a constant. moves: whether steps do
    anything.
    """

    network: BaseNetwork
    start: Callable
    weights: Callable
    step: Callable
    moves: bool = True


def latent_learner(
    network: BaseNetwork,
    generate: Callable,
    *,
    pull: float = 0.0,
    read: Callable[[Any, SentenceFeatures], jax.Array] | None = None,
) -> Learner:
    """HNet: the point is the latent [Z]; params are {"e0": [Z], "generator": pytree}.

    generate: (generator params, latents [..., Z]) -> weights [..., P]; pull: weight of
    1/2 ||e - e0||^2 in the inner loss, which keeps the latent calm. read: (params, question) -> the
    latent [Z] that a sentence starts at; the null sentence, and every one without it, starts at e0.
    """

    def start(params: Any, question: SentenceFeatures, num_steps: int) -> jax.Array:
        if read is None:
            return params["e0"]
        return jnp.where(says_something(question), read(params, question), params["e0"])

    def weights(params: Any, question: SentenceFeatures, point: jax.Array) -> jax.Array:
        return generate(params["generator"], point)

    def step(loss_fn, params, questions, points, learning_rate, *, first_order):
        def inner_loss(points: jax.Array) -> jax.Array:
            distance = jnp.sum((points - params["e0"]) ** 2)
            return loss_fn(generate(params["generator"], points)) + 0.5 * pull * distance

        gradient = _constant_if(first_order, jax.grad(inner_loss)(points))
        return points - learning_rate * gradient

    return Learner(network, start, weights, step)


def weights_learner(network: BaseNetwork) -> Learner:
    """MNet: the point is the weights [P] themselves; params are {"e0": [P], "generator": {}}."""
    return latent_learner(network, lambda _, point: point)


def fixed_learner(network: BaseNetwork, generate: Callable) -> Learner:
    """Weights from the question alone, generate(params, question) -> [P]: nothing moves."""

    def step(loss_fn, params, questions, points, learning_rate, *, first_order):
        return points

    return Learner(
        network,
        start=lambda params, question, num_steps: None,
        weights=lambda params, question, point: generate(params, question),
        step=step,
        moves=False,
    )


def generator_learner(
    network: BaseNetwork, prepare: Callable[[SentenceFeatures], jax.Array]
) -> Learner:
    """The conditional hypernetwork of which every weight moves; params are a Generator's.

    prepare: question -> the generator's input [Dq].

    A task has one question, so the generator sees one input, and the gradient of its last layer,
    nearly all of its weights, is an outer product: of the hidden units h and of g = d loss / d
    weights. Its k-th SGD step is therefore kept as the pair (h_k, learning rate g_k), and the
    moved layer gives W h + b - sum_k (h_k . h + 1) (learning rate g_k): exactly what SGD gives,
    in k P numbers a task where a copy of the layer needs 128 P.

    The point is {"hidden": layers, "codes": [num_steps, width], "updates": [num_steps, P],
    "taken": [] int32}.
    """
    return Learner(
        network,
        start=_generator_start,
        weights=lambda *inputs: _code_and_weights(prepare, *inputs)[1],
        step=functools.partial(_generator_step, prepare),
    )


def _generator_start(params: Any, question: SentenceFeatures, num_steps: int) -> dict[str, Any]:
    hidden, last = split_layers(params)
    width, num_weights = last["kernel"].shape
    slots = max(1, num_steps)  # a scan of no steps is traced too
    return {
        "hidden": hidden,
        "codes": jnp.zeros((slots, width)),
        "updates": jnp.zeros((slots, num_weights)),
        "taken": jnp.zeros((), jnp.int32),
    }


def _code_and_weights(
    prepare: Callable, params: Any, question: SentenceFeatures, point: Any
) -> tuple[jax.Array, jax.Array]:
    """(the last hidden units h [width], weights [P]) of a moved generator."""
    code = apply_hidden(point["hidden"], prepare(question))
    _, last = split_layers(params)
    # Slots without a step yet hold zero updates.
    moved = (point["codes"] @ code + 1) @ point["updates"]
    return code, code @ last["kernel"] + last["bias"] - moved


def _generator_step(prepare, loss_fn, params, questions, points, learning_rate, *, first_order):
    """`Learner.step` of the moved generators of T tasks."""
    code_and_weights = functools.partial(_code_and_weights, prepare)

    def inner_loss(hidden: Any, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        codes, weights = jax.vmap(code_and_weights, (None, 0, 0))(
            params, questions, points | {"hidden": hidden}
        )
        return loss_fn(weights + shift), codes

    no_shift = jnp.zeros_like(points["updates"][:, 0])
    gradients, codes = jax.grad(inner_loss, argnums=(0, 1), has_aux=True)(
        points["hidden"], no_shift
    )
    for_hidden, for_weights = _constant_if(first_order, gradients)
    put = jax.vmap(lambda slots, taken, row: slots.at[taken].set(row))
    taken = points["taken"]
    return {
        "hidden": jax.tree.map(lambda x, g: x - learning_rate * g, points["hidden"], for_hidden),
        "codes": put(points["codes"], taken, _constant_if(first_order, codes)),
        "updates": put(points["updates"], taken, learning_rate * for_weights),
        "taken": taken + 1,
    }


def _constant_if(condition: bool, tree: Any) -> Any:
    return jax.lax.stop_gradient(tree) if condition else tree
