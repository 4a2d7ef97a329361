"""Evaluation of one seed: every row on validation and test tasks, and what the report shows.

Whatever is chosen is chosen on the validation tasks; the test tasks only see what was chosen, and
the settings of rows that are shown as a curve.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hyper_meta.core import parallel, processes
from hyper_meta.core.files import read_json, write_bytes, write_json
from hyper_meta.core.types import TaskBatch
from hyper_meta.data.tasks import Task
from hyper_meta.eval.rows import KINDS, RowRecord
from hyper_meta.eval.seeds import SCORES_FORMAT
from hyper_meta.meta import scoring
from hyper_meta.methods.hyperldm import chosen_scale, sampled_latents
from hyper_meta.methods.interface import Row, Scores, Setup, choices, choose, compile_scores
from hyper_meta.methods.spaces import Space
from hyper_meta.train import checkpoints

NUM_SHOWN = 4  # query examples of a task, fewer than any task has
SHOWN = "hnet_hyperldm"  # whose networks the pictures show, and `generate` makes


def evaluate(setup: Setup, rows: list[Row], trained: Mapping[str, Any], encoder: str) -> None:
    """Scores all rows and writes scores.json, and, with HyperLDM among them, shown.npz and the
    model of `generate`. Rows that were scored before an interruption are not scored again.

    trained: {method: what it left}; encoder: the fingerprint of that of the features.
    """
    rows = sorted(rows, key=lambda row: list(KINDS).index(row.kind))
    bar = tqdm(rows, desc="evaluate", unit="row", mininterval=1, disable=not processes.is_main())
    kept = setup.folder / "rows"
    scored = [_score_once(setup, row, kept / f"{place}.json") for place, row in enumerate(bar)]
    if SHOWN in trained:
        _show(setup, trained["hnet"], trained[SHOWN], encoder)
    content = {
        "format": SCORES_FORMAT,
        "order": list(trained),
        "choices": choices(setup),
        "rows": [part["row"] for part in scored],
        "validation": {part["row"]["id"]: part["validation"] for part in scored},
        "test": {part["row"]["id"]: part["test"] for part in scored},
        "shots": {part["row"]["id"]: part["shots"] for part in scored if part["shots"]},
    }

    def write() -> None:
        shutil.rmtree(kept, ignore_errors=True)
        # Last, since its presence says that the stage is done.
        write_json(setup.folder / "scores.json", content)

    processes.from_main(write)


def _score_once(setup: Setup, row: Row, path: Path) -> dict[str, Any]:
    """`score_row`, kept in path, where it stays until all rows are scored."""

    def read() -> dict[str, Any] | None:
        part = read_json(path) if path.exists() else None
        return part if part and part["row"]["id"] == row.id else None

    part = processes.from_main(read)
    if part is None:
        part = score_row(row, setup.config.evaluate.shots)
        processes.from_main(lambda: write_json(path, part))
    return part


def score_row(row: Row, shots: tuple[int, ...]) -> dict[str, Any]:
    """{"row", "validation", "test", "shots"} of one row, as scores.json holds them."""
    parallel.free_programs()
    validation = {
        name: row.score("validation", value, None) for name, value in row.settings.items()
    }
    chosen = choose(lambda name: validation[name], {name: name for name in validation})
    shown = row.settings if row.curve else [chosen]
    return {
        "row": dataclasses.asdict(_as_record(row, chosen)),
        "validation": {name: _record(scores) for name, scores in validation.items()},
        "test": {name: _record(row.score("test", row.settings[name], None)) for name in shown},
        "shots": {str(k): _score_shots(row, chosen, k) for k in shots} if row.shots else {},
    }


def _as_record(row: Row, chosen: str) -> RowRecord:
    direct = row.maps_question_directly
    return RowRecord(row.id, row.title, row.kind, row.varies, chosen, direct)


def _score_shots(row: Row, chosen: str, shots: int) -> dict[str, Any]:
    """k examples of each answer, with the setting that is best for them on validation tasks."""
    chosen = choose(lambda value: row.score("validation", value, shots), row.shots(chosen))
    return {"chosen": chosen, **_record(row.score("test", row.settings[chosen], shots))}


def _record(scores: Scores) -> dict[str, list[float]]:
    right, total = scores
    return {"correct": np.asarray(right).tolist(), "count": np.asarray(total).tolist()}


def _show(setup: Setup, space: Space, left: dict[str, Any], encoder: str) -> None:
    """Writes the model of `generate`, and the latents and answers that the pictures show."""
    scale = chosen_scale(setup, "hnet", space, left)
    notes = {
        "guidance_scale": scale,
        "encoder": encoder,
        "templates": {task.sentence: task.template for task in setup.tasks["train"]},
        "answers": _answers_by_template(setup.tasks["train"]),
    }
    generated = sampled_latents(setup, "hnet", space, left)("test", scale).mean(axis=1)
    arrays = {
        "latents": generated,
        "answers": _first_answers(setup, space, generated),
        "adapted": space.latents.mean(axis=1),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)

    def write() -> None:
        if not (setup.folder / "model").exists():
            tree = {"space": space.params, "hyperldm": left}
            checkpoints.save_tree(setup.folder / "model", tree, notes=notes)
        write_bytes(setup.folder / "shown.npz", buffer.getvalue())

    processes.from_main(write)


def _answers_by_template(tasks: list[Task]) -> dict[str, list[str]]:
    known: dict[str, set[str]] = {}
    for task in tasks:
        known.setdefault(task.template, set()).update(task.answers)
    return {template: sorted(answers) for template, answers in known.items()}


def _first_answers(setup: Setup, space: Space, latents: np.ndarray) -> np.ndarray:
    """The answers to each test task's first query examples of the networks of latents [T, Z]:
    [T, NUM_SHOWN] int, for the pictures."""
    method = scoring.latent_method(space.network, space.generate)

    def answers(params: Any, tasks: TaskBatch, extra: Any) -> Any:
        return method(params, tasks, extra)[:, 0, :NUM_SHOWN].argmax(axis=-1)

    run = compile_scores(setup, "answers", answers)
    return run(parallel.replicate(space.params), latents[:, None], "test")
