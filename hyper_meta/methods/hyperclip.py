"""HyperCLIP guidance in a latent space (method.md section 5)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.classifier_guidance import WeightStatistics
from hyper_meta.methods.guides import Guide
from hyper_meta.methods.interface import Method
from hyper_meta.methods.latent_guides import LatentGuide, in_space
from hyper_meta.methods.spaces import space_factors
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
    about = LatentGuide(
        section="hyperclip",
        title="HyperCLIP",
        summary="HyperCLIP: classifier guidance",
        stage=hyperclip_stage,
        shapes=_shapes,
        make=_guide,
    )
    return in_space(about, space_name)


def _shapes(
    config: RunSettings, network: BaseNetwork, latent_dim: int, sentence: SentenceFeatures
) -> dict[str, Any]:
    module = hyperclip_module(config, sentence.pooled.shape[-1])
    weights = jnp.zeros(network.num_weights)
    params = jax.eval_shape(module.init, jax.random.key(0), weights)["params"]
    questions = jax.eval_shape(measure_sentences, jax.tree.map(lambda x: x[None], sentence))
    statistics = jax.eval_shape(lambda: WeightStatistics(weights, weights, questions))
    return {"params": params, "statistics": statistics}


def _guide(config: RunSettings, space_name: str, model: Any, new: Callable[..., Guide]) -> Guide:
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

    return new(
        sample_fn=sample,
        settings={setting_name(setting): setting for setting in guidance_choices(config)},
        varies="guidance",
        sample_all=every,
    )
