"""Methods that are a learner trained by one stage: its row where it starts, and adapted on the
support set."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.core.settings import RunSettings
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import Learner
from hyper_meta.methods.cache import Program
from hyper_meta.methods.few_shot import few_shot_row
from hyper_meta.methods.guides import GuideMaker, adapted_rows, guide_of
from hyper_meta.methods.interface import (
    Method,
    Row,
    RowName,
    Setup,
    compile_scores,
    fit,
)
from hyper_meta.methods.trained import Fitted, Trained
from hyper_meta.train.loop import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearntMethod:
    """A learner trained by one stage.

    name: in the registry; title, kind: of its row.
    section: of the config.
    stage: (config, train table, validation table, name=, learning_rate=) -> Stage.
    learner: setup -> the learner of the trained parameters.
    shots: whether it is adapted on few examples too.
    summary, guide, check: of the Method.
    maps_question_directly: see `Row`.
    """

    name: str
    title: str
    kind: str
    section: str
    stage: Callable[..., Stage]
    learner: Callable[[Setup], Learner]
    shots: bool = False
    summary: str
    maps_question_directly: bool = False
    guide: GuideMaker | None = None
    check: Callable[[RunSettings], None] = lambda config: None


def learnt(about: LearntMethod) -> Method:
    """The method of a learner. It leaves a `Fitted`."""
    return Method(
        functools.partial(_rows, about),
        functools.partial(_train, about),
        summary=about.summary,
        guide=about.guide,
        check=about.check,
    )


def _train(about: LearntMethod, setup: Setup, trained: Trained) -> Fitted:
    build = functools.partial(
        about.stage,
        setup.config,
        setup.tables["train"],
        setup.tables["validation"],
        name=about.name,
    )
    return fit(setup, about.section, about.name, lambda rate: build(learning_rate=rate))


def _rows(about: LearntMethod, setup: Setup, trained: Trained) -> list[Row]:
    start, *adapted = learner_rows(
        setup,
        RowName(about.name, about.title),
        about.kind,
        about.learner(setup),
        trained.fitted(about.name).params,
        key=about.section,
        shots=about.shots or about.name in setup.config.evaluate.few_shot_guides,
    )
    start = dataclasses.replace(start, maps_question_directly=about.maps_question_directly)
    if about.guide is not None and not adapted:
        adapted = adapted_rows(setup, guide_of(setup, trained, about.name, about.guide))
    return [start, *adapted]


def learner_rows(
    setup: Setup, name: RowName, kind: str, learner: Learner, params: Any, *, key: str, shots: bool
) -> list[Row]:
    """A learner where it starts, and adapted on the support set if adaptation moves it.

    key: what its compiled functions are remembered by.
    """
    start = start_row(setup, name, kind, learner, params, key=key)
    if not learner.moves:
        return [start]
    adapted = RowName(f"{name.id}.adapted", f"{name.title}, adapted")
    return [start, few_shot_row(setup, adapted, learner, params, key=key, shots=shots)]


def start_row(
    setup: Setup, name: RowName, kind: str, learner: Learner, params: Any, *, key: str
) -> Row:
    """A learner where it starts: zero-shot."""
    loop = InnerLoop(0, 0.0)
    method = scoring.scores_of(scoring.adapted_method(learner, loop))
    run = compile_scores(setup, Program("start", key), method)
    replicated = parallel.replicate(params)

    def score(split: str, _: None, shots: int | None) -> Scores:
        return run(replicated, None, split)

    return Row(*name, kind, score)
