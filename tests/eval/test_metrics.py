import numpy as np
import pytest
import report_oracle as oracle
from scipy import stats

from hyper_meta.core.scores import Scores
from hyper_meta.eval.metrics import (
    bootstrap_interval,
    mean_scores,
    paired_differences,
    summarise,
    t_interval,
    verdict,
)


def _scores(rng, num_tasks):
    count = rng.integers(4, 30, size=num_tasks).astype(float)
    return Scores(rng.binomial(count.astype(int), 0.6).astype(float), count)


def _bootstrap(values, num_resamples):
    """Of tasks that each ask for a concept of their own."""
    return bootstrap_interval(values, np.arange(len(values)), num_resamples=num_resamples)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(3).beta(2, 1, size=(60, 2))
    low, high = _bootstrap(values, 20_000)
    for column in range(2):
        reference = stats.bootstrap(
            (values[:, column],),
            np.mean,
            n_resamples=20_000,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        # Two Monte Carlo estimates: apart by a small share of the standard error.
        tolerance = 0.1 * values[:, column].std() / np.sqrt(60)
        np.testing.assert_allclose([low[column], high[column]], reference, atol=tolerance)


def test_bootstrap_of_many_tasks_is_the_normal_interval():
    values = np.random.default_rng(5).normal(2, 3, size=(1_000, 1))
    low, high = _bootstrap(values, 2_000)
    reach = stats.norm.ppf(0.975) * values.std() / np.sqrt(1_000)
    np.testing.assert_allclose([low[0], high[0]], values.mean() + [-reach, reach], atol=0.1 * reach)


def test_bootstrap_of_two_tasks_has_three_means():
    # Means 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4: both tails hold more than 2.5%.
    low, high = _bootstrap(np.array([[0.0], [1.0]]), 1_000)
    assert (low[0], high[0]) == (0, 1)


def test_bootstrap_columns_share_resamples_and_do_not_touch_each_other():
    values = np.random.default_rng(0).normal(size=(30, 3))
    low, high = _bootstrap(values, 500)
    alone = _bootstrap(values[:, 1:2], 500)
    np.testing.assert_allclose([low[1:2], high[1:2]], alone, rtol=1e-12)
    moved = _bootstrap(5 - 2 * values, 500)
    np.testing.assert_allclose(moved, [5 - 2 * high, 5 - 2 * low], rtol=1e-12)


@pytest.fixture
def ragged():
    """(values [n, 2], concepts [n]) of 25 concepts in one to five tasks each, out of order."""
    rng = np.random.default_rng(7)
    concepts = rng.permutation(np.repeat(np.arange(25), rng.integers(1, 6, size=25)))
    values = rng.normal(size=(25, 2))[concepts] + 0.3 * rng.normal(size=(len(concepts), 2))
    return values, np.array([f"concept {number}" for number in concepts])


def test_all_tasks_of_a_drawn_concept_come_along(ragged):
    values, concepts = ragged
    low, high = bootstrap_interval(values, concepts, num_resamples=400)
    for column in range(2):
        expected = oracle.interval(values[:, column], concepts, 400)
        np.testing.assert_allclose([low[column], high[column]], expected, rtol=1e-12)


def test_concepts_of_one_task_each_are_the_bootstrap_over_tasks():
    values = np.random.default_rng(0).normal(size=(40, 1))
    draws = np.random.default_rng(0).integers(40, size=(300, 40))
    expected = np.percentile(values[draws, 0].mean(axis=1), [2.5, 97.5])
    names = np.array([f"{number}" for number in range(40)])  # whose order is not the alphabet's
    found = bootstrap_interval(values, names, num_resamples=300)
    np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-12)


def test_copies_of_a_task_in_other_words_do_not_narrow_the_interval():
    """The deviation of the mean of C concepts is known, however often each is asked; tasks taken
    for independent would make it smaller by sqrt(4)."""
    once = np.random.default_rng(5).normal(2, 3, size=(500, 1))
    reach = stats.norm.ppf(0.975) * once.std() / np.sqrt(500)
    values, concepts = np.tile(once, (4, 1)), np.tile(np.arange(500), 4)
    low, high = bootstrap_interval(values, concepts, num_resamples=2_000)
    np.testing.assert_allclose([low[0], high[0]], once.mean() + [-reach, reach], atol=0.1 * reach)
    np.testing.assert_allclose([low, high], _bootstrap(once, 2_000), rtol=1e-12)
    plain_low, plain_high = _bootstrap(values, 2_000)
    assert (high - low) / (plain_high - plain_low) == pytest.approx(2, rel=0.1)


def test_summary_by_hand():
    scores = {"ours": Scores(np.array([1.0, 6.0, 0.0]), np.array([2.0, 10.0, 7.0]))}
    rows = np.array([True, True, False])
    how = {"concepts": np.array(["a", "b", "b"]), "num_resamples": 200}
    summary = summarise(scores, rows, **how)["ours"]
    assert summary["mean"] == pytest.approx(55)  # (1/2 + 6/10) / 2
    assert summary["pooled"] == pytest.approx(100 * 7 / 12)
    assert [summary[key] for key in ("tasks", "concepts", "examples")] == [2, 2, 12]
    assert (summary["low"], summary["high"]) == pytest.approx((50, 60))
    assert summarise(scores, np.array([0, 1]), **how)["ours"] == summary
    one = summarise(scores, np.array([1, 2]), **how)["ours"]
    assert (one["concepts"], one["low"], one["high"]) == (1, one["mean"], one["mean"])


def test_paired_interval_does_not_see_what_both_share():
    rng = np.random.default_rng(1)
    count = np.full(40, 20.0)
    theirs = Scores(rng.integers(0, 18, size=40).astype(float), count)
    ours = Scores(theirs.correct + 2, count)
    everything = np.arange(40)
    how = {"concepts": everything, "num_resamples": 300}
    pairs = [(ours, theirs), (theirs, ours), (ours, ours)]
    gap, back, same = paired_differences(pairs, everything, **how)
    assert [gap[key] for key in ("mean", "low", "high")] == pytest.approx([10, 10, 10])
    assert [back[key] for key in ("mean", "low", "high")] == pytest.approx([-10, -10, -10])
    assert [same[key] for key in ("mean", "low", "high")] == [0, 0, 0]
    alone = summarise({"ours": ours}, everything, **how)["ours"]
    assert alone["high"] - alone["low"] > 5


def test_difference_is_the_difference_of_means():
    rng = np.random.default_rng(2)
    ours, theirs = _scores(rng, 25), _scores(rng, 25)
    rows = np.arange(25) % 2 == 0
    how = {"concepts": np.arange(25) // 4, "num_resamples": 100}
    gap = paired_differences([(ours, theirs)], rows, **how)[0]
    means = summarise({"ours": ours, "theirs": theirs}, rows, **how)
    assert gap["mean"] == pytest.approx(means["ours"]["mean"] - means["theirs"]["mean"])
    assert gap["low"] < gap["mean"] < gap["high"]
    assert gap["tasks"] == 13


def test_mean_over_runs_is_by_task():
    count = np.array([4.0, 8.0])
    mean = mean_scores([Scores(np.array([1.0, 8.0]), count), Scores(np.array([3.0, 2.0]), count)])
    np.testing.assert_array_equal(mean.accuracy, [0.5, 0.625])


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_interval_over_seeds_is_student_t(num_seeds):
    values = np.random.default_rng(0).normal(60, 2, size=num_seeds)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx(tuple(reference))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 2.0, "beats"),
        (-2.0, -0.1, "falls short of"),
        (-1.0, 1.0, "is not distinguishable from"),
        (0.0, 0.0, "is not distinguishable from"),
    ],
)
def test_verdict(low, high, words):
    assert verdict({"low": low, "high": high}) == words
