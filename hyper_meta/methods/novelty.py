"""How new the networks of a guide are: their distance to the nearest training network, and how
differently the two err (after Zeng et al. 2025, arXiv:2506.07998, who hold accuracy against the
similarity of errors).

The training networks are those of `training_networks`, all R of each training task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from hyper_meta.core import parallel
from hyper_meta.core.types import Array, TaskBatch
from hyper_meta.eval.novelty import COMPARED, NETWORKS
from hyper_meta.meta import scoring
from hyper_meta.methods.cache import Program
from hyper_meta.methods.guides import (
    Guide,
    chosen_setting,
    points_of,
    replicated_model,
)
from hyper_meta.methods.interface import Setup, compile_scores
from hyper_meta.methods.trained import Trained
from hyper_meta.methods.training_networks import (
    noise_keys,
    noise_like,
    task_points,
    training_points,
)

BLOCK = 32  # training tasks whose networks are generated at once


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The nearest of some networks to each of n others.

    row: its place; distance: ||w - nearest||; norm: ||nearest||.
    """

    row: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    norm: Float[np.ndarray, " n"]


def novelty(setup: Setup, trained: Trained, guide: Guide) -> dict[str, Any]:
    """JSON values of a guide at its chosen setting, lists by test task.

    count: query examples. distance: of the generated weights to those of the nearest training
    network, over the norm of the latter. correct: right answers of the "generated" network, of the
    "nearest" one, and of the nearest "noised": with noise of the norm of that distance. overlap:
    between the errors of the nearest network and those of the "generated" and of the "noised" one,
    the examples that both get wrong over those that either does, 1 where there are none. agreement:
    likewise the share of examples with the same answer. between: the distance, so measured, from
    the network of a training task to the nearest one of another, the mean over tasks. Where several
    networks answer together, all is of each by itself, and the mean over them.
    """
    value = guide.settings[chosen_setting(setup, guide)]
    points = guide.answering(points_of(setup, guide, "test", value))
    known = training_points(setup, trained, guide)
    weights_of = _weights_fn(setup, guide)
    nearest, near_points = _nearest(guide, points, known, weights_of)
    own = np.arange(len(setup.tasks["train"]))
    others, _ = _nearest(guide, task_points(guide, known), known, weights_of, own=own)
    extra = {"points": points, "nearest": near_points, "key": noise_keys(setup, "test")}
    run = compile_scores(setup, Program("novelty", guide.name), compared(guide))
    found = run(replicated_model(setup, guide), extra, "test")
    return {
        **jax.tree.map(lambda leaf: np.asarray(leaf, float).tolist(), found),
        "distance": np.mean([part.distance / part.norm for part in nearest], axis=0).tolist(),
        "between": float(np.mean([part.distance / part.norm for part in others])),
    }


def _nearest(
    guide: Guide,
    points: Any,
    known: Any,
    weights_of: Callable[[Any], Iterator[np.ndarray]],
    own: np.ndarray | None = None,
) -> tuple[list[Nearest], Any]:
    """(for each of K networks of a sentence its nearest, their points, leaves [n, K, ...]).

    points: leaves [n, K, ...]. known: leaves [T, R, ...], of training tasks. In a space all R count
    for each of the K; without one, R = K networks are each compared with those of its own place,
    since their weights need have nothing in common. own: see `search`.
    """
    weights = np.concatenate([*weights_of(points)])
    found, chosen = [], []
    for place in range(weights.shape[1]):
        part = slice(None) if guide.space is not None else slice(place, place + 1)
        blocks = (block[:, part] for block in weights_of(known))  # noqa: B023
        nearest = search(weights[:, place], blocks, own=own)
        found.append(nearest)
        chosen.append(jax.tree.map(lambda leaf: _flat(leaf[:, part])[nearest.row], known))  # noqa: B023
    return found, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *chosen)


def _flat(leaf: np.ndarray) -> np.ndarray:
    return np.reshape(leaf, (-1, *leaf.shape[2:]))


def _weights_fn(setup: Setup, guide: Guide) -> Callable[[Any], Iterator[np.ndarray]]:
    """Points, leaves [n, R, ...] -> their weights, BLOCK tasks after another: [b, R, P]."""
    run = parallel.compile_map(
        lambda model, _, points: jax.vmap(guide.generate, (None, 0))(model, points)
    )
    model = replicated_model(setup, guide)

    def blocks(points: Any) -> Iterator[np.ndarray]:
        num_rows = len(jax.tree.leaves(points)[0])
        for first in range(0, num_rows, BLOCK):
            part = jax.tree.map(lambda leaf: leaf[first : first + BLOCK], points)  # noqa: B023
            filled = parallel.fill_devices(parallel.fill_rows(part, BLOCK))
            yield run(model, None, filled)[: min(BLOCK, num_rows - first)]

    return blocks


def search(
    weights: Float[np.ndarray, "n P"],
    blocks: Iterable[Float[np.ndarray, "b R P"]],
    *,
    own: Int[np.ndarray, " n"] | None = None,
) -> Nearest:
    """The nearest of many networks to each of n.

    blocks: R networks of each training task, some tasks after others; a row is counted through all
    of them. own: [n], the training task whose networks do not count, None where all do.
    """
    # Distances are found by products, which are exact enough to compare only near the origin.
    centre = weights.mean(axis=0)
    moved = weights - centre
    row = np.zeros(len(weights), int)
    distance, norm = np.full(len(weights), np.inf), np.full(len(weights), np.nan)
    num_tasks = 0
    for block in blocks:
        num, repeats, _ = block.shape
        others = block.reshape(num * repeats, -1)
        near = others - centre
        square = (near**2).sum(axis=1) - 2 * moved @ near.T
        if own is not None:
            square[own[:, None] == num_tasks + np.arange(num).repeat(repeats)] = np.inf
        for place in np.flatnonzero(np.isfinite(square).any(axis=1)):
            found = square[place].argmin()
            apart = float(np.linalg.norm(weights[place] - others[found]))
            if apart < distance[place]:
                row[place] = num_tasks * repeats + found
                distance[place], norm[place] = apart, np.linalg.norm(others[found])
        num_tasks += num
    return Nearest(row, distance, norm)


def compared(guide: Guide) -> scoring.TaskFn:
    """The networks of points beside the nearest ones, task by task.

    The extra of the TaskFn is {"points", "nearest": leaves [B, K, ...], "key": [B, 2] uint32}; for
    what it returns see `novelty`, leaves [B].
    """
    weights_fn = scoring.point_weights(guide.generate)

    def compare(model: Any, tasks: TaskBatch, extra: Any) -> dict[str, Any]:
        generated, nearest = (
            weights_fn(model, tasks, extra[name]) for name in ("points", "nearest")
        )
        keys = jax.random.wrap_key_data(extra["key"])
        distance = jnp.linalg.norm(generated - nearest, axis=-1)
        noised = nearest + jax.vmap(noise_like)(keys, nearest, distance)
        answers = [
            scoring.query_logits(guide.network, weights, tasks).argmax(axis=-1)
            for weights in (generated, nearest, noised)
        ]
        by_network = jax.vmap(compare_answers, (2, None, None), out_axes=-1)
        found = by_network(jnp.stack(answers, axis=1), tasks.query.label, tasks.query.mask)
        return jax.tree.map(lambda leaf: leaf.mean(axis=-1), found)

    return compare


def compare_answers(
    answers: Int[Array, "B 3 N"], label: Int[Array, "B N"], mask: Bool[Array, "B N"]
) -> dict[str, Any]:
    """What `novelty` says of the answers of the generated, the nearest and the noised network."""
    mask = mask[:, None]
    count, wrong = mask.sum(axis=-1), mask & (answers != label[:, None])
    both, either = (wrong & wrong[:, 1:2]).sum(axis=-1), (wrong | wrong[:, 1:2]).sum(axis=-1)
    overlap = jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)
    agreement = (mask & (answers == answers[:, 1:2])).sum(axis=-1) / count
    correct = count - wrong.sum(axis=-1)
    return {
        "count": count[:, 0],
        "correct": _named(NETWORKS, correct),
        "overlap": _named(COMPARED, overlap),
        "agreement": _named(COMPARED, agreement),
    }


def _named(
    names: tuple[str, ...], values: Float[Array, "B 3"] | Int[Array, "B 3"]
) -> dict[str, Any]:
    return {name: values[:, NETWORKS.index(name)] for name in names}
