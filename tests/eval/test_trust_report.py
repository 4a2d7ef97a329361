"""How far guides can be trusted, as the report says it, against NumPy from the files of seeds."""

import json

import numpy as np
import pytest
import report_oracle as oracle
from scipy import stats
from toy_scores import CONDITIONAL, HYPERLDM, TITLES

from hyper_meta.core.errors import UserError
from hyper_meta.eval.calibration import calibration_error
from hyper_meta.eval.report import expected_points
from hyper_meta.eval.results import compute_results
from hyper_meta.eval.seeds import read_seeds
from hyper_meta.eval.tables import trust_table
from hyper_meta.eval.trust import read_trust

GROUPS = ("all", "paraphrase", "composition")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_workdir):
    return make_workdir(tmp_path_factory.mktemp("three_seeds"))


@pytest.fixture(scope="module")
def results(folders, tasks):
    return compute_results(read_seeds(folders, tasks), tasks, {}, num_resamples=20)


def _of_seeds(folders, guide, inside):
    """(expected, true, warned by reason) of the tasks inside, for each seed."""
    for folder in folders:
        trust = json.loads((folder / "trust.json").read_text())[guide]
        scores = json.loads((folder / "scores.json").read_text())
        (chosen,) = [row["chosen"] for row in scores["rows"] if row["id"] == guide]
        saved = scores["test"][guide][chosen]
        true = np.divide(saved["correct"], saved["count"])
        warned = {name: np.array(trust[name])[inside] for name in ("near", "unseen")}
        yield np.array(trust["expected"])[inside], true[inside], warned


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("guide", [HYPERLDM, CONDITIONAL])
def test_figures_are_means_over_seeds(guide, group, results, folders, tasks):
    figures, inside = results["trust"][guide][group], oracle.members(tasks["test"], "all", group)
    seeds = list(_of_seeds(folders, guide, inside))
    assert figures["tasks"] == inside.sum()
    ranks = [stats.spearmanr(expected, true)[0] for expected, true, _ in seeds]
    assert figures["rank_correlation"] == pytest.approx(np.mean(ranks))
    errors = [calibration_error(expected, true) for expected, true, _ in seeds]
    assert figures["error"] == pytest.approx(100 * np.mean(errors))
    for place, name in enumerate(("expected", "true")):
        assert figures[name] == pytest.approx(100 * np.mean([seed[place] for seed in seeds]))
    for name in ("near", "unseen"):
        cell = figures[name]
        assert cell["warned"] == pytest.approx(np.mean([seed[2][name].sum() for seed in seeds]))
        for key, wanted in (("warned_accuracy", True), ("other_accuracy", False)):
            means = [true[warned[name] == wanted].mean() for _, true, warned in seeds]
            assert cell[key] == pytest.approx(100 * np.mean(means))


@pytest.mark.parametrize("group", GROUPS)
def test_the_table_prints_them(group, results):
    header, *lines = trust_table(results, group)
    assert [line[0] for line in lines] == [TITLES[CONDITIONAL], TITLES[HYPERLDM]]
    for guide, line in zip((CONDITIONAL, HYPERLDM), lines, strict=True):
        assert len(line) == len(header)
        figures = results["trust"][guide][group]
        assert line[1] == f"{figures['rank_correlation']:.2f}"
        assert line[2:5] == [f"{figures[name]:.1f}" for name in ("error", "expected", "true")]
        unseen = figures["unseen"]
        assert line[7] == f"{unseen['warned']:g} of {figures['tasks']:g}"
        assert line[8] == f"{unseen['warned_accuracy']:.1f}, {unseen['other_accuracy']:.1f}"


def test_what_no_seed_has_is_none(tmp_path, make_workdir, tasks):
    (folder,) = make_workdir(tmp_path, scales=("1",))
    saved = json.loads((folder / "trust.json").read_text())
    saved[CONDITIONAL]["near"] = [False] * len(tasks["test"])
    saved[CONDITIONAL]["expected"] = [0.5] * len(tasks["test"])
    (folder / "trust.json").write_text(json.dumps(saved))
    results = compute_results(read_seeds([folder], tasks), tasks, {}, num_resamples=20)
    figures = results["trust"][CONDITIONAL]["all"]
    assert figures["rank_correlation"] is None and figures["near"]["warned_accuracy"] is None
    (line,) = [line for line in trust_table(results, "all") if line[0] == TITLES[CONDITIONAL]]
    assert line[1] == "–" and line[5].startswith("0 of ") and line[6].startswith("–, ")


def test_the_picture_shows_the_best_guide(results, folders, tasks):
    (seed, *_) = read_seeds(folders, tasks)
    assert results["best"]["language"] == HYPERLDM
    points = expected_points(results, seed, tasks["test"])
    assert list(points) == list(GROUPS[1:])
    for group, (expected, true) in points.items():
        inside = oracle.members(tasks["test"], "all", group)
        ours, right, _ = next(_of_seeds(folders, HYPERLDM, inside))
        np.testing.assert_allclose(expected, 100 * ours)
        np.testing.assert_allclose(true, 100 * right)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: record.pop("near"), "does not hold what it should"),
        (lambda record: record.update(expected="high"), "does not hold what it should"),
        (lambda record: record["expected"].pop(), "is of other tasks than"),
        (lambda record: record["unseen"].append(True), "is of other tasks than"),
    ],
)
def test_damaged_files_are_refused(damage, message, tmp_path, make_workdir, tasks):
    (folder,) = make_workdir(tmp_path, scales=("1",))
    saved = json.loads((folder / "trust.json").read_text())
    damage(saved[CONDITIONAL])
    (folder / "trust.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=f"trust.json {message}.*: do it again"):
        read_trust(folder, tasks["test"], "do it again")
    assert read_trust(tmp_path, tasks["test"], "") == {}
