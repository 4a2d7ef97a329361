"""What the seeds of a run left, and every figure that follows from it (results.json)."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyper_meta.data.tasks import Task
from hyper_meta.eval.metrics import (
    CHOSEN,
    MAJORITY,
    SCALE_PREFIX,
    UNADAPTED,
    UNGUIDED,
    Scores,
    mean_scores,
    one_sample,
    paired_differences,
    scale_name,
    summarise,
    t_interval,
    verdict,
)
from hyper_meta.files import read_json
from hyper_meta.types import UserError

SPLITS = ("validation", "test")
TRAINED_STAGES = ("generator", "conditional", "hyperldm")
BASELINES = (*(name for name in UNGUIDED if name != MAJORITY), scale_name(0), scale_name(1))
ALL = "all"  # families or groups together
# What a group of test tasks asks; other groups are shown under their name alone.
GROUPS = {
    "paraphrase": "what was seen in training, asked in words never seen",
    "composition": "combinations never trained on in any wording",
}
AGAIN = "remove the scores.json of that folder and run the stage evaluate again"
UNITS = (
    "accuracies in percent, differences in points; mean: over tasks, each counted once; pooled: "
    "over examples; low, high: 95% bootstrap interval over tasks, with right answers averaged over "
    "seeds; seeds: mean over tasks of each seed, and its 95% t-interval over seeds; summaries by "
    "split, method, family and group; differences by split, method, baseline, family and group"
)

# [family][group] -> figures, "all" being one of either.
Cells = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one seed left.

    scores: split -> method -> Scores of the tasks of that split; curves: stage -> {"evaluated",
    "history"}; adapted: [T_train, Z] float32, mean adapted latent of each training task;
    latents: [T_test, Z] float32, generated; answers: [T_test, n] int, those of the generated
    network to the first n query examples of each test task.
    """

    name: str
    chosen_scale: float
    scores: dict[str, dict[str, Scores]]
    curves: dict[str, dict[str, Any]]
    adapted: np.ndarray
    latents: np.ndarray
    answers: np.ndarray


def read_run(folder: Path, tasks: dict[str, list[Task]]) -> Run:
    """Reads what one seed left, see `write_report`."""
    saved = read_json(_left_by("evaluate", folder / "scores.json"))
    scale = saved["chosen_scale"]
    scores = {
        split: _read_scores(saved["splits"][split], tasks[split], folder / "scores.json")
        for split in SPLITS
    }
    for rows in scores.values():
        rows[CHOSEN] = rows[scale_name(scale)]
        rows[one_sample(CHOSEN)] = rows[one_sample(scale_name(scale))]
    curves = {
        stage: read_json(_left_by(stage, folder / "curves" / f"{stage}.json"))
        for stage in TRAINED_STAGES
    }
    return Run(folder.name, scale, scores, curves, **_read_shown(folder, tasks))


def _read_scores(
    saved: dict[str, dict[str, list]], tasks: Sequence[Task], path: Path
) -> dict[str, Scores]:
    sizes = [len(task.query) for task in tasks]
    if missing := [name for name in UNGUIDED if name not in saved]:
        raise UserError(f"{path} has no scores of {', '.join(missing)}: {AGAIN}")
    scores = {}
    for name, score in saved.items():
        if score["count"] != sizes or len(score["correct"]) != len(sizes):
            raise UserError(f"{path} is of other tasks than the data set holds: {AGAIN}")
        scores[name] = Scores(np.array(score["correct"], float), np.array(sizes, float))
    return scores


def _left_by(stage: str, path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing: run the stage {stage} on this --workdir first")
    return path


def _read_shown(folder: Path, tasks: dict[str, list[Task]]) -> dict[str, np.ndarray]:
    """The latents and answers for the pictures, see Run."""
    path = _left_by("evaluate", folder / "shown.npz")
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


def compute_results(
    runs: Sequence[Run],
    tasks: dict[str, list[Task]],
    config: dict[str, Any],
    *,
    num_resamples: int,
) -> dict[str, Any]:
    """Every figure, as JSON values; UNITS says how to read them."""
    results = {
        "units": UNITS,
        "seeds": [run.name for run in runs],
        "chosen_scale": {run.name: run.chosen_scale for run in runs},
        "evaluated": {
            run.name: {stage: curve["evaluated"] for stage, curve in run.curves.items()}
            for run in runs
        },
        "config": config,
        "summaries": {},
        "differences": {},
        "tasks": {},
    }
    for split in SPLITS:
        seeds = [run.scores[split] for run in runs]
        parts = partition(tasks[split])
        results["summaries"][split] = summaries(seeds, parts, num_resamples=num_resamples)
        results["differences"][split] = differences(seeds, parts, num_resamples=num_resamples)
        results["tasks"][split] = task_records(seeds, tasks[split])
    return results


def partition(tasks: Sequence[Task]) -> dict[tuple[str, str], np.ndarray]:
    """The tasks of each family and group: {(family, group): [T] bool}, "all" being one of either.

    Families are in alphabetical order after "all"; groups in that of GROUPS, then alphabetical.
    """
    families = np.array([task.family for task in tasks])
    groups = np.array([task.group for task in tasks])
    order = [group for group in GROUPS if group in groups]
    order += sorted({*groups.tolist()} - {*order})
    parts = {}
    for family in (ALL, *sorted({*families.tolist()})):
        for group in (ALL, *order):
            rows = (families == family) | (family == ALL)
            rows &= (groups == group) | (group == ALL)
            if rows.any():
                parts[family, group] = rows
    return parts


def summaries(
    seeds: Sequence[dict[str, Scores]],
    parts: dict[tuple[str, str], np.ndarray],
    *,
    num_resamples: int,
) -> dict[str, Cells]:
    """{method: {family: {group: figures}}} for every method, see UNITS."""
    mean = {name: mean_scores([scores[name] for scores in seeds]) for name in seeds[0]}
    result: dict[str, Cells] = {name: {} for name in mean}
    for (family, group), rows in parts.items():
        for name, figures in summarise(mean, rows, num_resamples=num_resamples).items():
            values = [100 * float(scores[name].accuracy[rows].mean()) for scores in seeds]
            figures["seeds"] = _over_seeds(values)
            result[name].setdefault(family, {})[group] = figures
    return result


def differences(
    seeds: Sequence[dict[str, Scores]],
    parts: dict[tuple[str, str], np.ndarray],
    *,
    num_resamples: int,
) -> dict[str, dict[str, Cells]]:
    """{method: {baseline: {family: {group: figures}}}}, see UNITS.

    The chosen scale of HyperLDM minus each of BASELINES, and over all families everything minus
    the unadapted generator. Only figures over all families get a "verdict".
    """
    mean = {name: mean_scores([scores[name] for scores in seeds]) for name in seeds[0]}
    ours_only = [(CHOSEN, baseline) for baseline in BASELINES if baseline in mean]
    others = [(name, UNADAPTED) for name in mean if name not in (CHOSEN, UNADAPTED)]
    result: dict[str, dict[str, Cells]] = {}
    for (family, group), rows in parts.items():
        names = ours_only + (others if family == ALL else [])
        pairs = [(mean[ours], mean[theirs]) for ours, theirs in names]
        compared = paired_differences(pairs, rows, num_resamples=num_resamples)
        for (ours, theirs), figures in zip(names, compared, strict=True):
            gaps = [scores[ours].accuracy - scores[theirs].accuracy for scores in seeds]
            figures["seeds"] = _over_seeds([100 * float(gap[rows].mean()) for gap in gaps])
            if family == ALL:
                figures["verdict"] = verdict(figures)
            cells = result.setdefault(ours, {}).setdefault(theirs, {})
            cells.setdefault(family, {})[group] = figures
    return result


def _over_seeds(values: list[float]) -> dict[str, Any]:
    """The figure of each seed, their mean, and with several of them its interval."""
    figures: dict[str, Any] = {"values": values, "mean": float(np.mean(values))}
    if len(values) > 1:
        figures["low"], figures["high"] = t_interval(values)
    return figures


def task_records(seeds: Sequence[dict[str, Scores]], tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Each task with its accuracy by method and seed."""
    accuracy = {
        name: 100 * np.stack([scores[name].accuracy for scores in seeds], axis=1)
        for name in seeds[0]
    }
    return [
        {
            "sentence": task.sentence,
            "family": task.family,
            "group": task.group,
            "examples": len(task.query),
            "accuracy": {name: values[row].tolist() for name, values in accuracy.items()},
        }
        for row, task in enumerate(tasks)
    ]


def scales_of(results: dict[str, Any]) -> list[float]:
    """The guidance scales that were compared, in ascending order."""
    names = [name for name in results["summaries"]["test"] if name.startswith(SCALE_PREFIX)]
    numbers = {name.removeprefix(SCALE_PREFIX).partition(",")[0] for name in names}
    return sorted(map(float, numbers))


def groups_of(results: dict[str, Any], split: str) -> list[str]:
    """All tasks together and then each group."""
    return list(results["summaries"][split][CHOSEN][ALL])
