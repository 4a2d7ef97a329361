"""Expected accuracies, against loops over tasks in NumPy and against scipy."""

import numpy as np
import pytest
from scipy import stats

from hyper_meta.eval.calibration import (
    NUM_BINS,
    PENALTIES,
    Calibration,
    calibration_error,
    expected_accuracy,
    fit_calibration,
    left_out,
    mean_of,
    rank_correlation,
)

CONCEPTS = np.array(
    [f"concept {number // 3}" for number in range(14)]
)  # of three wordings, and two


def make_tasks(seed=0, noise=0.1):
    """Signs of different sizes, one of which is always the same, and accuracies of 14 tasks."""
    rng = np.random.default_rng(seed)
    signs = rng.normal(size=(14, 4)) * [1, 100, 0.01, 1] + [0, 5, 1, 0]
    signs[:, 3] = 0.3
    accuracy = 0.5 + 0.1 * signs[:, 0] + noise * rng.normal(size=14)
    return signs, accuracy


def ridge(signs, accuracy, penalty):
    """Least squares with rows for the penalty: of standardised signs, and 1."""
    rows = np.sqrt(penalty) * np.eye(signs.shape[1], signs.shape[1] + 1)
    inputs = np.concatenate([signs, np.ones((len(signs), 1))], axis=1)
    targets = np.concatenate([accuracy, np.zeros(len(rows))])
    return np.linalg.lstsq(np.concatenate([inputs, rows]), targets, rcond=None)[0]


def standardised(signs):
    std = signs.std(axis=0)
    return (signs - signs.mean(axis=0)) / np.where(std > 1e-6, std, 1)


def errors_left_out(signs, accuracy, concepts, penalty):
    """One fit for each concept."""
    errors, inputs = np.zeros(len(signs)), standardised(signs)
    for concept in set(concepts):
        out = concepts == concept
        fitted = ridge(inputs[~out], accuracy[~out], penalty * len(signs))
        errors[out] = accuracy[out] - inputs[out] @ fitted[:-1] - fitted[-1]
    return errors


@pytest.mark.parametrize("penalty", [PENALTIES[0], 0.1, PENALTIES[-1]])
@pytest.mark.parametrize("concepts", [CONCEPTS, np.arange(14).astype(str)])
def test_the_closed_form_leaves_concepts_out_one_after_another(concepts, penalty):
    signs, accuracy = make_tasks()
    found = left_out(standardised(signs), accuracy, concepts, penalty)
    expected = errors_left_out(signs, accuracy, concepts, penalty)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_the_penalty_is_the_one_with_the_smallest_errors(noise):
    signs, accuracy = make_tasks(noise=noise)
    fitted = fit_calibration(signs, accuracy, CONCEPTS)
    errors = {
        penalty: np.mean(errors_left_out(signs, accuracy, CONCEPTS, penalty) ** 2)
        for penalty in PENALTIES
    }
    assert fitted.penalty == min(errors, key=errors.get)
    assert fitted.deviation == pytest.approx(np.sqrt(min(errors.values())))
    expected = ridge(standardised(signs), accuracy, fitted.penalty * 14)
    np.testing.assert_allclose([*fitted.coefficients, fitted.centre], expected, atol=1e-9)
    assert fitted.coefficients[3] == 0


def test_signs_that_say_nothing_are_left_alone():
    signs, _ = make_tasks()
    accuracy = np.random.default_rng(5).uniform(size=14)
    fitted = fit_calibration(signs[:, 3:], accuracy, CONCEPTS)
    assert fitted.penalty == PENALTIES[-1] and fitted.coefficients == (0,)
    np.testing.assert_allclose(expected_accuracy(fitted, signs[:, 3:] + 9), accuracy.mean())


def test_of_one_concept_only_the_mean_is_known():
    signs, accuracy = make_tasks()
    fitted = fit_calibration(signs, accuracy, np.array(["one"] * 14))
    assert fitted.coefficients == (0,) * 4 and fitted.centre == pytest.approx(accuracy.mean())
    assert fitted.deviation == pytest.approx(accuracy.std())


def test_a_law_is_found_again_and_accuracies_stay_within_their_bounds():
    signs, accuracy = make_tasks(noise=0.0)
    fitted = fit_calibration(signs, accuracy, CONCEPTS)
    np.testing.assert_allclose(expected_accuracy(fitted, signs), np.clip(accuracy, 0, 1), atol=1e-3)
    plain = Calibration((0.0,), (2.0,), (0.4,), 0.5, 0.1, 0.1)
    found = expected_accuracy(plain, np.array([[-4.0], [0.0], [1.0], [4.0]]))
    np.testing.assert_allclose(found, [0, 0.5, 0.7, 1])


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    one, other = rng.integers(4, size=(2, 30)).astype(float)  # many equals
    assert rank_correlation(one, other) == pytest.approx(stats.spearmanr(one, other)[0])
    assert rank_correlation(one, np.exp(one)) == pytest.approx(1)
    assert rank_correlation(one, np.ones(30)) is None


def test_calibration_error_is_of_bins_of_equally_many_tasks():
    rng = np.random.default_rng(0)
    expected, true = rng.uniform(size=(2, 23))
    order = sorted(range(23), key=lambda task: expected[task])
    sizes = [5, 5, 5, 4, 4]
    assert len(sizes) == NUM_BINS
    total = 0.0
    for size in sizes:
        rows, order = order[:size], order[size:]
        total += abs(sum(expected[rows]) - sum(true[rows]))
    assert calibration_error(expected, true) == pytest.approx(total / 23)
    assert calibration_error(expected, expected) == 0
    assert calibration_error(expected[:2], true[:2]) == pytest.approx(
        np.abs(expected[:2] - true[:2]).mean()
    )


def test_the_mean_of_no_task_is_none():
    values = np.array([1.0, 2.0, 6.0])
    assert mean_of(values, np.array([True, False, True])) == 3.5
    assert mean_of(values, np.zeros(3, bool)) is None
