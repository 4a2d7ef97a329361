import json

import numpy as np
import pytest
import report_oracle as oracle
from scipy import stats
from toy_scores import (
    ADAPTED,
    CONDITIONAL,
    CONDITIONAL_MAML,
    HYPERCLIP,
    HYPERLDM,
    ROWS,
    SCALES,
    SHOTS,
    STARTS,
    TITLES,
    make_scores,
)

from hyper_meta.eval.results import compute_results, groups_of, partition, settings_of
from hyper_meta.eval.rows import CLIP, MULTITASK, NEAREST
from hyper_meta.eval.seeds import read_seeds

RESAMPLES = 200
IDS = [row[0] for row in ROWS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_workdir):
    return make_workdir(tmp_path_factory.mktemp("three_seeds"))


@pytest.fixture(scope="module")
def results(folders, tasks):
    return _results_of(folders, tasks)


@pytest.fixture(scope="module")
def seeds(folders):
    return oracle.read(folders)


def _results_of(folders, tasks):
    runs = read_seeds(folders, tasks)
    return compute_results(runs, tasks, {"dataset": "toy"}, num_resamples=RESAMPLES)


def _check(figures, by_seed, concepts):
    """figures against accuracies or differences [n, seeds] of tasks that ask for concepts [n]."""
    expected = oracle.bounds(by_seed, concepts, RESAMPLES)
    assert [figures[key] for key in ("mean", "low", "high")] == pytest.approx(expected)
    assert (figures["tasks"], figures["concepts"]) == (len(by_seed), len({*concepts}))
    means = by_seed.mean(axis=0)
    assert figures["seeds"]["values"] == pytest.approx(means)
    interval = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert [figures["seeds"][key] for key in ("low", "high")] == pytest.approx([*interval])
    assert figures["seeds"]["mean"] == pytest.approx(means.mean())


def _parts(tasks):
    groups = {task.group for task in tasks}
    for family in ("all", *{task.family for task in tasks}):
        for group in ("all", *(groups if len(groups) > 1 else ())):
            yield family, group, oracle.members(tasks, family, group)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_summaries_are_the_definition(split, results, seeds, tasks):
    assert list(results["summaries"][split]) == IDS
    for title, families in results["summaries"][split].items():
        accuracy = oracle.of_row(seeds, split, title)
        parts = list(_parts(tasks[split]))
        assert {(f, g) for f in families for g in families[f]} == {part[:2] for part in parts}
        for family, group, rows in parts:
            figures = families[family][group]
            _check(figures, accuracy[rows], oracle.concepts(tasks[split])[rows])
            size = np.array([len(task.query) for task in tasks[split]])[rows]
            pooled = (accuracy[rows].mean(axis=1) * size).sum() / size.sum()
            assert figures["pooled"] == pytest.approx(pooled)
            assert figures["examples"] == size.sum()


def test_settings_are_those_that_every_seed_has_scored(results, seeds, tasks):
    settings = results["settings"]
    assert {title: list(row) for title, row in settings["validation"].items()} == {
        title: list(row) for title, _, _, row in ROWS
    }
    assert list(settings["test"][HYPERLDM]) == list(SCALES)
    assert settings["test"][HYPERCLIP] == {}  # seeds chose different ones
    assert list(settings["test"][CLIP]) == [""]
    for split, rows in settings.items():
        for title, by_setting in rows.items():
            for setting, groups in by_setting.items():
                accuracy = oracle.of_row(seeds, split, title, setting)
                for group, figures in groups.items():
                    inside = oracle.members(tasks[split], "all", group)
                    _check(figures, accuracy[inside], oracle.concepts(tasks[split])[inside])


def test_a_row_is_the_setting_that_each_seed_chose(results):
    chosen = {row["id"]: list(row["chosen"].values()) for row in results["rows"]}
    assert chosen[HYPERLDM] == ["1.5", "15", "1.5"] and chosen[HYPERCLIP] == ["10", "100", "10"]
    assert chosen[CLIP] == ["", "", ""]
    assert list(results["rows"][0]["chosen"]) == ["seed_0", "seed_1", "seed_2"]
    ours = results["summaries"]["test"][HYPERLDM]["all"]["all"]["seeds"]["values"]
    by_scale = results["settings"]["test"][HYPERLDM]
    expected = [
        by_scale[scale]["all"]["seeds"]["values"][number]
        for number, scale in enumerate(chosen[HYPERLDM])
    ]
    assert ours == pytest.approx(expected)


def test_rows_stand_by_kind_and_in_their_own_order(results):
    order = ["reference", "unconditional", "language", "control", "few-shot"]
    expected = [row[0] for kind in order for row in ROWS if row[1] == kind]
    assert [row["id"] for row in results["rows"]] == expected != IDS
    assert [row["title"] for row in results["rows"]] == [TITLES[name] for name in expected]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_differences_are_the_definition(split, results, seeds, tasks):
    baselines = {MULTITASK, NEAREST, CLIP}
    kinds = {row[0]: row[1] for row in ROWS}
    differences = results["differences"][split]
    assert list(differences) == IDS
    for title, compared in differences.items():
        best = {CONDITIONAL_MAML} if kinds[title] == "language" else set()
        assert set(compared) == (baselines | best) - {title}
        for baseline, families in compared.items():
            gaps = oracle.of_row(seeds, split, title) - oracle.of_row(seeds, split, baseline)
            assert set(families) == (
                {"all", "colour", "count", "place", "size"} if title == HYPERLDM else {"all"}
            )
            for family, groups in families.items():
                for group, figures in groups.items():
                    inside = oracle.members(tasks[split], family, group)
                    _check(figures, gaps[inside], oracle.concepts(tasks[split])[inside])
                    assert ("verdict" in figures) == (family == "all")


def test_best_rows_are_chosen_on_validation_tasks_only(tmp_path, make_workdir, tasks):
    (folder,) = make_workdir(tmp_path, scales=("1.5",))
    saved = oracle.read([folder])[0]
    rng = np.random.default_rng(0)

    def rate(split, title, chance):
        for setting in saved[split][title]:
            saved[split][title][setting] = make_scores(rng, tasks[split], chance)

    for title, kind, _, _ in ROWS:
        if kind == "language":
            rate("validation", title, 1.0 if title == CONDITIONAL else 0.2)
            rate("test", title, 0.0 if title == CONDITIONAL else 1.0)
    (folder / "scores.json").write_text(json.dumps(saved))
    results = _results_of([folder], tasks)
    assert results["best"]["language"] == CONDITIONAL == results["best"]["conditional"]


def test_best_rows(results, seeds):
    mean = {title: oracle.of_row(seeds, "validation", title).mean() for title in IDS}
    language = [row[0] for row in ROWS if row[1] == "language"]
    assert results["best"] == {
        "language": max(language, key=mean.get),
        "conditional": max([CONDITIONAL, CONDITIONAL_MAML], key=mean.get),
        "few-shot": ADAPTED,
    }


def test_shots_are_the_definition(results, seeds, tasks):
    assert {start: list(row) for start, row in results["shots"].items()} == dict.fromkeys(
        STARTS, list(SHOTS)
    )
    for start, row in results["shots"].items():
        for k, entry in row.items():
            assert entry["chosen"] == dict.fromkeys(("seed_0", "seed_1", "seed_2"), f"{k} steps")
            columns = [oracle.percent(saved["shots"][start][k]) for saved in seeds]
            accuracy = np.stack(columns, axis=1)
            assert list(entry["groups"]) == ["all", "paraphrase", "composition"]
            for group, figures in entry["groups"].items():
                inside = oracle.members(tasks["test"], "all", group)
                _check(figures, accuracy[inside], oracle.concepts(tasks["test"])[inside])


def test_each_task_keeps_its_accuracy_by_row_and_seed(results, seeds, tasks):
    for split in ("validation", "test"):
        records = results["tasks"][split]
        assert [record["sentence"] for record in records] == [t.sentence for t in tasks[split]]
        assert [record["examples"] for record in records] == [len(t.query) for t in tasks[split]]
        assert [record["concept"] for record in records] == [*oracle.concepts(tasks[split])]
        for title in IDS:
            accuracy = [record["accuracy"][title] for record in records]
            np.testing.assert_allclose(accuracy, oracle.of_row(seeds, split, title))


def test_one_seed_has_no_interval_over_seeds(tmp_path, make_workdir, tasks):
    alone = _results_of(make_workdir(tmp_path, scales=("1.5",)), tasks)
    seeds = alone["summaries"]["test"][HYPERLDM]["all"]["all"]["seeds"]
    assert list(seeds) == ["values", "mean"]


def test_without_language_or_baselines_nothing_is_compared(tmp_path, make_workdir, tasks):
    rows = (("noise", "unconditional", None, {"": 0.5}),)
    results = _results_of(make_workdir(tmp_path, rows=rows), tasks)
    assert results["best"] == {}
    assert results["differences"] == {"validation": {"noise": {}}, "test": {"noise": {}}}


def test_parameters_and_config_are_recorded(results):
    assert results["evaluated"]["seed_1"]["hyperldm"] == "parameters of hyperldm"
    assert results["config"] == {"dataset": "toy"}
    chosen = {"hnet_latents": {"learning_rate": 10.0, "of": [1.0, 10.0]}}
    assert results["choices"]["seed_1"] == chosen


def test_partition_covers_every_task_once(tasks, plain_tasks):
    parts = partition(tasks["test"]).rows
    assert parts["all", "all"].all()
    groups = [rows for (family, group), rows in parts.items() if family == "all" != group]
    families = [rows for (family, group), rows in parts.items() if group == "all" != family]
    cells = [rows for (family, group), rows in parts.items() if "all" not in (family, group)]
    for cover in (groups, families, cells):
        np.testing.assert_array_equal(np.sum(cover, axis=0), 1)
    names = [group for family, group in parts if family == "all"]
    assert names == ["all", "paraphrase", "composition"]
    assert {group for _, group in partition(plain_tasks["test"]).rows} == {"all"}


def test_groups_and_settings_are_in_the_order_of_reading(results):
    assert groups_of(results, "test") == ["all", "paraphrase", "composition"]
    assert groups_of(results, "validation") == ["all"]
    mixed = {"settings": {"test": {"a": {"15": 0, "2": 0, "1e1": 0}, "b": {"z": 0, "2": 0}}}}
    assert settings_of(mixed, "test", "a") == ["2", "1e1", "15"]
    assert settings_of(mixed, "test", "b") == ["z", "2"]
