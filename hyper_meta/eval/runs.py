"""What the seeds of a run left, read and checked."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyper_meta.core.files import read_json
from hyper_meta.core.types import UserError
from hyper_meta.data.tasks import Task
from hyper_meta.eval.metrics import KINDS, Scores

SPLITS = ("validation", "test")
AGAIN = "remove the scores.json of that folder and run the stage evaluate again"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the tables: kind is one of KINDS; varies: what its settings are settings of, or
    None; chosen: the setting that validation tasks chose, "" where nothing is tuned."""

    title: str
    kind: str
    varies: str | None
    chosen: str


@dataclasses.dataclass(frozen=True)
class Run:
    """What one seed left.

    scores: split -> title -> setting -> Scores of the tasks of that split; shots: start -> examples
    per answer -> (chosen setting, Scores) of the test tasks; choices: what else validation tasks
    chose, {of what: {"learning_rate", "of"}}; curves: stage -> {"evaluated", "history"}; shown:
    None or "adapted" [T_train, Z] float32, mean adapted latent of each training task, "latents"
    [T_test, Z] float32, generated, and "answers" [T_test, n] int, those of the generated network to
    the first n query examples of each test task.
    """

    name: str
    rows: tuple[Row, ...]
    scores: dict[str, dict[str, dict[str, Scores]]]
    shots: dict[str, dict[str, tuple[str, Scores]]]
    choices: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, Any]]
    shown: dict[str, np.ndarray] | None

    def chosen(self, split: str) -> dict[str, Scores]:
        """Every row at its chosen setting."""
        return {row.title: self.scores[split][row.title][row.chosen] for row in self.rows}


def read_runs(folders: Sequence[Path], tasks: dict[str, list[Task]]) -> list[Run]:
    """Reads what every seed left, see `write_report`."""
    runs = [read_run(folder, tasks) for folder in folders]
    first = runs[0].rows
    for run in runs[1:]:
        if [dataclasses.replace(row, chosen="") for row in run.rows] != [
            dataclasses.replace(row, chosen="") for row in first
        ]:
            odd = {row.title for row in run.rows} ^ {row.title for row in first}
            what = ", ".join(sorted(odd)) or "in another order or of another kind"
            raise UserError(
                f"{folders[0].parent}: {run.name} has scored other rows than {runs[0].name} "
                f"({what}): {AGAIN}"
            )
    return runs


def read_run(folder: Path, tasks: dict[str, list[Task]]) -> Run:
    """Reads what one seed left, see `write_report`."""
    path = folder / "scores.json"
    if not path.exists():
        raise UserError(f"{path} is missing: run the stage evaluate on this --workdir first")
    saved = read_json(path)
    try:
        rows = tuple(
            Row(row["title"], row["kind"], row["varies"], row["chosen"]) for row in saved["rows"]
        )
        scores = {
            split: {
                row.title: {
                    setting: _read_scores(score, tasks[split], path)
                    for setting, score in saved[split][row.title].items()
                }
                for row in rows
            }
            for split in SPLITS
        }
        shots = {
            start: {
                shot: (score["chosen"], _read_scores(score, tasks["test"], path))
                for shot, score in by_shot.items()
            }
            for start, by_shot in saved["shots"].items()
        }
        order, choices = list(saved.get("order", ())), dict(saved.get("choices", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not hold what it should ({error!r}): {AGAIN}") from error
    _check_rows(rows, scores, path)
    curves = _read_curves(folder / "curves", order)
    return Run(folder.name, rows, scores, shots, choices, curves, _read_shown(folder, tasks))


def _read_scores(saved: dict[str, Any], tasks: Sequence[Task], path: Path) -> Scores:
    sizes = [len(task.query) for task in tasks]
    if saved["count"] != sizes or len(saved["correct"]) != len(sizes):
        raise UserError(f"{path} is of other tasks than the data set holds: {AGAIN}")
    return Scores(np.array(saved["correct"], float), np.array(sizes, float))


def _check_rows(
    rows: Sequence[Row], scores: dict[str, dict[str, dict[str, Scores]]], path: Path
) -> None:
    if not rows or len({row.title for row in rows}) < len(rows):
        raise UserError(f"{path} has no rows, or two of one title: {AGAIN}")
    for row in rows:
        if row.kind not in KINDS:
            known = ", ".join(KINDS)
            raise UserError(f"{path}: {row.title!r} is of kind {row.kind!r}, known are {known}")
        for split in SPLITS:
            if row.chosen not in scores[split][row.title]:
                raise UserError(
                    f"{path} has no {split} scores of {row.title!r} at the setting {row.chosen!r} "
                    f"that it chose: {AGAIN}"
                )


def _read_curves(folder: Path, order: list[str]) -> dict[str, dict[str, Any]]:
    """The curves of every trained stage, in the given order and then the alphabetical one."""
    paths = {path.stem: path for path in folder.glob("*.json")}
    known = [stage for stage in order if stage in paths]
    return {stage: read_json(paths[stage]) for stage in known + sorted({*paths} - {*known})}


def _read_shown(folder: Path, tasks: dict[str, list[Task]]) -> dict[str, np.ndarray] | None:
    """The latents and answers for the pictures, see Run."""
    path = folder / "shown.npz"
    if not path.exists():
        return None
    rows = {"adapted": "train", "latents": "test", "answers": "test"}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in rows}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): {AGAIN}") from error
    for name, split in rows.items():
        if len(arrays[name]) != len(tasks[split]):
            raise UserError(
                f"{path} is of {len(arrays[name])} {split} tasks, the data set holds "
                f"{len(tasks[split])}: {AGAIN}"
            )
    return arrays
