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

from hyper_meta.core import parallel, processes
from hyper_meta.core.files import read_json, write_bytes, write_json
from hyper_meta.core.progress import LOG, progress_bar
from hyper_meta.core.scores import Scores
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import TaskBatch
from hyper_meta.data.tasks import Task
from hyper_meta.eval.novelty import FILE
from hyper_meta.eval.rows import KINDS, MULTITASK, RowRecord
from hyper_meta.eval.seeds import SCORES_FORMAT, read_seed
from hyper_meta.eval.trust import FILE as TRUST_FILE
from hyper_meta.methods.cache import Program
from hyper_meta.methods.guide_store import FOLDER as GUIDES_FOLDER
from hyper_meta.methods.guide_store import INDEX, SCORES, save_guides
from hyper_meta.methods.guides import (
    Guide,
    answers_of,
    chosen_setting,
    points_of,
    replicated_model,
)
from hyper_meta.methods.interface import Row, Setup, choose, compile_scores
from hyper_meta.methods.novelty import novelty
from hyper_meta.methods.registry import GUIDES
from hyper_meta.methods.signs import ask, probe_images
from hyper_meta.methods.trained import Trained
from hyper_meta.methods.trust import Trust, assess

CONTROLS = "questions"  # the method of the guides' controls
SHOWN = "shown.npz"
NUM_SHOWN = 4  # query examples of a task, fewer than any task has


def evaluate(
    setup: Setup,
    rows: list[Row],
    trained: Trained,
    guides: list[Guide],
    source: Mapping[str, str],
) -> None:
    """Scores all rows and writes scores.json, and, where there are guides, themselves, what the
    pictures show of the best, how new their networks are, and how far they can be trusted. Rows
    that were scored before are not scored again.

    trained: what the methods left; guides: of its language methods; source: of the features, the
    fingerprints of their encoders.
    """
    rows = sorted(rows, key=lambda row: list(KINDS).index(row.kind))
    bar = progress_bar(rows, desc="evaluate", unit="row")
    kept = setup.folder / "rows"
    before = processes.from_main(lambda: _scored_before(setup))
    scored = [
        before.get(row.id) or _score_once(setup, row, kept / f"{place}.json")
        for place, row in enumerate(bar)
    ]
    if guides:
        best = _leave_guides(setup, guides, scored, source)
        _show(setup, best, trained)
        _leave_novelty(setup, guides, trained)
    content = {
        "format": SCORES_FORMAT,
        "order": list(trained.left),
        "choices": setup.choices,
        "rows": [part["row"] for part in scored],
        "validation": {part["row"]["id"]: part["validation"] for part in scored},
        "test": {part["row"]["id"]: part["test"] for part in scored},
        "shots": {part["row"]["id"]: part["shots"] for part in scored if part["shots"]},
    }

    def write() -> None:
        shutil.rmtree(kept, ignore_errors=True)
        # Last, since its presence says that all rows are scored.
        write_json(setup.folder / SCORES, content)

    processes.from_main(write)


def is_evaluated(config: RunSettings, folder: Path, names: list[str]) -> bool:
    """Whether the folder of a seed holds all that `evaluate` leaves where these methods are."""
    guides = [name for name in names if name in GUIDES]
    left = [SCORES]
    if guides:
        left += [INDEX, TRUST_FILE, SHOWN, *(f"{GUIDES_FOLDER}/{name}" for name in guides)]
    if CONTROLS in names and set(guides) & set(config.evaluate.control_guides):
        left.append(FILE)
    return all((folder / name).exists() for name in left)


def _scored_before(setup: Setup) -> dict[str, dict[str, Any]]:
    """What `score_row` returned, by id of the row, where scores.json holds it; else {}."""
    path = setup.folder / SCORES
    if not path.exists():
        return {}
    read_seed(setup.folder, setup.tasks)  # raises where it is damaged
    saved = read_json(path)
    return {
        row["id"]: {
            "row": row,
            "validation": saved["validation"][row["id"]],
            "test": saved["test"][row["id"]],
            "shots": saved["shots"].get(row["id"], {}),
        }
        for row in saved["rows"]
    }


def _score_once(setup: Setup, row: Row, path: Path) -> dict[str, Any]:
    """`score_row`, kept in path, where it stays until all rows are scored."""

    def read() -> dict[str, Any] | None:
        part = read_json(path) if path.exists() else None
        return part if part and part["row"]["id"] == row.id else None

    part = processes.from_main(read)
    if part is None:
        LOG.info("evaluate: %s", row.id)
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
    return {
        "correct": np.asarray(scores.correct).tolist(),
        "count": np.asarray(scores.count).tolist(),
    }


def _leave_guides(
    setup: Setup, guides: list[Guide], scored: list[dict[str, Any]], source: Mapping[str, str]
) -> Guide:
    """Saves every guide with the setting that its row chose. Returns the one whose row is best on
    the validation tasks."""
    parts = {part["row"]["id"]: part for part in scored}
    chosen = {guide.name: parts[guide.name]["row"]["chosen"] for guide in guides}
    images = probe_images(setup)
    trusts = _assess(setup, guides, parts, images)
    notes = {
        "encoder": source["encoder"],
        "question_encoder": source["question_encoder"],
        "answers": _answers_by_template(setup.tasks["train"]),
    }
    sentences, templates = _training_sentences(setup)
    what = {"chosen": chosen, "trusts": trusts, "images": images, "notes": notes}
    what |= {"sentences": sentences, "templates": templates}
    processes.from_main(lambda: save_guides(setup.folder, guides, **what))
    return max(guides, key=lambda guide: trusts[guide.name].mean)


def _training_sentences(setup: Setup) -> tuple[np.ndarray, dict[str, str]]:
    """The pooled features of the training sentences [m, Dq] float32, and {sentence: template}."""
    rows = {task.sentence: row for row, task in enumerate(setup.tasks["train"])}
    pooled = np.asarray(setup.tables["train"].questions.pooled, np.float32)[list(rows.values())]
    return pooled, {name: setup.tasks["train"][row].template for name, row in rows.items()}


def _assess(
    setup: Setup, guides: list[Guide], parts: Mapping[str, dict[str, Any]], images: np.ndarray
) -> dict[str, Trust]:
    """How far each guide can be trusted, by its name; writes what the report says of it.

    parts: what `score_row` returns, by id of the row; images: see `probe_images`.
    """
    asked = {split: ask(setup, split) for split in ("validation", "test")}
    baseline = without_language(parts)
    trusts, records = {}, {}
    for guide in guides:
        part = parts[guide.name]
        trusts[guide.name], records[guide.name] = assess(
            setup,
            guide,
            value=guide.settings[part["row"]["chosen"]],
            scores=_chosen_scores(part),
            baseline=baseline,
            asked=asked,
            images=images,
        )
    processes.from_main(lambda: write_json(setup.folder / TRUST_FILE, records))
    return trusts


def without_language(parts: Mapping[str, dict[str, Any]]) -> tuple[str, float] | None:
    """The id of the row that stands for a network without language, and its mean accuracy on the
    validation tasks: the multitask network, else the best of its kind, else of the references; None
    where there is none of these."""
    for chosen in (
        [part for name, part in parts.items() if name == MULTITASK],
        [part for part in parts.values() if part["row"]["kind"] == "unconditional"],
        [part for part in parts.values() if part["row"]["kind"] == "reference"],
    ):
        means = {part["row"]["id"]: float(_chosen_scores(part).accuracy.mean()) for part in chosen}
        if means:
            best = max(means, key=lambda name: means[name])
            return best, means[best]
    return None


def _chosen_scores(part: dict[str, Any]) -> Scores:
    """Those of a row on the validation tasks, at the setting that it chose."""
    saved = part["validation"][part["row"]["chosen"]]
    return Scores(np.array(saved["correct"], float), np.array(saved["count"], float))


def _show(setup: Setup, guide: Guide, trained: Trained) -> None:
    """Writes the answers that the pictures show, and the latents where the guide has some."""
    value = guide.settings[chosen_setting(setup, guide)]
    points = guide.answering(points_of(setup, guide, "test", value))
    arrays = {"answers": _first_answers(setup, guide, points)}
    if guide.space in trained.left:  # where its latents were adapted
        arrays |= {
            "latents": points[:, 0],
            "adapted": trained.space(guide.space).latents.mean(axis=1),
        }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    processes.from_main(lambda: write_bytes(setup.folder / SHOWN, buffer.getvalue()))


def _leave_novelty(setup: Setup, guides: list[Guide], trained: Trained) -> None:
    """Writes how new the networks of the guides are that have controls, where there are any."""
    names = setup.config.evaluate.control_guides if CONTROLS in trained.left else ()
    records = {
        guide.name: novelty(setup, trained, guide) for guide in guides if guide.name in names
    }
    if records:
        processes.from_main(lambda: write_json(setup.folder / FILE, records))


def _answers_by_template(tasks: list[Task]) -> dict[str, list[str]]:
    known: dict[str, set[str]] = {}
    for task in tasks:
        known.setdefault(task.template, set()).update(task.answers)
    return {template: sorted(answers) for template, answers in known.items()}


def _first_answers(setup: Setup, guide: Guide, points: Any) -> np.ndarray:
    """The answers of a guide's networks to each test task's first query examples, for the pictures:
    [T, NUM_SHOWN] int. points: those that answer, leaves [T, K, ...]."""
    method = answers_of(guide)

    def answers(params: Any, tasks: TaskBatch, extra: Any) -> Any:
        return method(params, tasks, extra)[:, 0, :NUM_SHOWN].argmax(axis=-1)

    run = compile_scores(setup, Program("answers", guide.name), answers)
    return run(replicated_model(setup, guide), points, "test")
