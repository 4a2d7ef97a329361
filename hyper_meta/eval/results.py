"""Every figure that follows from what the seeds of a run left (results.json)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from hyper_meta.data.tasks import Task
from hyper_meta.eval.metrics import (
    CLIP,
    CONDITIONAL_PREFIX,
    KINDS,
    MULTITASK,
    NEAREST,
    Scores,
    mean_scores,
    paired_differences,
    summarise,
    t_interval,
    verdict,
)
from hyper_meta.eval.runs import SPLITS, Row, Run

BASELINES = (MULTITASK, NEAREST, CLIP)
ALL = "all"  # families or groups together
# What a group of test tasks asks; other groups are shown under their name alone.
GROUPS = {
    "paraphrase": "what was seen in training, asked in words never seen",
    "composition": "combinations never trained on in any wording",
}
UNITS = (
    "accuracies in percent, differences in points; mean: over tasks, each counted once; pooled: "
    "over examples; low, high: 95% bootstrap interval over tasks, with right answers averaged over "
    "seeds; seeds: mean over tasks of each seed, and its 95% t-interval over seeds; a row is each "
    "seed's chosen setting; best: the row of a kind with the highest mean on validation tasks; "
    "summaries by split, row, family and group; settings, of those that every seed has scored, by "
    "split, row, setting and group; differences by split, row, baseline, family and group; shots, "
    "on test tasks, by start, examples per answer and group"
)

Title = TypeVar("Title", bound=Hashable)
# [family][group] -> figures, "all" being one of either.
Cells = dict[str, dict[str, Any]]
# {(family, group): [T] bool}
Parts = dict[tuple[str, str], np.ndarray]


def compute_results(
    runs: Sequence[Run],
    tasks: dict[str, list[Task]],
    config: dict[str, Any],
    *,
    num_resamples: int,
) -> dict[str, Any]:
    """Every figure, as JSON values; UNITS says how to read them."""
    rows = runs[0].rows
    best = best_titles(rows, [run.chosen("validation") for run in runs])
    results = {
        "units": UNITS,
        "seeds": [run.name for run in runs],
        "rows": row_records(runs),
        "best": best,
        "choices": {run.name: run.choices for run in runs},
        "evaluated": {
            run.name: {stage: curve["evaluated"] for stage, curve in run.curves.items()}
            for run in runs
        },
        "config": config,
        "summaries": {},
        "settings": {},
        "differences": {},
        "shots": shot_summaries(runs, partition(tasks["test"]), num_resamples=num_resamples),
        "tasks": {},
    }
    pairs = compared_pairs(rows, best)
    for split in SPLITS:
        seeds, parts = [run.chosen(split) for run in runs], partition(tasks[split])
        results["summaries"][split] = summaries(seeds, parts, num_resamples=num_resamples)
        results["settings"][split] = setting_summaries(
            [run.scores[split] for run in runs], parts, num_resamples=num_resamples
        )
        results["differences"][split] = differences(
            seeds, parts, pairs=pairs, by_family=best.get("language"), num_resamples=num_resamples
        )
        results["tasks"][split] = task_records(seeds, tasks[split])
    return results


def best_titles(rows: Sequence[Row], seeds: Sequence[dict[str, Scores]]) -> dict[str, str]:
    """The language, conditional and few-shot rows with the highest mean accuracy over validation
    tasks and seeds (the first of equals), of those that are there.

    seeds: title -> Scores of the validation tasks, for each seed.
    """
    titles = {kind: [row.title for row in rows if row.kind == kind] for kind in KINDS}
    pools = {
        "language": titles["language"],
        "conditional": [name for name in titles["language"] if name.startswith(CONDITIONAL_PREFIX)],
        "few-shot": titles["few-shot"],
    }
    mean = {
        row.title: float(np.mean([scores[row.title].accuracy.mean() for scores in seeds]))
        for row in rows
    }
    return {name: max(pool, key=mean.__getitem__) for name, pool in pools.items() if pool}


def row_records(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The rows by kind, in the order of the tables, with the setting that each seed chose."""
    chosen = {row.title: {} for row in runs[0].rows}
    for run in runs:
        for row in run.rows:
            chosen[row.title][run.name] = row.chosen
    kinds = list(KINDS)
    return [
        {"title": row.title, "kind": row.kind, "varies": row.varies, "chosen": chosen[row.title]}
        for row in sorted(runs[0].rows, key=lambda row: kinds.index(row.kind))
    ]


def group_names(tasks: Sequence[Task]) -> list[str]:
    """The groups of tasks, in the order of GROUPS, then alphabetical."""
    groups = {task.group for task in tasks}
    return [group for group in GROUPS if group in groups] + sorted(groups - {*GROUPS})


def partition(tasks: Sequence[Task]) -> Parts:
    """The tasks of each family and group: {(family, group): [T] bool}, "all" being one of either.

    Families are in alphabetical order after "all"; groups follow it where there are several.
    """
    families = np.array([task.family for task in tasks])
    groups = np.array([task.group for task in tasks])
    names = group_names(tasks)
    parts = {}
    for family in (ALL, *sorted({*families.tolist()})):
        for group in (ALL, *(names if len(names) > 1 else ())):
            rows = (families == family) | (family == ALL)
            rows &= (groups == group) | (group == ALL)
            if rows.any():
                parts[family, group] = rows
    return parts


def summaries(
    seeds: Sequence[Mapping[Title, Scores]], parts: Parts, *, num_resamples: int
) -> dict[Title, Cells]:
    """{title: {family: {group: figures}}} for every title, see UNITS."""
    mean = {name: mean_scores([scores[name] for scores in seeds]) for name in seeds[0]}
    result: dict[Title, Cells] = {name: {} for name in mean}
    for (family, group), rows in parts.items():
        for name, figures in summarise(mean, rows, num_resamples=num_resamples).items():
            values = [100 * float(scores[name].accuracy[rows].mean()) for scores in seeds]
            figures["seeds"] = _over_seeds(values)
            result[name].setdefault(family, {})[group] = figures
    return result


def setting_summaries(
    seeds: Sequence[Mapping[str, Mapping[str, Scores]]], parts: Parts, *, num_resamples: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """{title: {setting: {group: figures}}} over all families, of what every seed has scored."""
    flat = [
        {(title, setting): score for title, row in scores.items() for setting, score in row.items()}
        for scores in seeds
    ]
    shared = [key for key in flat[0] if all(key in scores for scores in flat)]
    result: dict[str, dict[str, dict[str, Any]]] = {title: {} for title in seeds[0]}
    if shared:
        groups = {part: rows for part, rows in parts.items() if part[0] == ALL}
        kept = [{key: scores[key] for key in shared} for scores in flat]
        for (title, setting), cells in summaries(kept, groups, num_resamples=num_resamples).items():
            result[title][setting] = cells[ALL]
    return result


def shot_summaries(
    runs: Sequence[Run], parts: Parts, *, num_resamples: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """{start: {examples per answer: {"chosen": by seed, "groups": {group: figures}}}}."""
    seeds = [
        {start: {k: scores for k, (_, scores) in row.items()} for start, row in run.shots.items()}
        for run in runs
    ]
    figures = setting_summaries(seeds, parts, num_resamples=num_resamples)
    return {
        start: {
            k: {"chosen": {run.name: run.shots[start][k][0] for run in runs}, "groups": groups}
            for k, groups in row.items()
        }
        for start, row in figures.items()
    }


def compared_pairs(rows: Sequence[Row], best: dict[str, str]) -> list[tuple[str, str]]:
    """(row, baseline) for each row and each of BASELINES that is there, and for language rows the
    best conditional hypernetwork."""
    there = [title for title in BASELINES if title in {row.title for row in rows}]
    conditional = [best["conditional"]] if "conditional" in best else []
    return [
        (row.title, baseline)
        for row in rows
        for baseline in there + (conditional if row.kind == "language" else [])
        if baseline != row.title
    ]


def differences(
    seeds: Sequence[dict[str, Scores]],
    parts: Parts,
    *,
    pairs: Sequence[tuple[str, str]],
    by_family: str | None,
    num_resamples: int,
) -> dict[str, dict[str, Cells]]:
    """{title: {baseline: {family: {group: figures}}}} of pairs, see UNITS.

    Single families, which get no "verdict", only of the row by_family.
    """
    result: dict[str, dict[str, Cells]] = {title: {} for title in seeds[0]}
    mean = {name: mean_scores([scores[name] for scores in seeds]) for name in seeds[0]}
    for (family, group), rows in parts.items():
        names = [pair for pair in pairs if family == ALL or pair[0] == by_family]
        if not names:
            continue
        scores = [(mean[ours], mean[theirs]) for ours, theirs in names]
        compared = paired_differences(scores, rows, num_resamples=num_resamples)
        for (ours, theirs), figures in zip(names, compared, strict=True):
            gaps = [seed[ours].accuracy - seed[theirs].accuracy for seed in seeds]
            figures["seeds"] = _over_seeds([100 * float(gap[rows].mean()) for gap in gaps])
            if family == ALL:
                figures["verdict"] = verdict(figures)
            cells = result[ours].setdefault(theirs, {})
            cells.setdefault(family, {})[group] = figures
    return result


def _over_seeds(values: list[float]) -> dict[str, Any]:
    """The figure of each seed, their mean, and with several of them its interval."""
    figures: dict[str, Any] = {"values": values, "mean": float(np.mean(values))}
    if len(values) > 1:
        figures["low"], figures["high"] = t_interval(values)
    return figures


def task_records(seeds: Sequence[dict[str, Scores]], tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Each task with its accuracy by row and seed."""
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


def groups_of(results: dict[str, Any], split: str) -> list[str]:
    """All tasks together and then, where there are several, each group."""
    return list(next(iter(results["summaries"][split].values()))[ALL])


def settings_of(results: dict[str, Any], split: str, title: str) -> list[str]:
    """The settings of a row that every seed has scored, numbers in ascending order."""
    settings = list(results["settings"][split][title])
    return sorted(settings, key=float) if all(map(is_number, settings)) else settings


def is_number(setting: str) -> bool:
    """Whether a setting or a number of examples has a place on an axis."""
    try:
        float(setting)
    except ValueError:
        return False
    return True
