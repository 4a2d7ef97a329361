"""The training stages, built from a config and a table of tasks.

Here the settings of a run end: everything below takes plain arguments.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Key

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.training import ConditionalSettings, FilmSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.data.table import TaskTable
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import (
    Learner,
    fixed_learner,
    generator_learner,
    latent_learner,
    weights_learner,
)
from hyper_meta.meta.objectives import meta_objective
from hyper_meta.models.film import Film
from hyper_meta.models.generator import GENERATOR, Generator, generate_weights
from hyper_meta.models.sentences import (
    SentenceMoments,
    measure_sentences,
    standardise_sentences,
    take,
)
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.networks.film import film_weights
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.language import reader_module
from hyper_meta.train.stages.parts import stage_network
from hyper_meta.train.stages.task_stage import Plan, TaskModel, task_stage, without_draws

# Whether the meta-objective adapts, and whether the inner gradients are constants.
OBJECTIVES = {"multitask": (False, False), "fomaml": (True, True), "maml": (True, False)}


@dataclasses.dataclass(frozen=True)
class LearnerStart:
    """A learner and its first parameters, init_params: PRNG key -> pytree."""

    learner: Learner
    init_params: Callable[[jax.Array], Any]


def generator_module(config: RunSettings, network: BaseNetwork) -> nn.Module:
    """The module of HNet's generator."""
    return Generator(tuple(config.hnet.hidden_dims), network.num_weights)


def hnet_learner(config: RunSettings, network: BaseNetwork, *, pull: float = 0.0) -> Learner:
    """HNet moves the latent of its generator."""
    return latent_learner(network, functools.partial(generate_weights, GENERATOR), pull=pull)


def _hnet(config: RunSettings, network: BaseNetwork, train: TaskTable) -> LearnerStart:
    """HNet (method.md section 4)."""
    module = generator_module(config, network)

    def init_params(key: jax.Array) -> dict:
        latent_key, key = jax.random.split(key)
        latent = jax.random.normal(latent_key, (config.hnet.latent_dim,))
        return {"e0": latent, "generator": module.init(key, latent)["params"]}

    return LearnerStart(hnet_learner(config, network), init_params)


def _mnet(config: RunSettings, network: BaseNetwork, train: TaskTable) -> LearnerStart:
    """MNet: the weights themselves are learnt and adapted (method.md section 4)."""
    return LearnerStart(
        weights_learner(network), lambda key: {"e0": network.init(key), "generator": {}}
    )


def _conditional(config: RunSettings, network: BaseNetwork, train: TaskTable) -> LearnerStart:
    """The conditional hypernetwork (method.md section 4): the question is the generator's input,
    and with MAML all its weights adapt."""
    return LearnerStart(
        conditional_learner(config, network, measure_sentences(train.questions)),
        functools.partial(conditional_params, config, network, take(train.questions, 0)),
    )


def _film(
    section: str, config: RunSettings, network: BaseNetwork, train: TaskTable
) -> LearnerStart:
    """FiLM (method.md section 4): one adapter, hidden units scaled and shifted by the question."""
    return LearnerStart(
        film_learner(section, config, network, measure_sentences(train.questions)),
        functools.partial(film_params, section, config, network, take(train.questions, 0)),
    )


# Section of the config -> (config, network, training table) -> LearnerStart.
LEARNERS = {
    "hnet": _hnet,
    "mnet": _mnet,
    "conditional": _conditional,
    "film": functools.partial(_film, "film"),
    "film_tokens": functools.partial(_film, "film_tokens"),
}


def learner_stage(
    section: str,
    config: RunSettings,
    train: TaskTable,
    validation: TaskTable,
    *,
    name: str,
    objective: str,
    learning_rate: float,
) -> Stage:
    """The learner of a section of the config, trained with an objective; best by (adapted)
    validation accuracy.

    section: a key of LEARNERS; objective: one of OBJECTIVES; learning_rate: of Adam.
    """
    if section not in LEARNERS or objective not in OBJECTIVES:
        raise ValueError(
            f"unknown learner {section!r} or objective {objective!r}: one of {sorted(LEARNERS)} "
            f"and one of {sorted(OBJECTIVES)}"
        )
    settings, (adapts, first_order) = getattr(config, section), OBJECTIVES[objective]
    begun = LEARNERS[section](config, stage_network(config, train), train)
    loop = InnerLoop(
        num_steps=settings.inner_steps if adapts else 0,
        learning_rate=settings.inner_learning_rate if adapts else 0.0,
        first_order=first_order,
    )
    model = TaskModel(
        begun.init_params,
        without_draws(meta_objective(begun.learner, loop)),
        judged=[(1.0, scoring.adapted_method(begun.learner, loop))],
    )
    return task_stage(Plan(name, settings, learning_rate), config, (train, validation), model)


def conditional_params(
    config: RunSettings, network: BaseNetwork, sentence: SentenceFeatures, key: Key[jax.Array, ""]
) -> Any:
    """The first parameters of the conditional hypernetwork, for questions like this sentence."""
    module = Generator(tuple(config.conditional.hidden_dims), network.num_weights)
    return module.init(key, jnp.zeros(sentence.pooled.shape))["params"]


def conditional_learner(
    config: RunSettings, network: BaseNetwork, measured: SentenceMoments
) -> Learner:
    """The conditional hypernetwork, all of whose weights move; measured: on training questions."""
    return generator_learner(network, _prepared_questions(config.conditional, measured))


def film_params(
    section: str,
    config: RunSettings,
    network: BaseNetwork,
    sentence: SentenceFeatures,
    key: Key[jax.Array, ""],
) -> Any:
    """The first parameters of FiLM, for questions like this sentence; a section whose condition is
    "tokens" has a reader too."""
    adapter_key, key = jax.random.split(key)
    params, question = {"adapter": network.init(adapter_key)}, jnp.zeros(sentence.pooled.shape)
    if getattr(config, section).condition == "tokens":
        key, reader_key = jax.random.split(key)
        sentence = jax.tree.map(jnp.asarray, sentence)
        params["reader"] = reader_module(config).init(reader_key, sentence)["params"]
        question = jnp.zeros(config.reader.width)
    return params | {"film": film_module(section, config).init(key, question)["params"]}


def film_module(section: str, config: RunSettings) -> nn.Module:
    """The module that turns a vector into scales and shifts."""
    return Film(tuple(getattr(config, section).hidden_dims), config.network.hidden_dim)


def film_learner(
    section: str, config: RunSettings, network: BaseNetwork, measured: SentenceMoments
) -> Learner:
    """FiLM; nothing moves in the inner loop; measured: on training questions."""
    module, settings = film_module(section, config), getattr(config, section)
    prepare = _prepared_questions(settings, measured)

    def vector(params: Any, question: SentenceFeatures) -> jax.Array:
        if settings.condition == "pooled":
            return prepare(question)
        asked = standardise_sentences(measured, question)
        return reader_module(config).apply({"params": params["reader"]}, asked).vector

    def generate(params: Any, question: SentenceFeatures) -> jax.Array:
        scale, shift = module.apply({"params": params["film"]}, vector(params, question))
        return film_weights(params["adapter"], scale, shift, network.embed_dim)

    return fixed_learner(network, generate)


def _prepared_questions(
    settings: ConditionalSettings | FilmSettings, measured: SentenceMoments
) -> Callable[[SentenceFeatures], jax.Array]:
    """Pooled questions [..., Dq] as they are or, with settings.standardise, at mean 0 and deviation
    1 over the measured ones."""
    if not settings.standardise:
        return lambda question: question.pooled
    return lambda question: standardise_sentences(measured, question).pooled
