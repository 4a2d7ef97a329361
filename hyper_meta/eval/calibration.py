"""From signs that are known before any label is seen to the accuracy that is to be expected: ridge
regression on validation tasks, and how well it holds on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped

# Over the number of tasks. The last leaves of the signs next to nothing.
PENALTIES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 1000.0)
SMALLEST_DEVIATION = 1e-6  # of a sign that says anything
NUM_BINS = 5


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Expected accuracy = centre + coefficients . (signs - mean) / std, within [0, 1].

    mean, std, coefficients: of S signs. centre: the mean accuracy of the tasks it was fitted on.
    penalty: one of PENALTIES. deviation: root mean square of what is left of the accuracies where
    the concept of a task was left out of the fit.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    coefficients: tuple[float, ...]
    centre: float
    penalty: float
    deviation: float


def fit_calibration(
    signs: Float[np.ndarray, "T S"],
    accuracy: Float[np.ndarray, " T"],
    concepts: Shaped[np.ndarray, " T"],
) -> Calibration:
    """Ridge regression with the penalty whose errors are smallest where concepts are left out, one
    after another: the wordings of a concept say too much about each other. With one concept, the
    mean.

    signs: float64, in any units; accuracy: in [0, 1]; concepts: strings, what each task asks.
    """
    mean, std = signs.mean(axis=0), signs.std(axis=0)
    varies = std > SMALLEST_DEVIATION
    std = np.where(varies, std, 1.0)
    inputs = np.where(varies, (signs - mean) / std, 0.0)
    left = {penalty: left_out(inputs, accuracy, concepts, penalty) for penalty in PENALTIES}
    errors = {penalty: float(np.mean(left[penalty] ** 2)) for penalty in PENALTIES}
    # The largest of equals: signs that say nothing are left alone.
    penalty = min(reversed(PENALTIES), key=lambda name: errors[name])
    centre = accuracy.mean()
    coefficients = np.linalg.solve(_gram(inputs, penalty), inputs.T @ (accuracy - centre))
    if len(np.unique(concepts)) == 1:
        coefficients = np.zeros_like(coefficients)
    return Calibration(
        *(tuple(values.tolist()) for values in (mean, std, coefficients)),
        centre=float(centre),
        penalty=penalty,
        deviation=float(np.sqrt(errors[penalty])),
    )


def left_out(
    inputs: Float[np.ndarray, "T S"],
    accuracy: Float[np.ndarray, " T"],
    concepts: Shaped[np.ndarray, " T"],
    penalty: float,
) -> Float[np.ndarray, " T"]:
    """[T]: accuracies minus what ridge regression, with a constant that is not penalised, expects
    of them from all tasks but those of their concept.

    inputs: of mean zero. In closed form: with H the matrix from accuracies to what is expected of
    them, the residuals r = (I - H) y of a concept are (I - H_cc)^-1 r_c where it is left out. With
    one concept, from the mean.
    """
    _, concept = np.unique(concepts, return_inverse=True)
    residual = accuracy - accuracy.mean()
    if concept.max() == 0:
        return residual
    hat = inputs @ np.linalg.solve(_gram(inputs, penalty), inputs.T) + 1 / len(inputs)
    residual = accuracy - hat @ accuracy
    for number in range(concept.max() + 1):
        rows = np.flatnonzero(concept == number)
        own = np.eye(len(rows)) - hat[np.ix_(rows, rows)]
        residual[rows] = np.linalg.solve(own, residual[rows])
    return residual


def _gram(inputs: np.ndarray, penalty: float) -> np.ndarray:
    return inputs.T @ inputs + penalty * len(inputs) * np.eye(inputs.shape[1])


def expected_accuracy(
    calibration: Calibration, signs: Float[np.ndarray, "n S"]
) -> Float[np.ndarray, " n"]:
    """[n], in [0, 1]."""
    inputs = (signs - np.array(calibration.mean)) / np.array(calibration.std)
    return np.clip(calibration.centre + inputs @ np.array(calibration.coefficients), 0, 1)


def rank_correlation(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float | None:
    """Spearman's, equals sharing the mean of their ranks; None where either does not vary."""
    ranks, others = _ranks(one), _ranks(other)
    if not np.ptp(ranks) or not np.ptp(others):
        return None
    return float(np.corrcoef(ranks, others)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def calibration_error(
    expected: Float[np.ndarray, " n"], accuracy: Float[np.ndarray, " n"]
) -> float:
    """|mean expected - mean true| of NUM_BINS bins of equally many tasks, by what is expected, on
    average over tasks. Few tasks make it larger than it is: the mean of a bin has an error of its
    own."""
    order = np.argsort(expected, kind="stable")
    bins: Sequence[np.ndarray] = np.array_split(order, min(NUM_BINS, len(order)))
    gaps = [len(rows) * abs(expected[rows].mean() - accuracy[rows].mean()) for rows in bins]
    return float(sum(gaps) / len(order))


def mean_of(values: Float[np.ndarray, " n"], rows: Bool[np.ndarray, " n"]) -> float | None:
    """The mean over some rows, None over none."""
    return float(values[rows].mean()) if rows.any() else None
