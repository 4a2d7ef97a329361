"""HyperLDM in a latent space (method.md section 5): classifier-free guidance over scales, ensembles
of samples, and what the support set adds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.latent_sampling import latent_statistics
from hyper_meta.meta import scoring
from hyper_meta.methods.cache import Program
from hyper_meta.methods.guides import Guide, chosen_setting, guide_scores, points_of
from hyper_meta.methods.interface import Method, Row, Setup, compile_scores
from hyper_meta.methods.language import check_tokens
from hyper_meta.methods.latent_guides import LatentGuide, in_space
from hyper_meta.methods.spaces import latent_generate
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.stages.hyperldm import (
    Sampler,
    compile_sampler,
    denoiser_module,
    guided_by_support,
    hyperldm_stage,
    sample_noise,
    sample_tasks,
    validation_scales,
)
from hyper_meta.train.stages.tuned import few_steps, tuned_stage


def diffused(space_name: str, section: str = "hyperldm") -> Method:
    """Diffusion in the space that the method space_name leaves, as a section of the config says."""
    tokens = section == "hyperldm_tokens"
    about = LatentGuide(
        section=section,
        title="HyperLDM of tokens" if tokens else "HyperLDM",
        summary="HyperLDM that reads tokens," if tokens else "HyperLDM: classifier-free diffusion",
        stage=functools.partial(hyperldm_stage, section=section),
        shapes=functools.partial(hyperldm_shapes, section),
        make=functools.partial(_guide, section),
        check=functools.partial(check_tokens, section),
        more_rows=functools.partial(_more_rows, section),
    )
    return in_space(about, space_name)


def tuned(space_name: str, section: str) -> Method:
    """The HyperLDM of a section of the config, trained on by the task loss."""

    def make(config: RunSettings, space_name: str, model: Any, new: Callable[..., Guide]) -> Guide:
        sampler = compile_sampler(config, section=section, how=few_steps(config, section))
        return new(
            sample_fn=_sample_fn(sampler, "tuned", model),
            settings={"": 1.0},
            num_samples=getattr(config, section).num_samples,
            random=True,
        )

    about = LatentGuide(
        section="tuned",
        title="HyperLDM tuned on the task loss",
        summary="HyperLDM tuned on the task loss,",
        stage=functools.partial(tuned_stage, section=section),
        shapes=functools.partial(hyperldm_shapes, section),
        make=make,
        base=section,
        check=functools.partial(check_tokens, section),
    )
    return in_space(about, space_name)


def hyperldm_shapes(
    section: str,
    config: RunSettings,
    network: BaseNetwork,
    latent_dim: int,
    sentence: SentenceFeatures,
) -> dict[str, Any]:
    """jax.ShapeDtypeStruct in place of each array of `Fitted.as_tree` of a HyperLDM."""
    latent, question = jnp.zeros((1, latent_dim)), jax.tree.map(lambda x: x[None], sentence)
    time, keep = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
    denoiser = denoiser_module(config, latent_dim, section=section)
    params = jax.eval_shape(denoiser.init, jax.random.key(0), latent, time, question, keep)
    statistics = jax.eval_shape(latent_statistics, latent, question)
    return {"params": params["params"], "statistics": statistics}


def _guide(
    section: str, config: RunSettings, space_name: str, model: Any, new: Callable[..., Guide]
) -> Guide:
    scales = validation_scales(config, section=section)
    return new(
        sample_fn=_sample_fn(compile_sampler(config, section=section), section, model),
        settings={f"{scale:g}": scale for scale in scales},
        varies="guidance scale",
        num_samples=getattr(config, section).num_samples,
        random=True,
        scaled=True,
    )


def _sample_fn(sampler: Sampler, section: str, model: Any) -> Callable[..., np.ndarray]:
    """Guide.sample_fn of a compiled sampler, for the HyperLDM of a section of the model."""

    @functools.cache
    def on_devices() -> Any:
        return parallel.replicate({**model[section], "start": model["space"]["e0"]})

    def sample(_: Any, questions: SentenceFeatures, scale: float, num: int, seed: int) -> Any:
        return sample_tasks(
            sampler, on_devices(), questions, scale=scale, num_samples=num, seed=seed
        )

    return sample


def _more_rows(section: str, setup: Setup, guide: Guide) -> list[Row]:
    one, mean_of_logits = (
        guide_scores(setup, guide, change) for change in (None, scoring.ensemble)
    )

    def mean_logits(split: str, scale: float, shots: int | None) -> Scores:
        return mean_of_logits(points_of(setup, guide, split, scale), split)

    def one_sample(split: str, scale: float, shots: int | None) -> Scores:
        return one(points_of(setup, guide, split, scale), split)

    variants = {
        "mean_of_logits": ("mean of logits", mean_logits),
        "one_sample": ("one sample", one_sample),
    }
    return [
        *(
            Row(
                f"{guide.name}.{variant}",
                f"{guide.title}, {title}",
                "language",
                score,
                guide.settings,
                guide.varies,
            )
            for variant, (title, score) in variants.items()
        ),
        *_support_guided(section, setup, guide),
    ]


def _support_guided(section: str, setup: Setup, guide: Guide) -> list[Row]:
    """Few-shot guidance of the diffusion, at each strength of the section's few_shot_guidance."""
    config, strengths = setup.config, getattr(setup.config, section).few_shot_guidance
    if not strengths:
        return []
    generate = latent_generate(guide.space)
    task_fn = guided_by_support(
        config,
        guide.network,
        lambda generator, e: generate({"space": {"generator": generator}}, e),
        section=section,
    )
    sample = compile_scores(setup, Program("support-guided", guide.name), task_fn)
    run = guide_scores(setup, guide)
    space, left = guide.model["space"], guide.model[section]
    params = parallel.replicate({"space": space, "ldm": {**left, "start": space["e0"]}})

    def score(split: str, strength: float, shots: int | None) -> Scores:
        num_tasks = len(setup.tasks[split])
        scale = guide.settings[chosen_setting(setup, guide)]
        extra = {
            "scale": np.full(num_tasks, scale, np.float32),
            "strength": np.full(num_tasks, strength, np.float32),
            "noise": sample_noise(config.seed, num_tasks, guide.num_samples),
        }
        latents = sample(params, extra, split)
        return run(latents.mean(axis=1, keepdims=True), split)

    settings = {f"strength {strength:g}": strength for strength in strengths}
    return [
        Row(
            f"{guide.name}.guided_by_support",
            f"{guide.title}, guided by the support set",
            "few-shot",
            score,
            settings,
            varies="few-shot guidance",
        )
    ]
