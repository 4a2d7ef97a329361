"""HyperCLIP guidance in a latent space (METHOD section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hyper_meta import parallel
from hyper_meta.methods.interface import (
    Method,
    Row,
    Scores,
    Setup,
    fit,
    question_features,
    remember,
)
from hyper_meta.methods.spaces import Space, latent_scores
from hyper_meta.train.hyperclip import (
    compile_guidance,
    guide_tasks,
    hyperclip_model,
    hyperclip_stage,
)


def guided(space_name: str) -> Method:
    """Guidance in the space that the method space_name leaves."""
    name = f"{space_name}_hyperclip"

    def train(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
        space: Space = trained[space_name]
        return fit(
            setup,
            "hyperclip",
            name,
            lambda config: hyperclip_stage(
                config,
                name,
                latents=space.latents,
                space=space.params,
                factors=space.factors,
                train=setup.tables["train"],
                validation=setup.tables["validation"],
            ),
        )

    def rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
        space: Space = trained[space_name]
        latents = guided_latents(setup, name, space, trained[name])
        run = latent_scores(setup, space_name, space)

        def score(split: str, setting: str, shots: int | None) -> Scores:
            return run(latents(split)[setting][:, None], split)

        settings = {_named(setting): setting for setting in latents("validation")}
        title = f"{space.title} + HyperCLIP"
        return [Row(title, "language", score, settings, varies="guidance", curve=True)]

    return Method(rows, train, needs=lambda config: (space_name,), settings=("hyperclip",))


def _named(setting: str) -> str:
    """ "rate_0.01_pull_0_steps_100" in words."""
    _, rate, _, pull, _, steps = setting.split("_")
    return f"rate {rate}, pull {pull}, {steps} steps"


def guided_latents(
    setup: Setup, name: str, space: Space, trained: dict[str, Any]
) -> Callable[[str], dict[str, np.ndarray]]:
    """split -> {setting: latents [T, Z]}, computed once."""
    guide_fn = compile_guidance(setup.config, space.factors, setup.embed_dim)
    model = hyperclip_model(trained["params"], trained["statistics"], space.params)

    def of_split(split: str) -> dict[str, np.ndarray]:
        def make() -> dict[str, np.ndarray]:
            questions = question_features(setup, split)
            return guide_tasks(setup.config, guide_fn, parallel.replicate(model), questions)

        return remember(setup, ("guided", name, split), make)

    return of_split
