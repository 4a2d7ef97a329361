"""HNet started by the sentence (method.md section 4): reader and generator trained together, and
several such generators side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.training import LanguageSettings
from hyper_meta.core.types import SentenceFeatures, TaskBatch
from hyper_meta.data.table import TaskTable
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import Learner, latent_learner
from hyper_meta.meta.objectives import (
    Objective,
    meta_objective,
    mixed_objective,
)
from hyper_meta.models.generator import GENERATOR, Generator, generate_weights
from hyper_meta.models.reader import LatentReader, Reader
from hyper_meta.models.sentences import (
    SentenceMoments,
    keep_sentences,
    measure_sentences,
    standardise_sentences,
    take,
    without_tokens,
)
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.parts import stage_network
from hyper_meta.train.stages.task_stage import Drawn, Plan, TaskModel, task_stage

START = InnerLoop(0, 0.0)


def reader_module(config: RunSettings) -> Reader:
    """The reader that the config describes."""
    return Reader(config.reader.width, config.reader.num_blocks, config.reader.num_heads)


def prepared(
    condition: str, measured: SentenceMoments, question: SentenceFeatures
) -> SentenceFeatures:
    """A question as models take it: standardised, and with condition "pooled" without tokens."""
    question = standardise_sentences(measured, question)
    return without_tokens(question) if condition == "pooled" else question


def language_params(
    config: RunSettings,
    settings: LanguageSettings,
    network: BaseNetwork,
    sentence: SentenceFeatures,
    key: Key[jax.Array, ""],
) -> dict[str, Any]:
    """The first parameters {"e0", "reader", "generator"}, for questions like this sentence."""
    latent_key, reader_key, generator_key = jax.random.split(key, 3)
    if settings.condition == "pooled":
        sentence = without_tokens(sentence)
    latent = jax.random.normal(latent_key, (settings.latent_dim,))
    generator = Generator(tuple(settings.hidden_dims), network.num_weights)
    return {
        "e0": latent,
        "reader": latent_reader(config, settings).init(reader_key, sentence)["params"],
        "generator": generator.init(generator_key, latent)["params"],
    }


def latent_reader(config: RunSettings, settings: LanguageSettings) -> LatentReader:
    """The module from a prepared sentence to where its latent starts."""
    return LatentReader(reader_module(config), settings.latent_dim)


def read_fn(
    config: RunSettings, settings: LanguageSettings, measured: SentenceMoments
) -> Callable[[Any, SentenceFeatures], jax.Array]:
    """({"reader": params}, sentences [...]) -> latents [..., Z]; measured: on training
    questions."""
    module = latent_reader(config, settings)

    def read(params: Any, question: SentenceFeatures) -> jax.Array:
        asked = prepared(settings.condition, measured, question)
        return module.apply({"params": params["reader"]}, asked)

    return read


def language_learner(
    config: RunSettings,
    settings: LanguageSettings,
    network: BaseNetwork,
    measured: SentenceMoments,
) -> Learner:
    """The latent that starts where the sentence is read, and moves."""
    return latent_learner(
        network,
        functools.partial(generate_weights, GENERATOR),
        read=read_fn(config, settings, measured),
    )


def language_stage(
    section: str,
    config: RunSettings,
    train: TaskTable,
    validation: TaskTable,
    *,
    name: str,
    learning_rate: float,
) -> Stage:
    """Reader and generator trained together, by the task loss where the sentence starts and, in a
    share of it, after a few inner steps from there; best by the accuracies in the same shares.

    section: of the config, a LanguageSettings.
    """
    settings: LanguageSettings = getattr(config, section)
    learner, init_params = begun(config, settings, train)
    loss = _loss(settings, _objective(settings, learner))
    model = TaskModel(init_params, loss, judged=judged(settings, learner))
    return task_stage(Plan(name, settings, learning_rate), config, (train, validation), model)


def generators_stage(
    config: RunSettings,
    train: TaskTable,
    validation: TaskTable,
    *,
    name: str,
    learning_rate: float,
) -> Stage:
    """config.generators.num_members generators side by side, with the same tasks, and first
    parameters and draws of their own; best by the accuracy of the mean of their log-probabilities.

    params have a leading axis of members, [M, ...].
    """
    settings = config.generators
    learner, init_one = begun(config, settings, train)

    def init_params(key: jax.Array) -> Any:
        return jax.vmap(init_one)(jax.random.split(key, settings.num_members))

    model = TaskModel(
        init_params,
        _loss(settings, _objective(settings, learner)),
        judged=[(1.0, scoring.mean_of_log_probabilities(members_method(learner)))],
        num_members=settings.num_members,
    )
    return task_stage(Plan(name, settings, learning_rate), config, (train, validation), model)


def members_method(learner: Learner) -> scoring.LogitsFn:
    """The logits of members where they start, [B, M, N, A]; params have leaves [M, ...]."""

    def method(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        def weights(params: Any, question: SentenceFeatures) -> jax.Array:
            return learner.weights(params, question, learner.start(params, question, 0))

        of_members = jax.vmap(weights, (0, None))
        made = jax.vmap(of_members, (None, 0))(params, tasks.question)
        return scoring.query_logits(learner.network, made, tasks)

    return method


def inner_loop(settings: LanguageSettings) -> InnerLoop:
    """How a latent is adapted from the start of its sentence."""
    return InnerLoop(
        settings.inner_steps,
        settings.inner_learning_rate,
        first_order=settings.objective == "fomaml",
    )


def begun(
    config: RunSettings, settings: LanguageSettings, train: TaskTable
) -> tuple[Learner, Callable[[jax.Array], Any]]:
    """(the learner of a table's sentences, PRNG key -> its first parameters)."""
    network, measured = stage_network(config, train), measure_sentences(train.questions)
    sentence = jax.tree.map(jnp.asarray, take(train.questions, 0))

    def init_params(key: jax.Array) -> Any:
        return language_params(config, settings, network, sentence, key)

    return language_learner(config, settings, network, measured), init_params


def _objective(settings: LanguageSettings, learner: Learner) -> Objective:
    share = settings.adapted_share
    start = meta_objective(learner, START)
    adapted = meta_objective(learner, inner_loop(settings))
    return mixed_objective([(1 - share, start), (share, adapted)])


def judged(settings: LanguageSettings, learner: Learner) -> list[tuple[float, scoring.LogitsFn]]:
    """How a TaskModel is validated: where the sentence starts, and after the inner steps, in the
    shares of the loss."""
    share, loop = settings.adapted_share, inner_loop(settings)
    return [
        (1 - share, scoring.adapted_method(learner, START)),
        (share, scoring.adapted_method(learner, loop)),
    ]


def kept_sentences(settings: LanguageSettings, drawn: Drawn) -> Bool[jax.Array, " t"]:
    """Which tasks of a group keep their sentences in a step; the others are for e0 to learn."""
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - settings.drop_rate))
    return draw(drawn.keys)


def drop_sentences(
    settings: LanguageSettings, groups: Sequence[TaskBatch], drawn: Sequence[Drawn]
) -> Sequence[TaskBatch]:
    """The groups, some of whose tasks have lost their sentence."""
    if not settings.drop_rate:
        return groups
    return [
        tasks.replace(question=keep_sentences(tasks.question, kept_sentences(settings, draw)))
        for tasks, draw in zip(groups, drawn, strict=True)
    ]


def _loss(settings: LanguageSettings, objective: Objective) -> Callable[..., tuple]:
    """The objective where some tasks have lost their sentence."""
    return lambda params, groups, drawn: objective(params, drop_sentences(settings, groups, drawn))
