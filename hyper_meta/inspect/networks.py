"""The networks that a run generates and adapts: their weights, and how far apart they are.

Weights [n, P] and latents [n, Z] are float32 numpy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Bool, Float

from hyper_meta.inspect.movements import best_value, in_parts
from hyper_meta.inspect.opened import OpenedRun
from hyper_meta.methods.guides import Guide, points_of
from hyper_meta.methods.trained import Space
from hyper_meta.networks.base import BaseNetwork

STATISTICS = ("mean", "deviation", "norm")


def generated_statistics(run: OpenedRun, guide: Guide) -> Float[np.ndarray, "n layers 3"]:
    """`layer_statistics` of a guide's networks for the test questions, at the best value of its
    settings: [T, layers, 3]."""
    points = guide.answering(points_of(run.setup, guide, "test", best_value(run, guide)))
    generate = jax.jit(jax.vmap(guide.generate, (None, 0)))

    def measured(part: np.ndarray) -> np.ndarray:
        rows = jax.tree.map(lambda leaf: leaf[part], points)
        return layer_statistics(guide.network, np.asarray(generate(guide.model, rows))[:, 0])

    return in_parts(measured, np.arange(len(run.setup.tasks["test"])))


def network_statistics(
    run: OpenedRun, latents: Float[np.ndarray, "n Z"]
) -> Float[np.ndarray, "n layers 3"]:
    """`layer_statistics` [n, layers, 3] of the networks of latents [n, Z]."""
    generate = jax.jit(run.space.generate)

    def measured(part: np.ndarray) -> np.ndarray:
        weights = np.asarray(generate(run.space.params["generator"], part))
        return layer_statistics(run.space.network, weights)

    return in_parts(measured, latents)


def layer_statistics(
    network: BaseNetwork, weights: Float[np.ndarray, "n P"]
) -> Float[np.ndarray, "n layers 3"]:
    """Mean, deviation and norm (STATISTICS) of each layer of networks [n, P]: [n, layers, 3]."""
    parts = network.split(weights).values()
    flat = [np.asarray(part).reshape(len(weights), -1) for part in parts]
    columns = [(w.mean(1), w.std(1), np.linalg.norm(w, axis=1)) for w in flat]
    return np.array(columns).transpose(2, 0, 1)


def network_coordinates(
    space: Space, latents: Float[np.ndarray, "n Z"]
) -> Float[np.ndarray, "n W"]:
    """[n, W] float64, as far apart as the weights [n, P] of latents [n, Z] are.

    Weights are hidden @ kernel + bias, so their distance is ||(h - h') L|| with L L^T = kernel
    kernel^T; W is the width of the generator's last hidden layer, far below P.
    """
    generator = space.params["generator"]
    kernel = np.asarray(space.factors.head(generator)[0], np.float64)
    values, vectors = np.linalg.eigh(kernel @ kernel.T)
    hidden = np.asarray(space.factors.hidden(generator, latents), np.float64)
    return hidden @ (vectors * np.sqrt(np.maximum(values, 0)))


def nearest_distances(
    points: Float[np.ndarray, "n X"],
    known: Float[np.ndarray, "m X"],
    allowed: Bool[np.ndarray, "n m"],
) -> Float[np.ndarray, " n"]:
    """[n]: from each of points [n, X] to the nearest of the known [m, X] that is allowed to it,
    [n, m] bool, at least one; Euclidean."""
    squared = np.sum(points**2, 1)[:, None] + np.sum(known**2, 1) - 2 * points @ known.T
    return np.sqrt(np.maximum(np.where(allowed, squared, np.inf).min(axis=1), 0))


def adapted_distances(
    run: OpenedRun, latents: Mapping[str, Float[np.ndarray, "_ Z"]]
) -> dict[str, Float[np.ndarray, " _"]]:
    """Distances of networks to the nearest one adapted to a training task, each [n].

    latents: kind -> [n, Z]. First come the adapted networks themselves: to those of other tasks,
    and, where there are repeats, to other repeats of the same task.
    """
    num_tasks, repeats, latent_dim = run.space.latents.shape
    known = network_coordinates(run.space, run.space.latents.reshape(-1, latent_dim))
    task = np.arange(num_tasks).repeat(repeats)
    same = task[:, None] == task
    found = {}
    if repeats > 1:
        again = same & ~np.eye(len(task), dtype=bool)
        found["adapted, to the same task again"] = nearest_distances(known, known, again)
    found["adapted, to another task"] = nearest_distances(known, known, ~same)
    for kind, rows in latents.items():
        points = network_coordinates(run.space, rows)
        every = np.ones((len(points), len(known)), bool)
        found[kind] = nearest_distances(points, known, every)
    return found
