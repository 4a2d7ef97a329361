"""The networks of training tasks, as controls: a generated network is worth something where it does
better than a training network as it is, with noise, or averaged with others (Zeng et al. 2025,
arXiv:2506.07998, who find that generators of weights often do not).

The networks of the training tasks are, for a guide in a latent space, those of the space's latents
of the training tasks, which is what it was trained on. A guide without a space was trained on no
networks; there they are its own for the training sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key, UInt

from hyper_meta.core.scores import Scores
from hyper_meta.core.types import Array
from hyper_meta.meta import scoring
from hyper_meta.methods.cache import Program
from hyper_meta.methods.guides import (
    Guide,
    answers_of,
    chosen_setting,
    mean_points,
    points_of,
    replicated_model,
)
from hyper_meta.methods.interface import Row, Setup, compile_scores
from hyper_meta.methods.nearest import nearest_tasks
from hyper_meta.methods.spaces import space_title
from hyper_meta.methods.trained import Trained

NUMBERS = (3, 5, 10, 20)  # of networks to average
NOISES = (0.03, 0.1, 0.3, 1.0)  # relative to the norm of the weights


def source_of(guide: Guide) -> tuple[str, str]:
    """(name, title) of where a guide's training networks come from: its space, or itself."""
    if guide.space is not None:
        return guide.space, space_title(guide.space)
    return guide.name, guide.title


def training_points(setup: Setup, trained: Trained, guide: Guide) -> Any:
    """Points of the training tasks, leaves [T, R, ...], R networks of each; guide.generate makes
    their weights."""
    if guide.space is not None:
        return trained.space(guide.space).latents
    value = guide.settings[chosen_setting(setup, guide)]
    return guide.answering(points_of(setup, guide, "train", value))


def task_points(guide: Guide, known: Any) -> Any:
    """The training points [T, R, ...] of a guide as those that stand for a task, [T, K, ...]: in a
    space their mean, else all, which answer together."""
    return mean_points(known) if guide.space is not None else known


def training_network_rows(setup: Setup, trained: Trained, guides: Sequence[Guide]) -> list[Row]:
    """Rows of each source of the guides' training networks: the network of the nearest sentence,
    the same with noise, and the mean of the networks of the nearest sentences. Guides of one space
    share theirs."""
    first: dict[tuple[str, str], Guide] = {}
    for guide in guides:
        first.setdefault(source_of(guide), guide)
    return [
        row
        for source, guide in first.items()
        for row in _rows(
            source,
            _mixture_score(setup, trained, guide),
            # In this space it is the row nearest_latent.
            with_nearest=source[0] != setup.config.latents.nearest,
        )
    ]


def mixed(generate: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    """(model, mixture) -> weights [K, P]: the mean of several networks, with noise.

    generate: of a guide. mixture: {"points": leaves [m, K, ...], "share": [m] float32 that sum to
    one, "noise": float32, the expected norm of the noise over that of the weights, "key": [2]
    uint32}.
    """

    def weights(model: Any, mixture: Mapping[str, Any]) -> jax.Array:
        def add(total: jax.Array, one: tuple) -> tuple[jax.Array, None]:
            points, share = one
            return total + share * generate(model, points), None

        one = jax.tree.map(lambda leaf: leaf[0], mixture["points"])
        nothing = jnp.zeros_like(generate(model, one))
        mean, _ = jax.lax.scan(add, nothing, (mixture["points"], mixture["share"]))
        key = jax.random.wrap_key_data(mixture["key"])
        return mean + noise_like(key, mean, mixture["noise"] * _norms(mean))

    return weights


def noise_like(
    key: Key[Array, ""], weights: Float[Array, "K P"], norm: Float[Array, " K"]
) -> Float[Array, "K P"]:
    """Gaussian noise of an expected square norm, norm^2 of each network."""
    noise = jax.random.normal(key, weights.shape)
    return noise * (norm / np.sqrt(weights.shape[-1]))[..., None]


def _norms(weights: Float[Array, "K P"]) -> Float[Array, " K"]:
    return jnp.sqrt(jnp.sum(weights**2, axis=-1))


def _mixture_score(
    setup: Setup, trained: Trained, guide: Guide
) -> Callable[[str, int, float], Scores]:
    """(split, number of nearest sentences, relative noise) -> Scores of the mean of the networks of
    these sentences, with noise."""
    method = answers_of(guide, mixed(guide.generate))
    run = compile_scores(setup, Program("mixed", source_of(guide)[0]), scoring.scores_of(method))

    def score(split: str, number: int, noise: float) -> Scores:
        # One program for all numbers to average.
        chosen = nearest_tasks(setup, split, max(NUMBERS) if number > 1 else 1)
        num_tasks, width = chosen.shape
        share = (np.arange(width) < number) / min(number, width)
        of_task = task_points(guide, training_points(setup, trained, guide))
        mixture = {
            "points": jax.tree.map(lambda leaf: leaf[chosen], of_task),
            "share": np.tile(share.astype(np.float32), (num_tasks, 1)),
            "noise": np.full(num_tasks, noise, np.float32),
            "key": noise_keys(setup, split),
        }
        return run(replicated_model(setup, guide), mixture, split)

    return score


def _rows(
    source: tuple[str, str], score: Callable[[str, int, float], Scores], *, with_nearest: bool
) -> list[Row]:
    name, of = source

    def row(variant: str, title: str, score_fn: Callable, settings: dict, varies: str) -> Row:
        known = (f"{name}.{variant}", f"{of}, {title}", "control", score_fn)
        return Row(*known, settings, varies)

    nearest = "network of the nearest training sentence"
    rows = [
        row(
            "noised_network",
            f"{nearest} with noise",
            lambda split, noise, shots: score(split, 1, noise),
            {f"{noise:g}": noise for noise in NOISES},
            "noise over weights",
        ),
        row(
            "averaged_networks",
            "mean of the networks of the nearest training sentences",
            lambda split, number, shots: score(split, number, 0.0),
            {str(number): number for number in NUMBERS},
            "sentences",
        ),
    ]
    if not with_nearest:
        return rows
    plain = Row(
        f"{name}.nearest_network",
        f"{of}, {nearest}",
        "control",
        lambda split, _, shots: score(split, 1, 0.0),
    )
    return [plain, *rows]


def noise_keys(setup: Setup, split: str) -> UInt[np.ndarray, "T 2"]:
    """[T, 2] uint32: a key for each task, of the noise that is added to weights."""
    key = jax.random.fold_in(jax.random.key(setup.config.seed), len(split))
    keys = jax.random.split(jax.random.fold_in(key, 1), len(setup.tasks[split]))
    return np.asarray(jax.random.key_data(keys))
