"""The training stages, built from a config and a table of tasks.

Here the settings of a run end: everything below takes plain arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Key

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.run import (
    ConditionalSettings,
    FilmSettings,
    TaskTrainingSettings,
)
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
from hyper_meta.models.generator import Generator
from hyper_meta.models.sentences import (
    SentenceMoments,
    measure_sentences,
    standardise_sentences,
    take,
)
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.networks.film import film_weights
from hyper_meta.networks.registry import configured_network
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.task_stage import Plan, task_stage

# Whether the meta-objective adapts, and whether the inner gradients are constants.
OBJECTIVES = {"multitask": (False, False), "fomaml": (True, True), "maml": (True, False)}


def stage_network(config: RunSettings, table: TaskTable) -> BaseNetwork:
    """The network that the config describes, for the image features of a table."""
    return configured_network(config.network, table.image_features.shape[1])


def generate_fn(module: nn.Module) -> Callable:
    """(generator params, input [..., Z] or [..., Dq]) -> weights [..., P]."""
    return lambda params, inputs: module.apply({"params": params}, inputs)


def generator_module(config: RunSettings, network: BaseNetwork) -> nn.Module:
    """The module of HNet's generator."""
    return Generator(tuple(config.hnet.hidden_dims), network.num_weights)


def hnet_learner(config: RunSettings, network: BaseNetwork, *, pull: float = 0.0) -> Learner:
    """HNet moves the latent of its generator."""
    return latent_learner(network, generate_fn(generator_module(config, network)), pull=pull)


def hnet_stage(
    config: RunSettings,
    train: TaskTable,
    validation: TaskTable,
    *,
    name: str,
    objective: str,
    learning_rate: float,
) -> Stage:
    """HNet (method.md section 4), with an objective of OBJECTIVES."""
    network = stage_network(config, train)
    module = generator_module(config, network)

    def init_params(key: jax.Array) -> dict:
        latent_key, key = jax.random.split(key)
        latent = jax.random.normal(latent_key, (config.hnet.latent_dim,))
        return {"e0": latent, "generator": module.init(key, latent)["params"]}

    learner = hnet_learner(config, network)
    plan = Plan(name, objective, learning_rate)
    return _meta_stage(plan, config, config.hnet, (train, validation), init_params, learner)


def mnet_stage(
    config: RunSettings,
    train: TaskTable,
    validation: TaskTable,
    *,
    name: str,
    objective: str,
    learning_rate: float,
) -> Stage:
    """MNet: the weights themselves are learnt and adapted (method.md section 4)."""
    network = stage_network(config, train)

    def init_params(key: jax.Array) -> dict:
        return {"e0": network.init(key), "generator": {}}

    learner = weights_learner(network)
    plan = Plan(name, objective, learning_rate)
    return _meta_stage(plan, config, config.mnet, (train, validation), init_params, learner)


def conditional_stage(
    config: RunSettings,
    train: TaskTable,
    validation: TaskTable,
    *,
    name: str,
    objective: str,
    learning_rate: float,
) -> Stage:
    """The conditional hypernetwork (method.md section 4): the question is the generator's input,
    and with MAML all its weights adapt."""
    network = stage_network(config, train)

    init_params = functools.partial(conditional_params, config, network, take(train.questions, 0))
    learner = conditional_learner(config, network, measure_sentences(train.questions))
    plan = Plan(name, objective, learning_rate)
    return _meta_stage(plan, config, config.conditional, (train, validation), init_params, learner)


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


def film_stage(
    config: RunSettings, train: TaskTable, validation: TaskTable, *, name: str, learning_rate: float
) -> Stage:
    """FiLM (method.md section 4): one adapter, hidden units scaled and shifted by the question."""
    network = stage_network(config, train)
    init_params = functools.partial(film_params, config, network, take(train.questions, 0))
    learner = film_learner(config, network, measure_sentences(train.questions))
    plan = Plan(name, "multitask", learning_rate)
    return _meta_stage(plan, config, config.film, (train, validation), init_params, learner)


def film_params(
    config: RunSettings, network: BaseNetwork, sentence: SentenceFeatures, key: Key[jax.Array, ""]
) -> Any:
    """The first parameters of FiLM, for questions like this sentence."""
    adapter_key, key = jax.random.split(key)
    question = jnp.zeros(sentence.pooled.shape)
    return {
        "adapter": network.init(adapter_key),
        "film": film_module(config).init(key, question)["params"],
    }


def film_module(config: RunSettings) -> nn.Module:
    """The module that turns a question into scales and shifts."""
    return Film(tuple(config.film.hidden_dims), config.network.hidden_dim)


def film_learner(config: RunSettings, network: BaseNetwork, measured: SentenceMoments) -> Learner:
    """FiLM; nothing moves in the inner loop; measured: on training questions."""
    module, prepare = film_module(config), _prepared_questions(config.film, measured)

    def generate(params: Any, question: SentenceFeatures) -> jax.Array:
        scale, shift = module.apply({"params": params["film"]}, prepare(question))
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


def _meta_stage(
    plan: Plan,
    config: RunSettings,
    settings: TaskTrainingSettings,
    tables: tuple[TaskTable, TaskTable],
    init_params: Callable[[jax.Array], Any],
    learner: Learner,
) -> Stage:
    """A learner trained as planned; best by (adapted) validation accuracy."""
    adapts, first_order = OBJECTIVES[plan.objective]
    loop = InnerLoop(
        num_steps=settings.inner_steps if adapts else 0,
        learning_rate=settings.inner_learning_rate if adapts else 0.0,
        first_order=first_order,
    )
    return task_stage(
        plan,
        config,
        settings,
        tables,
        init_params,
        meta_objective(learner, loop),
        scoring.adapted_method(learner, loop),
    )
