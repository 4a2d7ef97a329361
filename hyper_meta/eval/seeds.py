"""What the seeds of a run left, read and checked."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json
from hyper_meta.core.scores import Scores
from hyper_meta.data.tasks import Task
from hyper_meta.eval.novelty import read_novelty
from hyper_meta.eval.rows import KINDS, RowRecord, row_record
from hyper_meta.eval.trust import read_trust

SCORES_FORMAT = 2  # of scores.json; 1, without the number, knew rows by their titles
SPLITS = ("validation", "test")
AGAIN = "remove the scores.json of that folder and run the stage evaluate again"


@dataclasses.dataclass(frozen=True)
class SeedResults:
    """What one seed left.

    name: of its folder.
    rows: in the order of scores.json.
    scores: split -> id of a row -> setting -> Scores of the tasks of that split.
    shots: id of a row -> examples per answer -> (chosen setting, Scores) of the test tasks.
    choices: what else validation tasks chose, {of what: {"learning_rate", "of"}}.
    curves: stage -> {"evaluated", "history"}.
    shown: None or "answers" [T_test, n] int, those of the generated network to the first n query
        examples of each test task, and of a generator of latents "adapted" [T_train, Z] float32,
        the mean adapted latent of each training task, and "latents" [T_test, Z] float32, generated.
    novelty: guide -> what methods.novelty says of it, of those that have controls.
    trust: guide -> what `read_trust` returns of it.
    """

    name: str
    rows: tuple[RowRecord, ...]
    scores: dict[str, dict[str, dict[str, Scores]]]
    shots: dict[str, dict[str, tuple[str, Scores]]]
    choices: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, Any]]
    shown: dict[str, Shaped[np.ndarray, " ..."]] | None
    novelty: dict[str, dict[str, Any]]
    trust: dict[str, dict[str, Any]]

    def chosen(self, split: str) -> dict[str, Scores]:
        """Every row at its chosen setting."""
        return {row.id: self.scores[split][row.id][row.chosen] for row in self.rows}


def read_seeds(folders: Sequence[Path], tasks: dict[str, list[Task]]) -> list[SeedResults]:
    """Reads what every seed left, see `write_report`."""
    seeds = [read_seed(folder, tasks) for folder in folders]
    first = seeds[0].rows
    for seed in seeds[1:]:
        if [dataclasses.replace(row, chosen="") for row in seed.rows] != [
            dataclasses.replace(row, chosen="") for row in first
        ]:
            odd = {row.id for row in seed.rows} ^ {row.id for row in first}
            difference = ", ".join(sorted(odd)) or "in another order or of another kind"
            raise UserError(
                f"{folders[0].parent}: {seed.name} has scored other rows than {seeds[0].name} "
                f"({difference}): {AGAIN}"
            )
    return seeds


def read_seed(folder: Path, tasks: dict[str, list[Task]]) -> SeedResults:
    """Reads what one seed left, see `write_report`."""
    path = folder / "scores.json"
    if not path.exists():
        raise UserError(f"{path} is missing: run the stage evaluate on this --workdir first")
    saved = read_json(path)
    if not isinstance(saved, dict) or saved.get("format") != SCORES_FORMAT:
        raise UserError(f"{path} is of another version of hyper-meta: {AGAIN}")
    try:
        rows = tuple(row_record(row) for row in saved["rows"])
        scores = {
            split: {row.id: _read_settings(saved, split, row.id, tasks, path) for row in rows}
            for split in SPLITS
        }
        shots = _read_shots(saved["shots"], tasks["test"], path)
        order, choices = list(saved.get("order", ())), dict(saved.get("choices", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not hold what it should ({error!r}): {AGAIN}") from error
    _check_rows(rows, scores, path)
    if unknown := {*shots} - {row.id for row in rows}:
        raise UserError(f"{path} has shots of {', '.join(sorted(unknown))}, no row of it: {AGAIN}")
    curves = _read_curves(folder / "curves", order)
    shown = _read_shown(folder, tasks)
    new = read_novelty(folder, tasks["test"], AGAIN)
    trust = read_trust(folder, tasks["test"], AGAIN)
    return SeedResults(folder.name, rows, scores, shots, choices, curves, shown, new, trust)


def _read_settings(
    saved: dict[str, Any], split: str, row: str, tasks: dict[str, list[Task]], path: Path
) -> dict[str, Scores]:
    """The scores of a row by setting."""
    return {
        setting: _read_scores(score, tasks[split], path)
        for setting, score in saved[split][row].items()
    }


def _read_shots(
    saved: dict[str, Any], tasks: Sequence[Task], path: Path
) -> dict[str, dict[str, tuple[str, Scores]]]:
    """See SeedResults.shots."""
    return {
        start: {
            shot: (score["chosen"], _read_scores(score, tasks, path))
            for shot, score in by_shot.items()
        }
        for start, by_shot in saved.items()
    }


def _read_scores(saved: dict[str, Any], tasks: Sequence[Task], path: Path) -> Scores:
    sizes = [len(task.query) for task in tasks]
    if saved["count"] != sizes or len(saved["correct"]) != len(sizes):
        raise UserError(f"{path} is of other tasks than the data set holds: {AGAIN}")
    return Scores(np.array(saved["correct"], float), np.array(sizes, float))


def _check_rows(
    rows: Sequence[RowRecord], scores: dict[str, dict[str, dict[str, Scores]]], path: Path
) -> None:
    if not rows:
        raise UserError(f"{path} has no rows: {AGAIN}")
    for name in ("id", "title"):
        if len({getattr(row, name) for row in rows}) < len(rows):
            raise UserError(f"{path} has two rows of one {name}: {AGAIN}")
    for row in rows:
        if row.kind not in KINDS:
            known = ", ".join(KINDS)
            raise UserError(f"{path}: {row.id!r} is of kind {row.kind!r}, known are {known}")
        for split in SPLITS:
            if row.chosen not in scores[split][row.id]:
                raise UserError(
                    f"{path} has no {split} scores of {row.id!r} at the setting {row.chosen!r} "
                    f"that it chose: {AGAIN}"
                )


def _read_curves(folder: Path, order: list[str]) -> dict[str, dict[str, Any]]:
    """The curves of every trained stage, in the given order and then the alphabetical one."""
    paths = {path.stem: path for path in folder.glob("*.json")}
    known = [stage for stage in order if stage in paths]
    return {stage: read_json(paths[stage]) for stage in known + sorted({*paths} - {*known})}


def _read_shown(folder: Path, tasks: dict[str, list[Task]]) -> dict[str, np.ndarray] | None:
    """The answers and latents for the pictures, see SeedResults."""
    path = folder / "shown.npz"
    if not path.exists():
        return None
    splits = {"answers": "test"}
    try:
        with np.load(path, allow_pickle=False) as file:
            if "latents" in file:
                splits |= {"adapted": "train", "latents": "test"}
            arrays = {name: file[name] for name in splits}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): {AGAIN}") from error
    for name, split in splits.items():
        if len(arrays[name]) != len(tasks[split]):
            raise UserError(
                f"{path} is of {len(arrays[name])} {split} tasks, the data set holds "
                f"{len(tasks[split])}: {AGAIN}"
            )
    return arrays
