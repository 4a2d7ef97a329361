"""Guides: trained language methods as one kind of thing, from sentences to the weights of networks.

A guide works in two steps. `sample` draws points for sentences, on all devices: latents, or
whatever stands for a network in the method. `generate` turns the points of one task into weights;
it is pure, so that scoring, the pictures and a user's `generate` share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.meta import scoring
from hyper_meta.meta.learners import Learner, weights_learner
from hyper_meta.methods.cache import Points, Program
from hyper_meta.methods.few_shot import few_shot_row
from hyper_meta.methods.interface import (
    Row,
    RowName,
    Setup,
    choose,
    compile_scores,
    remember,
    split_questions,
)
from hyper_meta.methods.trained import Trained
from hyper_meta.networks.base import BaseNetwork


@dataclasses.dataclass(frozen=True)
class Guide:
    """A trained language method.

    name, title: of the method.
    network: that it generates.
    model: pytree of numpy arrays, all that `sample_fn` and `generate` read; it is what is saved.
    sample_fn: (model, n questions, a value of settings, number of samples K, seed) -> points, numpy
        leaves [n, K, ...].
    generate: (model, points of one task, leaves [K, ...]) -> weights [K, P]; pure.
    settings: {how it is called: value}, of which one is chosen on validation tasks; a value is
        JSON, or a tuple.
    varies: what they are settings of, None where there is one.
    num_samples: K of the evaluation.
    random: whether the samples of a sentence differ; else one is as good as many.
    votes: whether the networks of all its points answer together, by the mean of their
        log-probabilities; else the network of the mean point answers.
    scaled: whether a setting is a classifier-free guidance scale, and any number may be asked for.
    sample_all: (model, n questions) -> {value: points}, where all settings together cost less.
    space: the method whose latent space the points lie in, None where they are no latents.
    fit_fn: (points, leaves [n, K, ...], n questions) -> [n, K], HyperCLIP's log-probability of a
        question given its networks; None for a method without HyperCLIP.
    learner, learner_params, start_fn: what adapts further on labelled examples, and mean points
        [n, ...] -> where it starts, None for the learner's own start. Without a learner the weights
        themselves are adapted.
    """

    name: str
    title: str
    network: BaseNetwork
    model: Any
    sample_fn: Callable[[Any, SentenceFeatures, Any, int, int], Any]
    generate: Callable[[Any, Any], jax.Array]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"": None})
    varies: str | None = None
    num_samples: int = 1
    random: bool = False
    votes: bool = False
    scaled: bool = False
    sample_all: Callable[[Any, SentenceFeatures], Mapping[Any, Any]] | None = None
    space: str | None = None
    fit_fn: Callable[[Any, SentenceFeatures], Any] | None = None
    learner: Learner | None = None
    learner_params: Any = None
    start_fn: Callable[[Any], Any] = lambda points: points

    def answering(self, points: Any) -> Any:
        """The points whose networks answer, leaves [n, K, ...]: all, or their mean as one."""
        return points if self.votes else mean_points(points)

    def sample(
        self, questions: SentenceFeatures, value: Any, *, num_samples: int, seed: int
    ) -> Any:
        """Points of n questions, numpy leaves [n, K, ...], at a value of the settings."""
        return self.sample_fn(self.model, questions, value, num_samples, seed)


@dataclasses.dataclass(frozen=True)
class GuideMaker:
    """How a method's guide is made, after training and from what was saved.

    model: (setup, trained) -> the model, see `Guide`.
    shapes: (config, network, a sentence) -> jax.ShapeDtypeStruct in place of each array of it.
    make: (config, network, model) -> Guide.
    """

    model: Callable[[Setup, Trained], Any]
    shapes: Callable[[RunSettings, BaseNetwork, SentenceFeatures], Any]
    make: Callable[[RunSettings, BaseNetwork, Any], Guide]


def guide_of(setup: Setup, trained: Trained, name: str, maker: GuideMaker) -> Guide:
    """The guide of a trained method, made once."""
    return remember(
        setup,
        setup.cache.guides,
        name,
        lambda: maker.make(setup.config, setup.network, maker.model(setup, trained)),
    )


def points_of(setup: Setup, guide: Guide, split: str, value: Any) -> Any:
    """Points of the questions of a split, numpy leaves [T, K, ...], computed once."""

    def make() -> Any:
        questions = split_questions(setup, split)
        if guide.sample_all is None or value not in guide.settings.values():
            seed = setup.config.seed
            return guide.sample(questions, value, num_samples=guide.num_samples, seed=seed)
        every = remember(
            setup,
            setup.cache.all_points,
            (guide.name, split),
            lambda: guide.sample_all(guide.model, questions),
        )
        return every[value]

    return remember(setup, setup.cache.points, Points(guide.name, split, value), make)


def mean_points(points: Any) -> Any:
    """The mean of the samples, as one: leaves [n, K, ...] -> [n, 1, ...]. A mask is the same in all
    samples, and stays as it is."""

    def mean(leaf: np.ndarray) -> np.ndarray:
        if np.issubdtype(leaf.dtype, np.floating):
            return leaf.mean(axis=1, keepdims=True)
        return leaf[:, :1]

    return jax.tree.map(mean, points)


def answers_of(guide: Guide, generate: Callable | None = None) -> scoring.LogitsFn:
    """The logits of the networks of points, of each by itself or of their vote.

    generate: as that of the guide, in its place.
    """
    method = scoring.point_method(guide.network, generate or guide.generate)
    return scoring.mean_of_log_probabilities(method) if guide.votes else method


def guide_scores(
    setup: Setup, guide: Guide, change: Callable | None = None
) -> Callable[[Any, str], Scores]:
    """(points [T, K, ...], split) -> Scores of their networks, on average over K, or of their vote.

    change: one of scoring's functions of a Method, such as `ensemble`.
    """
    method = answers_of(guide)
    task_fn = scoring.scores_of(method if change is None else change(method))
    run = compile_scores(setup, Program("guide", guide.name, change), task_fn)
    model = replicated_model(setup, guide)
    return lambda points, split: run(model, points, split)


def replicated_model(setup: Setup, guide: Guide) -> Any:
    """The guide's model on all devices, copied once."""
    return remember(setup, setup.cache.models, guide.name, lambda: parallel.replicate(guide.model))


def guide_score(setup: Setup, guide: Guide) -> Callable[[str, Any, int | None], Scores]:
    """(split, value of the guide's settings, shots) -> Scores of the networks of mean points: what
    the guide's main row has."""
    run = guide_scores(setup, guide)

    def score(split: str, value: Any, shots: int | None) -> Scores:
        return run(guide.answering(points_of(setup, guide, split, value)), split)

    return score


def guide_row(setup: Setup, guide: Guide, *, curve: bool = False) -> Row:
    """The guide's main row: its id is the name of the method."""
    score = guide_score(setup, guide)
    return Row(
        guide.name, guide.title, "language", score, guide.settings, guide.varies, curve=curve
    )


def chosen_setting(setup: Setup, guide: Guide) -> str:
    """The setting whose mean points are best on the validation tasks, a key of guide.settings."""
    score = guide_score(setup, guide)

    def make() -> str:
        return choose(lambda value: score("validation", value, None), guide.settings)

    return remember(setup, setup.cache.chosen, guide.name, make)


def adapted_rows(setup: Setup, guide: Guide) -> list[Row]:
    """A few-shot row that starts from what the guide generates, where config.evaluate asks for
    it; none of a guide whose networks vote, as they have no one start."""
    if guide.votes or guide.name not in setup.config.evaluate.few_shot_guides:
        return []
    learner, params, starts = _adaptation(setup, guide)
    row = few_shot_row(
        setup,
        RowName(f"{guide.name}.adapted", f"{guide.title}, adapted"),
        learner,
        params,
        key=guide.space or guide.name,
        shots=True,
        starts=starts,
    )
    return [row]


def _adaptation(setup: Setup, guide: Guide) -> tuple[Learner, Any, Callable[[str], Any]]:
    """(learner, its parameters, split -> where it starts, leaves [T, ...]) of a guide."""

    def points(split: str) -> Any:
        value = guide.settings[chosen_setting(setup, guide)]
        return mean_points(points_of(setup, guide, split, value))

    if guide.learner is not None:
        starts = guide.start_fn
        return (
            guide.learner,
            guide.learner_params,
            lambda split: starts(jax.tree.map(lambda leaf: leaf[:, 0], points(split))),
        )
    run = compile_scores(
        setup, Program("weights", guide.name), scoring.point_weights(guide.generate)
    )
    start = np.zeros(guide.network.num_weights, np.float32)
    model, params = replicated_model(setup, guide), {"e0": start, "generator": {}}
    return (
        weights_learner(guide.network),
        params,
        lambda split: run(model, points(split), split)[:, 0],
    )
