"""HyperCLIP guidance in a latent space (method.md section 5)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.classifier_guidance import WeightStatistics
from hyper_meta.methods.guides import Guide, GuideMaker, adapted_rows, guide_of, guide_row
from hyper_meta.methods.interface import Method, Row, Setup
from hyper_meta.methods.spaces import (
    Space,
    fit_guide,
    latent_generate,
    space_factors,
    space_learner,
    space_shapes,
    space_title,
)
from hyper_meta.models.sentences import measure_sentences
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.stages.hyperclip import (
    Setting,
    compile_guidance,
    guidance_choices,
    guide_tasks,
    hyperclip_model,
    hyperclip_module,
    hyperclip_stage,
    setting_name,
)


def guided(space_name: str) -> Method:
    """Guidance in the space that the method space_name leaves."""
    name = f"{space_name}_hyperclip"
    maker = GuideMaker(
        model=lambda setup, trained: {
            "space": trained[space_name].params,
            "hyperclip": trained[name],
        },
        shapes=functools.partial(_shapes, space_name),
        make=functools.partial(_guide, space_name),
    )

    def train(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
        space: Space = trained[space_name]
        return fit_guide(setup, space, "hyperclip", name, hyperclip_stage)

    def rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
        guide = guide_of(setup, trained, name, maker)
        return [guide_row(setup, guide, curve=True), *adapted_rows(setup, guide)]

    return Method(
        rows,
        train,
        needs=lambda config: (space_name,),
        summary=f"HyperCLIP: classifier guidance in the latent space of {space_name}",
        guide=maker,
    )


def _shapes(
    space_name: str, config: RunSettings, network: BaseNetwork, sentence: SentenceFeatures
) -> dict[str, Any]:
    module = hyperclip_module(config, sentence.pooled.shape[-1])
    weights = jnp.zeros(network.num_weights)
    params = jax.eval_shape(module.init, jax.random.key(0), weights)["params"]
    questions = jax.eval_shape(measure_sentences, jax.tree.map(lambda x: x[None], sentence))
    statistics = jax.eval_shape(lambda: WeightStatistics(weights, weights, questions))
    return {
        "space": space_shapes(config, network, space_name),
        "hyperclip": {"params": params, "statistics": statistics},
    }


def _guide(space_name: str, config: RunSettings, network: BaseNetwork, model: Any) -> Guide:
    question_dim = len(model["hyperclip"]["statistics"].questions.mean)
    guide_fn = compile_guidance(config, space_factors(space_name), question_dim)

    @functools.cache
    def on_devices() -> Any:
        return parallel.replicate(hyperclip_model(**model["hyperclip"], space=model["space"]))

    def every(_: Any, questions: SentenceFeatures) -> dict[Setting, Any]:
        guided = guide_tasks(config, guide_fn, on_devices(), questions)
        return {setting: latents[:, None] for setting, latents in guided.items()}

    def sample(_: Any, questions: SentenceFeatures, value: Setting, num: int, seed: int) -> Any:
        rate, pull, steps = value
        path = guide_fn(on_devices(), questions, rate, pull, seed)
        place = config.hyperclip.guidance.steps.index(steps)
        return path[:, place : place + 1].repeat(num, axis=1)

    return Guide(
        name=f"{space_name}_hyperclip",
        title=f"{space_title(space_name)} + HyperCLIP",
        network=network,
        model=model,
        sample_fn=sample,
        generate=latent_generate(space_name),
        settings={setting_name(setting): setting for setting in guidance_choices(config)},
        varies="guidance",
        sample_all=every,
        space=space_name,
        learner=space_learner(space_name, network),
        learner_params=model["space"],
    )
