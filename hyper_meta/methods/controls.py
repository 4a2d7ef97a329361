"""What language has to beat: memory of the training tasks, and questions or answers that say
nothing. A method that does no better than the nearest training sentence has memorised."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.eval.rows import NEAREST
from hyper_meta.meta import scoring
from hyper_meta.methods.cache import Program
from hyper_meta.methods.guides import (
    Guide,
    GuideMaker,
    chosen_setting,
    guide_of,
    guide_scores,
    points_of,
)
from hyper_meta.methods.interface import (
    Method,
    Row,
    Setup,
    compile_scores,
    split_questions,
)
from hyper_meta.methods.nearest import nearest_tasks
from hyper_meta.methods.spaces import latent_scores
from hyper_meta.methods.trained import Trained
from hyper_meta.methods.training_networks import training_network_rows
from hyper_meta.models.sentences import noise_sentences, take


def _latent_rows(setup: Setup, trained: Trained) -> list[Row]:
    name = setup.config.latents.nearest
    space = trained.space(name)
    adapted = space.latents.mean(axis=1)
    run = latent_scores(setup, name, space)

    def mean_latent(split: str, _: None, shots: int | None) -> Scores:
        latents = np.broadcast_to(adapted.mean(axis=0), (len(setup.tasks[split]), adapted.shape[1]))
        return run(latents[:, None], split)

    def nearest(split: str, number: int, shots: int | None) -> Scores:
        chosen = adapted[nearest_tasks(setup, split, number)]
        return run(chosen.mean(axis=1, keepdims=True), split)

    return [
        Row("mean_latent", "mean latent of the training tasks", "control", mean_latent),
        Row(NEAREST, "latent of the nearest training sentence", "control", nearest, {"": 1}),
        Row(
            "nearest_latents",
            "mean latent of the nearest training sentences",
            "control",
            nearest,
            {str(number): number for number in (3, 5, 10, 20)},
            varies="sentences",
        ),
    ]


def _weights_rows(setup: Setup, trained: Trained) -> list[Row]:
    weights = trained.weights("mnet_weights").mean(axis=1)
    method = scoring.latent_method(setup.network, lambda _, point: point)
    run = compile_scores(setup, Program("control", "mnet_weights"), scoring.scores_of(method))

    def nearest(split: str, _: None, shots: int | None) -> Scores:
        chosen = weights[nearest_tasks(setup, split)]
        return run(parallel.replicate({"generator": {}}), chosen, split)

    title = "weights of the nearest training sentence"
    return [Row("nearest_weights", title, "control", nearest)]


def wrong_questions(makers: Mapping[str, GuideMaker]) -> Method:
    """The controls of the guides that config.evaluate.control_guides names.

    makers: of every language method, by its name.
    """

    def rows(setup: Setup, trained: Trained) -> list[Row]:
        names = setup.config.evaluate.control_guides
        guides = [guide_of(setup, trained, name, makers[name]) for name in names]
        asked = [row for guide in guides for row in wrong_question_rows(setup, guide)]
        return [*asked, *training_network_rows(setup, trained, guides)]

    return Method(
        rows,
        needs=lambda config: tuple(config.evaluate.control_guides),
        summary="control: guides asked wrongly; training networks with noise, averaged",
    )


def wrong_question_rows(setup: Setup, guide: Guide) -> list[Row]:
    """A guide at its chosen setting, asked wrong questions, or judged on wrong answers; and where
    it has a guidance scale, without guidance."""
    value = guide.settings[chosen_setting(setup, guide)]
    run = guide_scores(setup, guide)
    run_shuffled = guide_scores(setup, guide, scoring.with_answers_shuffled)

    def row(variant: str, title: str, score: Callable) -> Row:
        return Row(f"{guide.name}.{variant}", f"{guide.title}, {title}", "control", score)

    def asked(wrong_fn: Callable, split: str, _: None, shots: int | None) -> Scores:
        rng = np.random.default_rng([setup.config.seed, len(split)])
        wrong = wrong_fn(rng, setup.tables["train"].questions, split_questions(setup, split))
        seed = setup.config.seed
        points = guide.sample(wrong, value, num_samples=guide.num_samples, seed=seed)
        return run(guide.answering(points), split)

    def unguided(split: str, _: None, shots: int | None) -> Scores:
        return run(guide.answering(points_of(setup, guide, split, 0.0)), split)

    def shuffled(split: str, _: None, shots: int | None) -> Scores:
        return run_shuffled(guide.answering(points_of(setup, guide, split, value)), split)

    return [
        *([row("unguided", "guidance 0", unguided)] if guide.scaled else []),
        *(
            row(variant, title, functools.partial(asked, wrong_fn))
            for variant, (title, wrong_fn) in WRONG_QUESTIONS.items()
        ),
        row("shuffled_answers", "answers shuffled", shuffled),
    ]


def _training_questions(
    rng: np.random.Generator, known: SentenceFeatures, own: SentenceFeatures
) -> SentenceFeatures:
    return take(known, rng.integers(len(known.pooled), size=len(own.pooled)))


def _other_questions(
    rng: np.random.Generator, known: SentenceFeatures, own: SentenceFeatures
) -> SentenceFeatures:
    count = len(own.pooled)
    return take(own, np.roll(np.arange(count), 1 + rng.integers(count - 1)))


def _noise_questions(
    rng: np.random.Generator, known: SentenceFeatures, own: SentenceFeatures
) -> SentenceFeatures:
    return noise_sentences(rng, known, len(own.pooled))


# Variant -> (title, (generator, training questions, the tasks' own questions) -> wrong questions).
WRONG_QUESTIONS = {
    "training_question": ("a random training question", _training_questions),
    "other_question": ("another task's question", _other_questions),
    "noise_question": ("noise for a question", _noise_questions),
}
LATENTS = Method(
    _latent_rows,
    needs=lambda config: (config.latents.nearest,),
    summary="control: latents of the training tasks with the nearest sentences",
)
WEIGHTS = Method(
    _weights_rows,
    needs=lambda config: ("mnet_weights",),
    summary="control: weights of the training task with the nearest sentence",
)
