"""HyperLDM in a latent space (method.md section 5): classifier-free guidance over scales, ensembles
of samples, and what the support set adds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.meta import scoring
from hyper_meta.methods.few_shot import few_shot_row
from hyper_meta.methods.interface import (
    Method,
    Row,
    RowName,
    Scores,
    Setup,
    choose,
    compile_scores,
    questions_of,
    remember,
)
from hyper_meta.methods.spaces import Space, fit_guide, latent_scores
from hyper_meta.train.stages.hyperldm import (
    compile_sampler,
    guided_by_support,
    hyperldm_stage,
    sample_noise,
    sample_tasks,
    validation_scales,
)


def diffused(space_name: str) -> Method:
    """Diffusion in the space that the method space_name leaves."""
    name = f"{space_name}_hyperldm"

    def train(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
        space: Space = trained[space_name]
        stage = functools.partial(hyperldm_stage, generate=space.generate)
        return fit_guide(setup, space, "hyperldm", name, stage)

    def rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
        return _rows(setup, space_name, trained[space_name], trained[name])

    return Method(
        rows,
        train,
        needs=lambda config: (space_name,),
        settings=("hyperldm", "evaluate.guidance_scales"),
        summary=f"HyperLDM: classifier-free guided diffusion in the latent space of {space_name}",
    )


def _rows(setup: Setup, space_name: str, space: Space, left: dict[str, Any]) -> list[Row]:
    name, title = f"{space_name}_hyperldm", f"{space.title} + HyperLDM"
    latents = sampled_latents(setup, space_name, space, left)
    one, mean_of_logits = (
        latent_scores(setup, space_name, space, change) for change in (None, scoring.ensemble)
    )

    def mean_latent(split: str, scale: float, shots: int | None) -> Scores:
        return one(latents(split, scale).mean(axis=1, keepdims=True), split)

    def mean_logits(split: str, scale: float, shots: int | None) -> Scores:
        return mean_of_logits(latents(split, scale), split)

    def one_sample(split: str, scale: float, shots: int | None) -> Scores:
        return one(latents(split, scale), split)

    scales = {f"{scale:g}": scale for scale in validation_scales(setup.config)}
    guided = {"settings": scales, "varies": "guidance scale"}
    scale = chosen_scale(setup, space_name, space, left)

    def starts(split: str) -> np.ndarray:
        return latents(split, scale).mean(axis=1)

    adapted = few_shot_row(
        setup,
        RowName(f"{name}.adapted", f"{title}, adapted"),
        space.learner(),
        space.params,
        key=space_name,
        shots=True,
        starts=starts,
    )
    return [
        Row(name, title, "language", mean_latent, **guided, curve=True),
        Row(
            f"{name}.mean_of_logits", f"{title}, mean of logits", "language", mean_logits, **guided
        ),
        Row(f"{name}.one_sample", f"{title}, one sample", "language", one_sample, **guided),
        adapted,
        *_support_guided(setup, space_name, space, left, scale),
    ]


def sampled_latents(
    setup: Setup, space_name: str, space: Space, left: dict[str, Any]
) -> Callable[[str, float], np.ndarray]:
    """(split, scale) -> latents [T, K, Z], sampled once."""
    sample = question_sampler(setup, space_name, space, left)

    def of(split: str, scale: float) -> np.ndarray:
        def make() -> np.ndarray:
            return sample(questions_of(setup, split), scale)

        return remember(setup, ("sampled", space_name, split, scale), make)

    return of


def question_sampler(
    setup: Setup, space_name: str, space: Space, left: dict[str, Any]
) -> Callable[[SentenceFeatures, float], np.ndarray]:
    """(T questions, scale) -> latents [T, K, Z] of config.hyperldm.num_samples samples."""
    sampler = remember(setup, "sampler", lambda: compile_sampler(setup.config))
    ldm = parallel.replicate({**left, "start": space.params["e0"]})
    return lambda questions, scale: sample_tasks(
        sampler,
        ldm,
        questions,
        scale=scale,
        num_samples=setup.config.hyperldm.num_samples,
        seed=setup.config.seed,
    )


def chosen_scale(setup: Setup, space_name: str, space: Space, left: dict[str, Any]) -> float:
    """The guidance scale whose mean latents are best on the validation tasks."""
    scales = {f"{scale:g}": scale for scale in validation_scales(setup.config)}
    latents = sampled_latents(setup, space_name, space, left)
    run = latent_scores(setup, space_name, space)

    def score(scale: float) -> Scores:
        return run(latents("validation", scale).mean(axis=1, keepdims=True), "validation")

    return remember(setup, ("scale", space_name), lambda: scales[choose(score, scales)])


def _support_guided(
    setup: Setup, space_name: str, space: Space, left: dict[str, Any], scale: float
) -> list[Row]:
    """Few-shot guidance of the diffusion, at each of config.hyperldm.few_shot_guidance."""
    config, strengths = setup.config, setup.config.hyperldm.few_shot_guidance
    if not strengths:
        return []
    task_fn = guided_by_support(config, space.network, space.generate)
    sample = compile_scores(setup, ("support-guided", space_name), task_fn)
    run = latent_scores(setup, space_name, space)
    ldm = {**left, "start": space.params["e0"]}
    params = parallel.replicate({"space": space.params, "ldm": ldm})

    def score(split: str, strength: float, shots: int | None) -> Scores:
        num_tasks, num_samples = len(setup.tasks[split]), config.hyperldm.num_samples
        extra = {
            "scale": np.full(num_tasks, scale, np.float32),
            "strength": np.full(num_tasks, strength, np.float32),
            "noise": sample_noise(config.seed, num_tasks, num_samples),
        }
        latents = sample(params, extra, split)
        return run(latents.mean(axis=1, keepdims=True), split)

    settings = {f"strength {strength:g}": strength for strength in strengths}
    name = RowName(
        f"{space_name}_hyperldm.guided_by_support",
        f"{space.title} + HyperLDM, guided by the support set",
    )
    return [Row(*name, "few-shot", score, settings, varies="few-shot guidance")]
