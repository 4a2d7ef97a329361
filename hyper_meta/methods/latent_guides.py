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
    base: the section of a method in the same space that it builds on; the stage is given what that
        left as base=`Fitted.as_tree`.
    base_shapes: as `shapes`, of the base; where it is given, the model has the base too, under its
        section.
    trained_as: the section of the method that trains it, None for its own.
    finish: (setup, what the stage left) -> what the method leaves.
    check: of the Method.
    more_rows: (setup, guide) -> rows beside that of the guide and of what is adapted from it.
    """

    section: str
    title: str
    summary: str
    stage: Callable[..., Stage] | None
    shapes: Callable[[RunSettings, BaseNetwork, int, SentenceFeatures], dict[str, Any]]
    make: Callable[[RunSettings, str, Any, Callable[..., Guide]], Guide]
    base: str | None = None
    base_shapes: Callable[..., dict[str, Any]] | None = None
    trained_as: str | None = None
    finish: Callable[[Setup, Fitted], Fitted] = lambda setup, left: left
    check: Callable[[RunSettings], None] = lambda config: None
    more_rows: Callable[[Setup, Guide], list[Row]] = lambda setup, guide: []


def in_space(about: LatentGuide, space_name: str) -> Method:
    """The method of a guide in the space that the method space_name leaves."""
    name = f"{space_name}_{about.section}"
    base_name = f"{space_name}_{about.base}"
    builds_on = [part for part in (about.base, about.trained_as) if part]
    needs = (space_name, *(f"{space_name}_{part}" for part in builds_on))
    maker = GuideMaker(
        model=functools.partial(_model, about, space_name),
        shapes=functools.partial(_shapes, about, space_name),
        make=functools.partial(_guide, about, space_name),
    )

    def train(setup: Setup, trained: Trained) -> Fitted | None:
        if about.stage is None:
            return None
        space = trained.space(space_name)
        tables = setup.tables["train"], setup.tables["validation"]
        data = LatentData(space.latents, space.params, space.factors, *tables)
        base = {"base": trained.fitted(base_name).as_tree()} if about.base else {}
        build = functools.partial(about.stage, setup.config, name, data, **base)
        left = fit(setup, about.section, name, lambda rate: build(learning_rate=rate))
        return about.finish(setup, left)

    def rows(setup: Setup, trained: Trained) -> list[Row]:
        guide = guide_of(setup, trained, name, maker)
        own = guide_row(setup, guide, curve=True)
        return [own, *adapted_rows(setup, guide), *about.more_rows(setup, guide)]

    return Method(
        rows,
        train,
        needs=lambda config: needs,
        summary=f"{about.summary} in the latent space of {space_name}",
        guide=maker,
        check=about.check,
    )


def _model(about: LatentGuide, space_name: str, setup: Setup, trained: Trained) -> dict[str, Any]:
    sections = [about.trained_as or about.section]
    if about.base_shapes is not None:
        sections.append(about.base)
    return {
        "space": trained.space(space_name).params,
        **{part: trained.fitted(f"{space_name}_{part}").as_tree() for part in sections},
    }


def _shapes(
    about: LatentGuide,
    space_name: str,
    config: RunSettings,
    network: BaseNetwork,
    sentence: SentenceFeatures,
) -> dict[str, Any]:
    space = space_shapes(config, network, space_name)
    inputs = config, network, space["e0"].shape[0], sentence
    shapes = {"space": space, about.trained_as or about.section: about.shapes(*inputs)}
    if about.base_shapes is not None:
        shapes[about.base] = about.base_shapes(*inputs)
    return shapes


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
