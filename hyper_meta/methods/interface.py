"""What a method is: what it needs, what it trains, and the rows it adds to the table.

Adding a method is one file with a METHOD (or a function that makes some), one line in
methods/registry.py and its name in methods/names.py; docs/architecture.md shows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from hyper_meta.core import processes
from hyper_meta.core.files import write_json
from hyper_meta.core.scores import Scores
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.data.table import TaskTable
from hyper_meta.data.tasks import Task
from hyper_meta.meta import scoring
from hyper_meta.methods.cache import Cache, Key, Once, Program, Value
from hyper_meta.methods.places import stage_dir
from hyper_meta.methods.reads import Reads, note_made, note_taken
from hyper_meta.methods.trained import Fitted, Left, Trained
from hyper_meta.models.sentences import take
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.networks.registry import configured_network
from hyper_meta.train import checkpoints
from hyper_meta.train.loop import Stage, is_finished, run_stage
from hyper_meta.train.stages.passes import compile_configured_pass
from hyper_meta.train.state import evaluation_params


class NotFinished(UserError):
    """What a method left is not there, and nothing is to be trained."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What every method of one seed works with.

    config: with this seed.
    folder: where the seed's results go.
    tasks: by split.
    tables: of "train", of "validation", and of "evaluation": the validation tasks followed by the
        test tasks, so that one compiled function scores both.
    cache: what `remember` makes.
    choices: what was chosen on validation tasks for the arrays of `keep_array`, {name: notes}.
    encode: n sentences -> their SentenceFeatures, leading axis n, as those of the tables; None
        where there is no encoder.
    reads: where the settings that trainings read are noted, None for nowhere.
    restores_only: what is not finished raises NotFinished instead of being trained.
    """

    config: RunSettings
    folder: Path
    tasks: dict[str, list[Task]]
    tables: dict[str, TaskTable]
    cache: Cache = dataclasses.field(default_factory=Cache)
    choices: dict[str, Any] = dataclasses.field(default_factory=dict)
    encode: Callable[[Sequence[str]], SentenceFeatures] | None = None
    reads: Reads | None = None
    restores_only: bool = False

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.tables["train"].image_features.shape[1]

    @property
    def network(self) -> BaseNetwork:
        """What is generated."""
        return configured_network(self.config.network, self.embed_dim)

    @property
    def question_dim(self) -> int:
        """Dq."""
        return self.tables["train"].questions.pooled.shape[1]


class RowName(NamedTuple):
    """How a row is known: id: in files and commands, snake_case and unique; title: for display."""

    id: str
    title: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    id: how files, commands and other rows know it, unique: the method's name for its main row,
        NAME.VARIANT for others.
    title: for display only.
    kind: one of eval.rows.KINDS.
    score: (split, a value of settings, shots) -> Scores; only a few-shot row sees labelled examples
        of a task: `shots` of each answer, or None for all of the support set.
    settings: {how it is called: value}, of which the best on the validation tasks is chosen.
    varies: what they are settings of.
    curve: whether all of them are shown on test tasks too.
    shots: for a row that is scored with each of config.evaluate.shots: the setting chosen with the
        whole support set -> the settings to choose from with few.
    maps_question_directly: whether it is a conditional hypernetwork, from the question to the
        weights in one step; language rows are compared with the best of these.
    """

    id: str
    title: str
    kind: str
    score: Callable[[str, Any, int | None], Scores]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"": None})
    varies: str | None = None
    curve: bool = False
    shots: Callable[[str], Mapping[str, Any]] | None = None
    maps_question_directly: bool = False


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of the registry.

    rows: (setup, trained) -> its rows. train: (setup, trained) -> what it leaves for its rows and
    for other methods, or None; trained: what those that it needs left. needs: config -> names of
    the methods it builds on. summary: one line for `hyper-meta methods`. guide: the
    methods.guides.GuideMaker of a language method. check: raises UserError for a configuration that
    the method cannot be of, before anything is computed.
    """

    rows: Callable[[Setup, Trained], list[Row]] = lambda setup, trained: []
    train: Callable[[Setup, Trained], Left] = lambda setup, trained: None
    needs: Callable[[RunSettings], tuple[str, ...]] = lambda config: ()
    summary: str = ""
    guide: Any = None
    check: Callable[[RunSettings], None] = lambda config: None


def fit(setup: Setup, section: str, name: str, build: Callable[[float], Stage]) -> Fitted:
    """Trains or restores a stage.

    Each of the section's learning_rates is tried, and the one whose best validation score is
    highest is kept, the first of equals. build: learning rate -> Stage.
    """
    config, rates = setup.config, getattr(setup.config, section).learning_rates
    best = None
    for rate in rates:
        folder = stage_dir(setup.folder, name, rate, rates)
        stage = build(rate)
        if setup.restores_only and not is_finished(stage, folder, seed=config.seed):
            raise NotFinished(f"{folder} is not at the end of its training")
        state, history = run_stage(
            stage,
            folder,
            seed=config.seed,
            checkpoint_every=config.checkpoint_every,
            progress=True,
        )
        if best is None or state.best_score > best[0].best_score:
            best = state, history, rate
    state, history, rate = best
    params, chosen = evaluation_params(state)
    if len(rates) > 1:
        chosen += f", learning rate {rate:g} of {', '.join(f'{r:g}' for r in rates)}"
    curve = {"evaluated": chosen, "history": history}
    processes.from_main(lambda: write_json(setup.folder / "curves" / f"{name}.json", curve))
    return Fitted(params, state.statistics)


def keep_array(
    setup: Setup, name: str, shape: tuple[int, ...], compute: Callable[[], tuple[np.ndarray, Any]]
) -> Float[np.ndarray, " ..."]:
    """A float32 array of a known shape that is computed once and kept in the seed's folder.

    compute: () -> (the array, JSON values that say what was chosen for it, which
    go to `Setup.choices`).
    """
    path = setup.folder / name

    def read() -> dict[str, Any] | None:
        if not path.exists():
            return None
        expected = {"array": jax.ShapeDtypeStruct(shape, np.float32)}
        tree, notes = checkpoints.restore_tree(path, expected)
        return {**tree, "notes": notes}

    kept = processes.from_main(read)
    if kept is None:
        if setup.restores_only:
            raise NotFinished(f"{path} is not there")
        array, notes = compute()
        kept = {"array": array, "notes": notes}
        processes.from_main(lambda: checkpoints.save_tree(path, {"array": array}, notes=notes))
    setup.choices[name] = kept["notes"]
    return kept["array"]


def remember(setup: Setup, once: Once[Key, Value], key: Key, make: Callable[[], Value]) -> Value:
    """make(), called once for each key; once: one of setup.cache."""
    if key not in once.values:
        once.values[key] = make()
        if setup.reads is not None:
            note_made(setup.reads, (once.kind, key))
    elif setup.reads is not None:
        note_taken(setup.reads, (once.kind, key))
    return once.values[key]


def rows_of(setup: Setup, split: str) -> Int[np.ndarray, " n"]:
    """The rows of the evaluation table that hold a split, "validation" or "test"."""
    num_validation = len(setup.tasks["validation"])
    if split == "validation":
        return np.arange(num_validation)
    return np.arange(num_validation, num_validation + len(setup.tasks["test"]))


def split_questions(setup: Setup, split: str) -> SentenceFeatures:
    """The questions of a split, leading axis T."""
    if split == "train":
        return setup.tables["train"].questions
    return take(setup.tables["evaluation"].questions, rows_of(setup, split))


def compile_scores(setup: Setup, program: Program, task_fn: scoring.TaskFn) -> Callable:
    """compile_pass over the evaluation table as (replicated params, extra, split) -> out; compiled
    once for each program."""

    def make() -> Callable:
        run = compile_configured_pass(setup.config, task_fn, setup.tables["evaluation"])
        return lambda params, extra, split: run(params, extra, rows_of(setup, split))

    return remember(setup, setup.cache.programs, program, make)


def choose(score: Callable[[Any], Scores], settings: Mapping[Any, Any]) -> Any:
    """The key of the setting with the highest mean accuracy over tasks, the first of equals."""

    def accuracy(name: Any) -> float:
        return float(np.mean(score(settings[name]).accuracy))

    return max(settings, key=accuracy)
