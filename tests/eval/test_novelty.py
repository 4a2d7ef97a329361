"""How new networks are, as the report says it, against NumPy from the files that seeds leave."""

import json

import numpy as np
import pytest
import report_oracle as oracle
from toy_scores import CONDITIONAL, HYPERLDM, TITLES

from hyper_meta.core.errors import UserError
from hyper_meta.eval.novelty import read_novelty
from hyper_meta.eval.results import compute_results
from hyper_meta.eval.seeds import read_seeds
from hyper_meta.eval.tables import novelty_table

RESAMPLES = 200
GROUPS = ("all", "paraphrase", "composition")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_workdir):
    return make_workdir(tmp_path_factory.mktemp("three_seeds"))


@pytest.fixture(scope="module")
def results(folders, tasks):
    return compute_results(read_seeds(folders, tasks), tasks, {}, num_resamples=RESAMPLES)


@pytest.fixture(scope="module")
def saved(folders):
    return [json.loads((folder / "novelty.json").read_text()) for folder in folders]


def _mean(saved, guide, inside, *path):
    """The mean over seeds and tasks of a list by task."""
    means = []
    for seed in saved:
        values = seed[guide]
        for name in path:
            values = values[name]
        means.append(np.mean(np.array(values)[inside]))
    return np.mean(means)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("guide", [HYPERLDM, CONDITIONAL])
def test_figures_are_means_over_tasks_and_seeds(guide, group, results, saved, tasks):
    figures, inside = results["novelty"][guide][group], oracle.members(tasks["test"], "all", group)
    assert figures["distance"] == pytest.approx(_mean(saved, guide, inside, "distance"))
    assert figures["between"] == pytest.approx(np.mean([seed[guide]["between"] for seed in saved]))
    for what in ("overlap", "agreement"):
        for name in ("generated", "noised"):
            expected = 100 * _mean(saved, guide, inside, what, name)
            assert figures[what][name] == pytest.approx(expected)
    accuracy = {}
    for name in ("generated", "nearest", "noised"):
        columns = [
            oracle.percent({**seed[guide], "correct": seed[guide]["correct"][name]})
            for seed in saved
        ]
        accuracy[name] = np.stack(columns, axis=1)[inside]
        assert figures["accuracy"][name] == pytest.approx(accuracy[name].mean())
    gap = accuracy["generated"] - accuracy["nearest"]
    expected = oracle.bounds(gap, oracle.concepts(tasks["test"])[inside], RESAMPLES)
    found = [figures["minus_nearest"][key] for key in ("mean", "low", "high")]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("group", GROUPS)
def test_the_table_prints_them(group, results):
    header, *lines = novelty_table(results, group)
    assert [line[0] for line in lines] == [TITLES[CONDITIONAL], TITLES[HYPERLDM]]
    for guide, line in zip((CONDITIONAL, HYPERLDM), lines, strict=True):
        figures = results["novelty"][guide][group]
        cells = dict(zip(header, line, strict=True))
        assert cells["distance to the nearest"] == f"{figures['distance']:.2f}"
        assert cells["between training networks"] == f"{figures['between']:.2f}"
        for name, shown in (("generated",) * 2, ("nearest",) * 2, ("noised", "noise")):
            assert cells[f"accuracy: {shown}"] == f"{figures['accuracy'][name]:.1f}"
        assert cells["overlap: generated"] == f"{figures['overlap']['generated']:.0f}"
        assert cells["overlap: noise"] == f"{figures['overlap']['noised']:.0f}"
        mean = figures["minus_nearest"]["mean"]
        assert cells["generated minus nearest [95%]"].startswith(f"{mean:+.1f} [")


def test_only_guides_that_every_seed_has_are_told_of(tmp_path, make_workdir, tasks):
    folders = make_workdir(tmp_path, scales=("1", "15"))
    path = folders[1] / "novelty.json"
    path.write_text(json.dumps({HYPERLDM: json.loads(path.read_text())[HYPERLDM]}))
    results = compute_results(read_seeds(folders, tasks), tasks, {}, num_resamples=20)
    assert list(results["novelty"]) == [HYPERLDM]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: record.pop("distance"), "does not hold what it should"),
        (lambda record: record["correct"].pop("noised"), "does not hold what it should"),
        (lambda record: record["overlap"]["generated"].pop(), "does not hold what it should"),
        (lambda record: record.update(between="far"), "does not hold what it should"),
        (lambda record: record["count"].reverse(), "is of other tasks than"),
    ],
)
def test_damaged_files_are_refused(damage, message, tmp_path, make_workdir, tasks):
    (folder,) = make_workdir(tmp_path, scales=("1",))
    saved = json.loads((folder / "novelty.json").read_text())
    damage(saved[CONDITIONAL])
    (folder / "novelty.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=f"novelty.json {message}.*: do it again"):
        read_novelty(folder, tasks["test"], "do it again")
    assert read_novelty(tmp_path, tasks["test"], "") == {}
