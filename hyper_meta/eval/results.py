"""Every figure that follows from what the seeds of a run left (results.json)."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Shaped

from hyper_meta.core.errors import UserError
from hyper_meta.core.scores import Scores
from hyper_meta.data.tasks import Task, concepts_of
from hyper_meta.eval.metrics import (
    mean_scores,
    paired_differences,
    summarise,
    t_interval,
    verdict,
)
from hyper_meta.eval.novelty import novelty_summaries
from hyper_meta.eval.rows import CLIP, KINDS, MULTITASK, NEAREST, RowRecord
from hyper_meta.eval.seeds import SPLITS, SeedResults
from hyper_meta.eval.trust import trust_summaries

RESULTS_FORMAT = 3  # of results.json; 2 had intervals over tasks, whatever they ask
BASELINES = (MULTITASK, NEAREST, CLIP)
ALL = "all"  # families or groups together
# What a group of test tasks asks; other groups are shown under their name alone.
GROUPS = {
    "paraphrase": "what was seen in training, asked in words never seen",
    "composition": "combinations never trained on in any wording",
}
UNITS = (
    "accuracies in percent, differences in points; mean: over tasks, each counted once; pooled: "
    "over examples; low, high: 95% bootstrap interval over concepts, of which one may be asked in"
    " several tasks, with right answers averaged over seeds; seeds: mean over tasks of each seed,"
    " and its 95% t-interval over seeds; a row is each seed's chosen setting, and known by its "
    "id; best: the row of a kind with the highest mean on validation tasks; summaries by split, "
    "row, family and group; settings, of those that every seed has scored, by split, row, setting"
    " and group; differences by split, row, baseline, family and group; shots, on test tasks, by "
    "row, examples per answer and group; novelty and trust, on test tasks, by guide and group: see "
    "eval/novelty.py and eval/trust.py"
)

# The id of a row, or a row with one of its settings.
Name = TypeVar("Name", bound=Hashable)
# [family][group] -> figures, "all" being one of either.
Cells = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Parts:
    """T tasks divided into what figures are of.

    rows: {(family, group): [T] bool}; concepts: [T] strings, what each task asks.
    """

    rows: dict[tuple[str, str], Bool[np.ndarray, " T"]]
    concepts: Shaped[np.ndarray, " T"]


def compute_results(
    seeds: Sequence[SeedResults],
    tasks: dict[str, list[Task]],
    config: dict[str, Any],
    *,
    num_resamples: int,
) -> dict[str, Any]:
    """Every figure, as JSON values; UNITS says how to read them."""
    tested = partition(tasks["test"])
    groups = {group: rows for (family, group), rows in tested.rows.items() if family == ALL}
    best = best_rows(seeds[0].rows, [seed.chosen("validation") for seed in seeds])
    results: dict[str, Any] = {
        "format": RESULTS_FORMAT,
        "units": UNITS,
        "seeds": [seed.name for seed in seeds],
        "rows": row_table(seeds),
        "best": best,
        "choices": {seed.name: seed.choices for seed in seeds},
        "evaluated": {
            seed.name: {stage: curve["evaluated"] for stage, curve in seed.curves.items()}
            for seed in seeds
        },
        "config": config,
        "summaries": {},
        "settings": {},
        "differences": {},
        "shots": shot_summaries(seeds, tested, num_resamples=num_resamples),
        "novelty": novelty_summaries(
            [seed.novelty for seed in seeds],
            groups,
            concepts=tested.concepts,
            num_resamples=num_resamples,
        ),
        "trust": trust_summaries(
            [seed.trust for seed in seeds], [seed.chosen("test") for seed in seeds], groups
        ),
        "tasks": {},
    }
    for split in SPLITS:
        for name, figures in _of_split(seeds, split, tasks[split], best, num_resamples).items():
            results[name][split] = figures
    return results


def _of_split(
    seeds: Sequence[SeedResults],
    split: str,
    tasks: list[Task],
    best: dict[str, str],
    num_resamples: int,
) -> dict[str, Any]:
    """The figures of one split: {"summaries", "settings", "differences", "tasks"}."""
    chosen, parts = [seed.chosen(split) for seed in seeds], partition(tasks)
    every = [seed.scores[split] for seed in seeds]
    return {
        "summaries": summaries(chosen, parts, num_resamples=num_resamples),
        "settings": setting_summaries(every, parts, num_resamples=num_resamples),
        "differences": differences(
            chosen,
            parts,
            pairs=compared_pairs(seeds[0].rows, best),
            by_family=best.get("language"),
            num_resamples=num_resamples,
        ),
        "tasks": task_records(chosen, tasks),
    }


def best_rows(rows: Sequence[RowRecord], seeds: Sequence[dict[str, Scores]]) -> dict[str, str]:
    """The ids of the language, conditional and few-shot rows with the highest mean accuracy over
    validation tasks and seeds (the first of equals), of those that are there.

    seeds: id -> Scores of the validation tasks, for each seed.
    """
    language = [row for row in rows if row.kind == "language"]
    pools = {
        "language": language,
        "conditional": [row for row in language if row.maps_question_directly],
        "few-shot": [row for row in rows if row.kind == "few-shot"],
    }
    mean = {
        row.id: float(np.mean([scores[row.id].accuracy.mean() for scores in seeds])) for row in rows
    }
    return {
        name: max(pool, key=lambda row: mean[row.id]).id for name, pool in pools.items() if pool
    }


def row_table(seeds: Sequence[SeedResults]) -> list[dict[str, Any]]:
    """The rows by kind, in the order of the tables: their records, "chosen" being the setting that
    each seed chose."""
    chosen: dict[str, dict[str, str]] = {row.id: {} for row in seeds[0].rows}
    for seed in seeds:
        for row in seed.rows:
            chosen[row.id][seed.name] = row.chosen
    kinds = list(KINDS)
    return [
        dataclasses.asdict(row) | {"chosen": chosen[row.id]}
        for row in sorted(seeds[0].rows, key=lambda row: kinds.index(row.kind))
    ]


def check_format(results: Any, path: Path, remedy: str) -> None:
    """Raises UserError unless results.json, read from path, is of this version's format."""
    if not isinstance(results, dict) or results.get("format") != RESULTS_FORMAT:
        raise UserError(f"{path} is of another version of hyper-meta: {remedy}")


def titles_of(results: dict[str, Any]) -> dict[str, str]:
    """{id: title} of the rows of results.json."""
    return {row["id"]: row["title"] for row in results["rows"]}


def group_names(tasks: Sequence[Task]) -> list[str]:
    """The groups of tasks, in the order of GROUPS, then alphabetical."""
    groups = {task.group for task in tasks}
    return [group for group in GROUPS if group in groups] + sorted(groups - {*GROUPS})


def partition(tasks: Sequence[Task]) -> Parts:
    """The tasks of each family and group, "all" being one of either.

    Families are in alphabetical order after "all"; groups follow it where there are several.
    """
    families = np.array([task.family for task in tasks])
    groups = np.array([task.group for task in tasks])
    names = group_names(tasks)
    parts: dict[tuple[str, str], np.ndarray] = {}
    for family in (ALL, *sorted({*families.tolist()})):
        for group in (ALL, *(names if len(names) > 1 else ())):
            rows = (families == family) | (family == ALL)
            rows &= (groups == group) | (group == ALL)
            if rows.any():
                parts[family, group] = rows
    return Parts(parts, np.array(concepts_of(tasks)))


def summaries(
    seeds: Sequence[Mapping[Name, Scores]], parts: Parts, *, num_resamples: int
) -> dict[Name, Cells]:
    """{name: {family: {group: figures}}} for every name, see UNITS."""
    mean = {name: mean_scores([scores[name] for scores in seeds]) for name in seeds[0]}
    result: dict[Name, Cells] = {name: {} for name in mean}
    how = {"concepts": parts.concepts, "num_resamples": num_resamples}
    for (family, group), rows in parts.rows.items():
        for name, figures in summarise(mean, rows, **how).items():
            values = [100 * float(scores[name].accuracy[rows].mean()) for scores in seeds]
            figures["seeds"] = _over_seeds(values)
            result[name].setdefault(family, {})[group] = figures
    return result


def setting_summaries(
    seeds: Sequence[Mapping[str, Mapping[str, Scores]]], parts: Parts, *, num_resamples: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """{id: {setting: {group: figures}}} over all families, of what every seed has scored."""
    flat = [
        {(row, setting): score for row, by in scores.items() for setting, score in by.items()}
        for scores in seeds
    ]
    shared = [key for key in flat[0] if all(key in scores for scores in flat)]
    result: dict[str, dict[str, dict[str, Any]]] = {row: {} for row in seeds[0]}
    if shared:
        groups = {part: rows for part, rows in parts.rows.items() if part[0] == ALL}
        over = dataclasses.replace(parts, rows=groups)
        kept = [{key: scores[key] for key in shared} for scores in flat]
        for (row, setting), cells in summaries(kept, over, num_resamples=num_resamples).items():
            result[row][setting] = cells[ALL]
    return result


def shot_summaries(
    seeds: Sequence[SeedResults], parts: Parts, *, num_resamples: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """{id: {examples per answer: {"chosen": by seed, "groups": {group: figures}}}}."""
    scores = [
        {start: {k: score for k, (_, score) in row.items()} for start, row in seed.shots.items()}
        for seed in seeds
    ]
    figures = setting_summaries(scores, parts, num_resamples=num_resamples)
    return {
        start: {
            k: {"chosen": {seed.name: seed.shots[start][k][0] for seed in seeds}, "groups": groups}
            for k, groups in row.items()
        }
        for start, row in figures.items()
    }


def compared_pairs(rows: Sequence[RowRecord], best: dict[str, str]) -> list[tuple[str, str]]:
    """(id, id of the baseline) for each row and each of BASELINES that is there, and for language
    rows the best conditional hypernetwork."""
    there = [name for name in BASELINES if name in {row.id for row in rows}]
    conditional = [best["conditional"]] if "conditional" in best else []
    return [
        (row.id, baseline)
        for row in rows
        for baseline in there + (conditional if row.kind == "language" else [])
        if baseline != row.id
    ]


def differences(
    seeds: Sequence[dict[str, Scores]],
    parts: Parts,
    *,
    pairs: Sequence[tuple[str, str]],
    by_family: str | None,
    num_resamples: int,
) -> dict[str, dict[str, Cells]]:
    """{id: {id of a baseline: {family: {group: figures}}}} of pairs, see UNITS.

    Single families, which get no "verdict", only of the row by_family.
    """
    result: dict[str, dict[str, Cells]] = {name: {} for name in seeds[0]}
    mean = {name: mean_scores([scores[name] for scores in seeds]) for name in seeds[0]}
    how = {"concepts": parts.concepts, "num_resamples": num_resamples}
    for (family, group), rows in parts.rows.items():
        names = [pair for pair in pairs if family == ALL or pair[0] == by_family]
        if not names:
            continue
        scores = [(mean[ours], mean[theirs]) for ours, theirs in names]
        compared = paired_differences(scores, rows, **how)
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
    """Each task with its accuracy by id of the row and seed."""
    accuracy = {
        name: 100 * np.stack([scores[name].accuracy for scores in seeds], axis=1)
        for name in seeds[0]
    }
    return [
        {
            "sentence": task.sentence,
            "concept": concept,
            "family": task.family,
            "group": task.group,
            "examples": len(task.query),
            "accuracy": {name: values[row].tolist() for name, values in accuracy.items()},
        }
        for row, (task, concept) in enumerate(zip(tasks, concepts_of(tasks), strict=True))
    ]


def groups_of(results: dict[str, Any], split: str) -> list[str]:
    """All tasks together and then, where there are several, each group."""
    return list(next(iter(results["summaries"][split].values()))[ALL])


def settings_of(results: dict[str, Any], split: str, row: str) -> list[str]:
    """The settings of a row that every seed has scored, numbers in ascending order."""
    settings = list(results["settings"][split][row])
    return sorted(settings, key=float) if all(map(is_number, settings)) else settings


def is_number(setting: str) -> bool:
    """Whether a setting or a number of examples has a place on an axis."""
    try:
        float(setting)
    except ValueError:
        return False
    return True
