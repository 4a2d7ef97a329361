"""Language methods that are trained in the latent space that another method leaves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.methods.guides import Guide, GuideMaker, adapted_rows, guide_of, guide_row
from hyper_meta.methods.interface import Method, Row, Setup, fit
from hyper_meta.methods.spaces import (
    latent_generate,
    space_learner,
    space_shapes,
    space_title,
)
from hyper_meta.methods.trained import Fitted, Trained
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.latent_data import LatentData


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentGuide:
    """A language method in a latent space.

    section: of the config; in the space of hnet the method is called hnet_SECTION.
    title: in tables, after that of the space; summary: what it is, in a few words.
    stage: (config, name, LatentData, learning_rate=) -> Stage.
    shapes: (config, network, latent_dim, a sentence) -> jax.ShapeDtypeStruct in place of each array
        of `Fitted.as_tree` of the stage.
    make: (config, name of the space, model, new) -> Guide, where model is {"space": {"e0",
        "generator"}, SECTION: `Fitted.as_tree`}, and new makes a Guide from the fields that say how
        it samples.
    more_rows: (setup, guide) -> rows beside that of the guide and of what is adapted from it.
    """

    section: str
    title: str
    summary: str
    stage: Callable[..., Stage]
    shapes: Callable[[RunSettings, BaseNetwork, int, SentenceFeatures], dict[str, Any]]
    make: Callable[[RunSettings, str, Any, Callable[..., Guide]], Guide]
    more_rows: Callable[[Setup, Guide], list[Row]] = lambda setup, guide: []


def in_space(about: LatentGuide, space_name: str) -> Method:
    """The method of a guide in the space that the method space_name leaves."""
    name = f"{space_name}_{about.section}"
    maker = GuideMaker(
        model=lambda setup, trained: {
            "space": trained.space(space_name).params,
            about.section: trained.fitted(name).as_tree(),
        },
        shapes=functools.partial(_shapes, about, space_name),
        make=functools.partial(_guide, about, space_name),
    )

    def train(setup: Setup, trained: Trained) -> Fitted:
        space = trained.space(space_name)
        tables = setup.tables["train"], setup.tables["validation"]
        data = LatentData(space.latents, space.params, space.factors, *tables)
        build = functools.partial(about.stage, setup.config, name, data)
        return fit(setup, about.section, name, lambda rate: build(learning_rate=rate))

    def rows(setup: Setup, trained: Trained) -> list[Row]:
        guide = guide_of(setup, trained, name, maker)
        own = guide_row(setup, guide, curve=True)
        return [own, *adapted_rows(setup, guide), *about.more_rows(setup, guide)]

    return Method(
        rows,
        train,
        needs=lambda config: (space_name,),
        summary=f"{about.summary} in the latent space of {space_name}",
        guide=maker,
    )


def _shapes(
    about: LatentGuide,
    space_name: str,
    config: RunSettings,
    network: BaseNetwork,
    sentence: SentenceFeatures,
) -> dict[str, Any]:
    space = space_shapes(config, network, space_name)
    fitted = about.shapes(config, network, space["e0"].shape[0], sentence)
    return {"space": space, about.section: fitted}


def _guide(
    about: LatentGuide, space_name: str, config: RunSettings, network: BaseNetwork, model: Any
) -> Guide:
    new = functools.partial(
        Guide,
        name=f"{space_name}_{about.section}",
        title=f"{space_title(space_name)} + {about.title}",
        network=network,
        model=model,
        generate=latent_generate(space_name),
        space=space_name,
        learner=space_learner(space_name, network),
        learner_params=model["space"],
    )
    return about.make(config, space_name, model, new)
