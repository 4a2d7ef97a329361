"""Accuracy over tasks, its intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from hyper_meta.core.scores import Scores


def mean_scores(runs: Sequence[Scores]) -> Scores:
    """The scores whose correct answers are the mean over runs on the same tasks."""
    return Scores(np.mean([run.correct for run in runs], axis=0), runs[0].count)


def summarise(
    scores: Mapping[Hashable, Scores],
    rows: Int[np.ndarray, " n"] | Bool[np.ndarray, " T"],
    *,
    concepts: Shaped[np.ndarray, " T"],
    num_resamples: int,
) -> dict[Hashable, dict[str, float]]:
    """{method: summary}, accuracies in percent.

    A summary has the "mean" over tasks, the 95% interval "low" to "high" of `bootstrap_interval`,
    the "pooled" accuracy, and the numbers of "tasks", "concepts" and "examples".

    Args:
      scores: {method: its scores}, all on the same T tasks.
      rows: [n] int64 or [T] bool, the tasks to summarise.
      concepts: [T] strings, what each task asks.
      num_resamples: of the bootstrap.
    """
    accuracy = np.stack([score.accuracy[rows] for score in scores.values()], axis=1)
    low, high = bootstrap_interval(accuracy, concepts[rows], num_resamples=num_resamples)
    num_concepts = len(np.unique(concepts[rows]))
    return {
        name: {
            "mean": 100 * float(accuracy[:, column].mean()),
            "low": 100 * float(low[column]),
            "high": 100 * float(high[column]),
            "pooled": 100 * float(score.correct[rows].sum() / score.count[rows].sum()),
            "tasks": len(accuracy),
            "concepts": num_concepts,
            "examples": int(score.count[rows].sum()),
        }
        for column, (name, score) in enumerate(scores.items())
    }


def paired_differences(
    pairs: Sequence[tuple[Scores, Scores]],
    rows: Int[np.ndarray, " n"] | Bool[np.ndarray, " T"],
    *,
    concepts: Shaped[np.ndarray, " T"],
    num_resamples: int,
) -> list[dict[str, float]]:
    """For each (ours, theirs) the mean over tasks of ours minus theirs, in percentage points.

    With the 95% interval "low" to "high" of `bootstrap_interval`, and the numbers of "tasks" and
    "concepts".

    Args:
      pairs: of scores, all on the same T tasks.
      rows: [n] int64 or [T] bool, the tasks to compare on.
      concepts: [T] strings, what each task asks.
      num_resamples: of the bootstrap.
    """
    columns = [ours.accuracy[rows] - theirs.accuracy[rows] for ours, theirs in pairs]
    difference = np.stack(columns, axis=1)
    low, high = bootstrap_interval(difference, concepts[rows], num_resamples=num_resamples)
    num_concepts = len(np.unique(concepts[rows]))
    return [
        {
            "mean": 100 * float(difference[:, column].mean()),
            "low": 100 * float(low[column]),
            "high": 100 * float(high[column]),
            "tasks": len(difference),
            "concepts": num_concepts,
        }
        for column in range(len(pairs))
    ]


def bootstrap_interval(
    values: Float[np.ndarray, "n M"], concepts: Shaped[np.ndarray, " n"], *, num_resamples: int
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """(low, high), each [M]: 95% bootstrap intervals of means over n tasks (Efron's percentiles).

    Concepts are drawn with replacement, and all tasks of a concept come with it (the cluster
    bootstrap, Davison and Hinkley 1997, section 3.8), since a concept asked in four wordings is
    not four. A resample's mean is over its tasks. Where no two tasks share a concept, it is the
    bootstrap over tasks.

    Args:
      values: [n, M] float64, a column for each quantity; all columns share the resamples.
      concepts: [n] strings, what each task asks.
      num_resamples: how many resamples are drawn, from seed 0.
    """
    _, first, concept = np.unique(concepts, return_index=True, return_inverse=True)
    concept = np.argsort(np.argsort(first))[concept]  # numbered as they come
    num_concepts = len(first)
    draws = np.random.default_rng(0).integers(num_concepts, size=(num_resamples, num_concepts))
    # How often each concept was drawn, so that the means of all columns are products of matrices.
    cells = draws + num_concepts * np.arange(num_resamples)[:, None]
    times = np.bincount(cells.ravel(), minlength=draws.size).reshape(draws.shape)
    sums = np.zeros((num_concepts, values.shape[1]))
    np.add.at(sums, concept, values)
    num_tasks = times @ np.bincount(concept)
    low, high = np.percentile(times @ sums / num_tasks[:, None], [2.5, 97.5], axis=0)
    return low, high


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """(low, high): 95% interval of the mean of n >= 2 independent runs (Student's t)."""
    from scipy.special import stdtrit  # takes longer to import than all else of `compare`

    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975) * spread)
    centre = float(np.mean(values))
    return centre - reach, centre + reach


def verdict(difference: Mapping[str, float]) -> str:
    """The verb between the names of two methods, from the interval of their difference."""
    if difference["low"] > 0:
        return "beats"
    if difference["high"] < 0:
        return "falls short of"
    return "is not distinguishable from"
