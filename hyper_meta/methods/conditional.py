"""From the question to the weights in one step (method.md section 4): the conditional hypernetwork,
multitask and HNet-MAML, and FiLM."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.meta.learners import Learner
from hyper_meta.methods.guides import Guide, GuideMaker
from hyper_meta.methods.interface import Method, Setup
from hyper_meta.methods.language import check_tokens
from hyper_meta.methods.learnt import LearntMethod, learnt
from hyper_meta.methods.trained import Trained
from hyper_meta.models.sentences import measure_sentences
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.stages import meta_learning as stages


def hypernetwork(objective: str) -> Method:
    """The question is the generator's input; with MAML all its weights adapt."""
    maml = objective == "maml"
    name = "conditional_maml" if maml else "conditional"
    title = "conditional HNet-MAML" if maml else "conditional hypernetwork"
    training = "with MAML" if maml else "multitask"
    method = LearntMethod(
        name=name,
        title=title,
        kind="language",
        section="conditional",
        stage=functools.partial(stages.learner_stage, "conditional", objective=objective),
        learner=_of_training(stages.conditional_learner),
        summary=f"hypernetwork from the question to the weights, trained {training}",
        maps_question_directly=True,
        guide=_maker(name, title, stages.conditional_learner, stages.conditional_params),
    )
    return learnt(method)


def _of_training(make: Callable[..., Learner]) -> Callable[[Setup], Learner]:
    """The learner, with questions measured on the training tasks."""

    def learner(setup: Setup) -> Learner:
        return make(setup.config, setup.network, measure_sentences(setup.tables["train"].questions))

    return learner


def _maker(
    name: str, title: str, learner: Callable[..., Learner], init_params: Callable[..., Any]
) -> GuideMaker:
    """The guide of a learner whose start is a network for the question: one network a sentence,
    whose point is the question itself.

    learner: (config, network, SentenceMoments) -> Learner; init_params: (config, network, a
    sentence, key) -> its parameters.
    """
    return GuideMaker(
        model=functools.partial(_model, name),
        shapes=functools.partial(_shapes, init_params),
        make=functools.partial(_guide, name, title, learner),
    )


def _model(name: str, setup: Setup, trained: Trained) -> dict[str, Any]:
    measured = measure_sentences(setup.tables["train"].questions)
    return {"params": trained.fitted(name).params, "questions": jax.tree.map(np.asarray, measured)}


def _shapes(
    init_params: Callable[..., Any],
    config: RunSettings,
    network: BaseNetwork,
    sentence: SentenceFeatures,
) -> dict[str, Any]:
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], sentence)
    params = functools.partial(init_params, config, network, sentence)
    return {
        "params": jax.eval_shape(params, jax.random.key(0)),
        "questions": jax.eval_shape(measure_sentences, batch),
    }


def _guide(
    name: str,
    title: str,
    learner: Callable[..., Learner],
    config: RunSettings,
    network: BaseNetwork,
    model: Any,
) -> Guide:
    def generate(model: Any, points: SentenceFeatures) -> jax.Array:
        start = learner(config, network, model["questions"])

        def one(question: SentenceFeatures) -> jax.Array:
            point = start.start(model["params"], question, 0)
            return start.weights(model["params"], question, point)

        return jax.vmap(one)(points)

    return Guide(name, title, network, model, _repeated, generate)


def _repeated(_: Any, questions: SentenceFeatures, __: None, num_samples: int, seed: int) -> Any:
    """The questions themselves as points, leaves [n, K, ...]: all samples are the same."""
    return jax.tree.map(
        lambda leaf: np.asarray(leaf)[:, None].repeat(num_samples, axis=1), questions
    )


def film(section: str, title: str, summary: str) -> Method:
    """FiLM, trained as a section of the config says; the section is its name."""
    learner = functools.partial(stages.film_learner, section)
    method = LearntMethod(
        name=section,
        title=title,
        kind="language",
        section=section,
        stage=functools.partial(stages.learner_stage, section, objective="multitask"),
        learner=_of_training(learner),
        summary=summary,
        guide=_maker(section, title, learner, functools.partial(stages.film_params, section)),
        check=functools.partial(_check_film, section),
    )
    return learnt(method)


def _check_film(section: str, config: RunSettings) -> None:
    check_tokens(section, config)
    if config.network.name != "adapter":
        raise UserError(
            f"{section} scales the hidden units of an adapter, network.name is "
            f"{config.network.name!r}: leave {section} out of the methods, or generate adapters"
        )


FILM = film("film", "FiLM", "FiLM: one network, modulated by the question")
FILM_TOKENS = film(
    "film_tokens", "FiLM of tokens", "FiLM: one network, modulated by the tokens of the question"
)
