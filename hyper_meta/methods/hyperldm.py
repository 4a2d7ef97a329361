"""HyperLDM in a latent space (method.md section 5): classifier-free guidance over scales, ensembles
of samples, and what the support set adds."""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
from hyper_meta.methods.guides import (
    Guide,
    GuideMaker,
    adapted_rows,
    chosen_setting,
    guide_of,
    guide_row,
    guide_scores,
    points_of,
)
from hyper_meta.methods.interface import Method, Row, Setup, compile_scores
from hyper_meta.methods.spaces import (
    Space,
    fit_guide,
    latent_generate,
    space_learner,
    space_shapes,
    space_title,
)
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.stages.hyperldm import (
    compile_sampler,
    denoiser_module,
    guided_by_support,
    hyperldm_stage,
    sample_noise,
    sample_tasks,
    validation_scales,
)


def diffused(space_name: str) -> Method:
    """Diffusion in the space that the method space_name leaves."""
    name = f"{space_name}_hyperldm"
    maker = GuideMaker(
        model=lambda setup, trained: {
            "space": trained[space_name].params,
            "hyperldm": trained[name],
        },
        shapes=functools.partial(_shapes, space_name),
        make=functools.partial(_guide, space_name),
    )

    def train(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
        space: Space = trained[space_name]
        return fit_guide(setup, space, "hyperldm", name, hyperldm_stage)

    def rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
        return _rows(setup, guide_of(setup, trained, name, maker))

    return Method(
        rows,
        train,
        needs=lambda config: (space_name,),
        summary=f"HyperLDM: classifier-free guided diffusion in the latent space of {space_name}",
        guide=maker,
    )


def _shapes(
    space_name: str, config: RunSettings, network: BaseNetwork, sentence: SentenceFeatures
) -> dict[str, Any]:
    space = space_shapes(config, network, space_name)
    latent_dim = space["e0"].shape[0]
    latent, question = jnp.zeros((1, latent_dim)), jax.tree.map(lambda x: x[None], sentence)
    time, keep = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
    denoiser = denoiser_module(config, latent_dim)
    params = jax.eval_shape(denoiser.init, jax.random.key(0), latent, time, question, keep)
    statistics = jax.eval_shape(latent_statistics, latent, question)
    return {"space": space, "hyperldm": {"params": params["params"], "statistics": statistics}}


def _guide(space_name: str, config: RunSettings, network: BaseNetwork, model: Any) -> Guide:
    sampler = compile_sampler(config)

    @functools.cache
    def on_devices() -> Any:
        return parallel.replicate({**model["hyperldm"], "start": model["space"]["e0"]})

    def sample(_: Any, questions: SentenceFeatures, scale: float, num: int, seed: int) -> Any:
        return sample_tasks(
            sampler, on_devices(), questions, scale=scale, num_samples=num, seed=seed
        )

    return Guide(
        name=f"{space_name}_hyperldm",
        title=f"{space_title(space_name)} + HyperLDM",
        network=network,
        model=model,
        sample_fn=sample,
        generate=latent_generate(space_name),
        settings={f"{scale:g}": scale for scale in validation_scales(config)},
        varies="guidance scale",
        num_samples=config.hyperldm.num_samples,
        random=True,
        scaled=True,
        space=space_name,
        learner=space_learner(space_name, network),
        learner_params=model["space"],
    )


def _rows(setup: Setup, guide: Guide) -> list[Row]:
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
        guide_row(setup, guide, curve=True),
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
        *adapted_rows(setup, guide),
        *_support_guided(setup, guide),
    ]


def _support_guided(setup: Setup, guide: Guide) -> list[Row]:
    """Few-shot guidance of the diffusion, at each of config.hyperldm.few_shot_guidance."""
    config, strengths = setup.config, setup.config.hyperldm.few_shot_guidance
    if not strengths:
        return []
    generate = latent_generate(guide.space)
    task_fn = guided_by_support(
        config, guide.network, lambda generator, e: generate({"space": {"generator": generator}}, e)
    )
    sample = compile_scores(setup, ("support-guided", guide.name), task_fn)
    run = guide_scores(setup, guide)
    space, left = guide.model["space"], guide.model["hyperldm"]
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
