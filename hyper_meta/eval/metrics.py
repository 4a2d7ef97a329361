"""Accuracy over tasks, its intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from hyper_meta.core.scores import Scores


def mean_scores(runs: Sequence[Scores]) -> Scores:
    """The scores whose correct answers are the mean over runs on the same tasks."""
    return Scores(np.mean([run.correct for run in runs], axis=0), runs[0].count)


def summarise(
    scores: Mapping[Hashable, Scores],
    rows: Int[np.ndarray, " n"] | Bool[np.ndarray, " T"],
    *,
    num_resamples: int,
) -> dict[Hashable, dict[str, float]]:
    """{method: summary}, accuracies in percent.

    A summary has the "mean" over tasks, the 95% interval "low" to "high" of `bootstrap_interval`,
    the "pooled" accuracy, and the numbers of "tasks" and "examples".

    Args:
      scores: {method: its scores}, all on the same T tasks.
      rows: [n] int64 or [T] bool, the tasks to summarise.
      num_resamples: of the bootstrap.
    """
    accuracy = np.stack([score.accuracy[rows] for score in scores.values()], axis=1)
    low, high = bootstrap_interval(accuracy, num_resamples=num_resamples)
    return {
        name: {
            "mean": 100 * float(accuracy[:, column].mean()),
            "low": 100 * float(low[column]),
            "high": 100 * float(high[column]),
            "pooled": 100 * float(score.correct[rows].sum() / score.count[rows].sum()),
            "tasks": len(accuracy),
            "examples": int(score.count[rows].sum()),
        }
        for column, (name, score) in enumerate(scores.items())
    }


def paired_differences(
    pairs: Sequence[tuple[Scores, Scores]],
    rows: Int[np.ndarray, " n"] | Bool[np.ndarray, " T"],
    *,
    num_resamples: int,
) -> list[dict[str, float]]:
    """For each (ours, theirs) the mean over tasks of ours minus theirs, in percentage points.

    With the 95% interval "low" to "high" of `bootstrap_interval`, and the number of "tasks".

    Args:
      pairs: of scores, all on the same T tasks.
      rows: [n] int64 or [T] bool, the tasks to compare on.
      num_resamples: of the bootstrap.
    """
    columns = [ours.accuracy[rows] - theirs.accuracy[rows] for ours, theirs in pairs]
    difference = np.stack(columns, axis=1)
    low, high = bootstrap_interval(difference, num_resamples=num_resamples)
    return [
        {
            "mean": 100 * float(difference[:, column].mean()),
            "low": 100 * float(low[column]),
            "high": 100 * float(high[column]),
            "tasks": len(difference),
        }
        for column in range(len(pairs))
    ]


def bootstrap_interval(
    values: Float[np.ndarray, "n M"], *, num_resamples: int
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """(low, high), each [M]: 95% bootstrap intervals of means over n tasks (Efron's percentiles).

    Args:
      values: [n, M] float64, a column for each quantity; all columns share the resamples.
      num_resamples: how many resamples are drawn, from seed 0.
    """
    num_tasks = len(values)
    draws = np.random.default_rng(0).integers(num_tasks, size=(num_resamples, num_tasks))
    # How often each task was drawn, so that the means of all columns are one product of matrices.
    cells = draws + num_tasks * np.arange(num_resamples)[:, None]
    times = np.bincount(cells.ravel(), minlength=draws.size).reshape(draws.shape)
    low, high = np.percentile(times @ values / num_tasks, [2.5, 97.5], axis=0)
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
