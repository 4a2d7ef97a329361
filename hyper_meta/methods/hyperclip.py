"""HyperCLIP guidance in a latent space (method.md section 5)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hyper_meta.core import parallel
from hyper_meta.methods.interface import (
    Method,
    Row,
    Scores,
    Setup,
    questions_of,
    remember,
)
from hyper_meta.methods.spaces import Space, fit_guide, latent_scores
from hyper_meta.train.stages.hyperclip import (
    Setting,
    compile_guidance,
    guide_tasks,
    hyperclip_model,
    hyperclip_stage,
    setting_name,
)


def guided(space_name: str) -> Method:
    """Guidance in the space that the method space_name leaves."""
    name = f"{space_name}_hyperclip"

    def train(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
        space: Space = trained[space_name]
        stage = functools.partial(hyperclip_stage, factors=space.factors)
        return fit_guide(setup, space, "hyperclip", name, stage)

    def rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
        space: Space = trained[space_name]
        latents = guided_latents(setup, name, space, trained[name])
        run = latent_scores(setup, space_name, space)

        def score(split: str, setting: Setting, shots: int | None) -> Scores:
            return run(latents(split)[setting][:, None], split)

        settings = {setting_name(setting): setting for setting in latents("validation")}
        title = f"{space.title} + HyperCLIP"
        return [Row(name, title, "language", score, settings, varies="guidance", curve=True)]

    return Method(
        rows,
        train,
        needs=lambda config: (space_name,),
        settings=("hyperclip",),
        summary=f"HyperCLIP: classifier guidance in the latent space of {space_name}",
    )


def guided_latents(
    setup: Setup, name: str, space: Space, trained: dict[str, Any]
) -> Callable[[str], dict[Setting, np.ndarray]]:
    """split -> {setting: latents [T, Z]}, computed once."""
    guide_fn = compile_guidance(setup.config, space.factors, setup.question_dim)
    model = hyperclip_model(trained["params"], trained["statistics"], space.params)

    def of_split(split: str) -> dict[Setting, np.ndarray]:
        def make() -> dict[Setting, np.ndarray]:
            questions = questions_of(setup, split)
            return guide_tasks(setup.config, guide_fn, parallel.replicate(model), questions)

        return remember(setup, ("guided", name, split), make)

    return of_split
