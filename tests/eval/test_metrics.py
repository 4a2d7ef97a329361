import numpy as np
import pytest
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


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(3).beta(2, 1, size=(60, 2))
    low, high = bootstrap_interval(values, num_resamples=20_000)
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
    low, high = bootstrap_interval(values, num_resamples=2_000)
    reach = stats.norm.ppf(0.975) * values.std() / np.sqrt(1_000)
    np.testing.assert_allclose([low[0], high[0]], values.mean() + [-reach, reach], atol=0.1 * reach)


def test_bootstrap_of_two_tasks_has_three_means():
    # Means 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4: both tails hold more than 2.5%.
    low, high = bootstrap_interval(np.array([[0.0], [1.0]]), num_resamples=1_000)
    assert (low[0], high[0]) == (0, 1)


def test_bootstrap_columns_share_resamples_and_do_not_touch_each_other():
    values = np.random.default_rng(0).normal(size=(30, 3))
    low, high = bootstrap_interval(values, num_resamples=500)
    alone = bootstrap_interval(values[:, 1:2], num_resamples=500)
    np.testing.assert_allclose([low[1:2], high[1:2]], alone, rtol=1e-12)
    moved = bootstrap_interval(5 - 2 * values, num_resamples=500)
    np.testing.assert_allclose(moved, [5 - 2 * high, 5 - 2 * low], rtol=1e-12)


def test_summary_by_hand():
    scores = {"ours": Scores(np.array([1.0, 6.0, 0.0]), np.array([2.0, 10.0, 7.0]))}
    rows = np.array([True, True, False])
    summary = summarise(scores, rows, num_resamples=200)["ours"]
    assert summary["mean"] == pytest.approx(55)  # (1/2 + 6/10) / 2
    assert summary["pooled"] == pytest.approx(100 * 7 / 12)
    assert (summary["tasks"], summary["examples"]) == (2, 12)
    assert (summary["low"], summary["high"]) == pytest.approx((50, 60))
    assert summarise(scores, np.array([0, 1]), num_resamples=200)["ours"] == summary


def test_paired_interval_does_not_see_what_both_share():
    rng = np.random.default_rng(1)
    count = np.full(40, 20.0)
    theirs = Scores(rng.integers(0, 18, size=40).astype(float), count)
    ours = Scores(theirs.correct + 2, count)
    everything = np.arange(40)
    gap, back, same = paired_differences(
        [(ours, theirs), (theirs, ours), (ours, ours)], everything, num_resamples=300
    )
    assert [gap[key] for key in ("mean", "low", "high")] == pytest.approx([10, 10, 10])
    assert [back[key] for key in ("mean", "low", "high")] == pytest.approx([-10, -10, -10])
    assert [same[key] for key in ("mean", "low", "high")] == [0, 0, 0]
    alone = summarise({"ours": ours}, everything, num_resamples=300)["ours"]
    assert alone["high"] - alone["low"] > 5


def test_difference_is_the_difference_of_means():
    rng = np.random.default_rng(2)
    ours, theirs = _scores(rng, 25), _scores(rng, 25)
    rows = np.arange(25) % 2 == 0
    gap = paired_differences([(ours, theirs)], rows, num_resamples=100)[0]
    means = summarise({"ours": ours, "theirs": theirs}, rows, num_resamples=100)
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
