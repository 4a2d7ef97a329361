"""How far the guides of a run can be trusted: what seeds leave (trust.json), read, and held against
the accuracies of the test tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json
from hyper_meta.core.scores import Scores
from hyper_meta.data.tasks import Task
from hyper_meta.eval.calibration import calibration_error, mean_of, rank_correlation

FILE = "trust.json"  # in the folder of a seed: {guide: what methods.trust says of it}
WARNINGS = ("near", "unseen")  # of why a sentence is warned of


def read_trust(folder: Path, tasks: Sequence[Task], remedy: str) -> dict[str, dict[str, Any]]:
    """{guide: {"expected": [T] float, and of WARNINGS [T] bool}} of a seed's test tasks, nothing
    where it has no file. Raises UserError for a damaged one, or one of other tasks."""
    path = folder / FILE
    if not path.exists():
        return {}
    saved = read_json(path)
    kinds = {"expected": float, **dict.fromkeys(WARNINGS, bool)}
    try:
        found = {
            guide: {name: np.array(record[name], kind) for name, kind in kinds.items()}
            for guide, record in saved.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not hold what it should ({error!r}): {remedy}") from error
    for record in found.values():
        if any(values.shape != (len(tasks),) for values in record.values()):
            raise UserError(f"{path} is of other tasks than the data set holds: {remedy}")
    return found


def trust_summaries(
    seeds: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Scores]],
    parts: Mapping[str, Bool[np.ndarray, " T"]],
) -> dict[str, dict[str, Any]]:
    """{guide: {group of test tasks: figures}}, each the mean over the seeds that have it.

    None where no seed has one. Figures are "rank_correlation" of what is expected and what is true;
    in percent "error", that of calibration, and the means "expected" and "true"; "tasks"; and for
    each of WARNINGS, how many tasks are warned of ("warned"), and in percent the accuracy on these
    ("warned_accuracy") and on the others ("other_accuracy").

    seeds: of each what `read_trust` returns; scores: of each, {row: its scores on the test tasks};
    parts: {group: [T] bool}.
    """
    shared = [
        name
        for name in seeds[0]
        if all(name in seed and name in known for seed, known in zip(seeds, scores, strict=True))
    ]
    return {
        name: {
            group: _mean_figures(
                [
                    _figures(seed[name], known[name], rows)
                    for seed, known in zip(seeds, scores, strict=True)
                ]
            )
            for group, rows in parts.items()
        }
        for name in shared
    }


def _figures(record: Mapping[str, np.ndarray], scores: Scores, rows: np.ndarray) -> dict[str, Any]:
    expected, true = record["expected"][rows], np.asarray(scores.accuracy)[rows]
    figures: dict[str, Any] = {
        "tasks": len(true),
        "rank_correlation": rank_correlation(expected, true),
        "error": 100 * calibration_error(expected, true),
        "expected": 100 * float(expected.mean()),
        "true": 100 * float(true.mean()),
    }
    for name in WARNINGS:
        warned = record[name][rows]
        figures[name] = {
            "warned": int(warned.sum()),
            "warned_accuracy": _percent(mean_of(true, warned)),
            "other_accuracy": _percent(mean_of(true, ~warned)),
        }
    return figures


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _mean_figures(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Key by key the mean of what is not None."""
    figures: dict[str, Any] = {}
    for name, value in seeds[0].items():
        values = [seed[name] for seed in seeds]
        if isinstance(value, dict):
            figures[name] = _mean_figures(values)
        else:
            there = [one for one in values if one is not None]
            figures[name] = float(np.mean(there)) if there else None
    return figures
