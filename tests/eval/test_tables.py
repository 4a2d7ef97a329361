"""Every printed figure against NumPy, written from the definitions (report_oracle)."""

import numpy as np
import pytest
import report_oracle as oracle
from toy_scores import ADAPTED, CONDITIONAL_MAML, HYPERCLIP, HYPERLDM, ROWS, SCALES, STARTS, TITLES

from hyper_meta.eval import tables
from hyper_meta.eval.results import compute_results
from hyper_meta.eval.rows import CLIP, KINDS, MULTITASK, NEAREST
from hyper_meta.eval.seeds import read_seeds

RESAMPLES = 200
OURS, BEST = TITLES[HYPERLDM], TITLES[CONDITIONAL_MAML]
HEADINGS = [heading for heading in KINDS.values()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_workdir):
    return make_workdir(tmp_path_factory.mktemp("three_seeds"))


@pytest.fixture(scope="module")
def results(folders, tasks):
    return compute_results(read_seeds(folders, tasks), tasks, {}, num_resamples=RESAMPLES)


@pytest.fixture(scope="module")
def seeds(folders):
    return oracle.read(folders)


def _lines(table):
    """{id: cells} of a table with headings."""
    ids = {title: name for name, title in TITLES.items()}
    return {ids[row[0]]: row[1:] for row in table[1:] if len(row) > 1 and row[0] in ids}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_main_table(split, results, seeds, tasks):
    table = tables.main_table(results, split)
    groups = ["paraphrase", "composition"] if split == "test" else []
    minus = ["minus multitask [95%]", "minus nearest [95%]"]
    assert table[0] == ["method", "all [95%]", *groups, "pooled", *minus]
    concepts = oracle.concepts(tasks[split])
    sizes = ["20 (12)", "8 (4)", "12 (8)"] if split == "test" else ["12 (4)"]
    assert table[1] == ["number of tasks (of concepts)", *sizes, "", "", ""]
    size = np.array([len(task.query) for task in tasks[split]])
    for title, cells in _lines(table).items():
        accuracy = oracle.of_row(seeds, split, title)
        expected = [oracle.shown(accuracy, concepts, RESAMPLES)]
        for group in groups:
            inside = oracle.members(tasks[split], "all", group)
            expected.append(f"{accuracy[inside].mean():.1f}")
        expected.append(f"{(accuracy.mean(axis=1) * size).sum() / size.sum():.1f}")
        for baseline in (MULTITASK, NEAREST):
            gap = accuracy - oracle.of_row(seeds, split, baseline)
            shown = oracle.shown(gap, concepts, RESAMPLES, "+")
            expected.append("–" if title == baseline else shown)
        assert cells == expected


def test_rows_stand_under_their_kind(results):
    table = tables.main_table(results, "test")
    expected = []
    for kind, heading in KINDS.items():
        expected += [heading, *(TITLES[row[0]] for row in ROWS if row[1] == kind)]
    assert [row[0] for row in table[2:]] == expected
    assert [row[0] for row in table if len(row) == 1] == HEADINGS


def test_baselines_and_kinds_that_are_not_there_have_no_place(tmp_path, make_workdir, tasks):
    rows = tuple(row for row in ROWS if row[1] in ("language", "control"))
    folders = make_workdir(tmp_path, rows=rows)
    results = compute_results(read_seeds(folders, tasks), tasks, {}, num_resamples=20)
    table = tables.main_table(results, "test")
    assert table[0][-2:] == ["pooled", "minus nearest [95%]"]
    assert [row[0] for row in table if len(row) == 1] == HEADINGS[2:4]
    assert tables.difference_table(results, "test", "all")[0][1:] == ["nearest", BEST]


@pytest.mark.parametrize("group", ["all", "paraphrase", "composition"])
def test_difference_table(group, results, seeds, tasks):
    table = tables.difference_table(results, "test", group)
    assert table[0] == ["method, against", "multitask", "nearest", "CLIP", BEST]
    inside = oracle.members(tasks["test"], "all", group)
    concepts = oracle.concepts(tasks["test"])[inside]
    kinds = {row[0]: row[1] for row in ROWS}
    baselines = (MULTITASK, NEAREST, CLIP, CONDITIONAL_MAML)
    for title, cells in _lines(table).items():
        for baseline, cell in zip(baselines, cells, strict=True):
            if title == baseline or baseline == CONDITIONAL_MAML and kinds[title] != "language":
                assert cell == "–"
                continue
            ours = oracle.of_row(seeds, "test", title)
            gap = (ours - oracle.of_row(seeds, "test", baseline))[inside]
            _, low, high = oracle.bounds(gap, concepts, RESAMPLES)
            words = "beats" if low > 0 else "falls short of" if high < 0 else "is not dist"
            assert cell.startswith(words)
            assert cell.endswith(": " + oracle.shown(gap, concepts, RESAMPLES, "+"))


def test_family_table(results, seeds, tasks):
    table = tables.family_table(results, "test")
    others = [MULTITASK, NEAREST, CLIP, CONDITIONAL_MAML]
    groups = ["paraphrase", "composition"]
    assert table[0] == [
        *(
            "family",
            "tasks",
            "concepts",
            "multitask",
            "nearest",
            "CLIP",
            BEST,
            "HNet-MAML, adapted",
            OURS,
        ),
        *(f"{OURS}: {group}" for group in groups),
        *("minus multitask", "minus nearest", "minus CLIP", f"minus {BEST}"),
    ]
    assert [row[0] for row in table[1:]] == ["all", "colour", "count", "place", "size"]
    ours = oracle.of_row(seeds, "test", HYPERLDM)
    for family, *cells in table[1:]:
        inside = oracle.members(tasks["test"], family, "all")
        means = [
            oracle.of_row(seeds, "test", title)[inside].mean()
            for title in (*others, ADAPTED, HYPERLDM)
        ]
        means += [ours[oracle.members(tasks["test"], family, group)].mean() for group in groups]
        concepts = oracle.concepts(tasks["test"])[inside]
        gaps = [(ours - oracle.of_row(seeds, "test", title))[inside] for title in others]
        minus = [oracle.shown(gap, concepts, RESAMPLES, "+") for gap in gaps]
        sizes = [str(inside.sum()), str(len({*concepts}))]
        assert cells == [*sizes, *(f"{mean:.1f}" for mean in means), *minus]


def test_setting_table(results, seeds, tasks):
    (row,) = tables.curve_rows(results)
    assert row["id"] == HYPERLDM
    table = tables.setting_table(results, row)
    validation = [f"validation, seed_{number}" for number in range(3)]
    heads = ["test [95%]", "test: paraphrase", "test: composition"]
    assert table[0] == ["guidance scale", *validation, *heads]
    assert [row[0] for row in table[1:]] == list(SCALES)
    for scale, *cells in table[1:]:
        expected = []
        for saved, chosen in zip(seeds, ("1.5", "15", "1.5"), strict=True):
            mean = oracle.percent(saved["validation"][HYPERLDM][scale]).mean()
            expected.append(f"**{mean:.1f}**" if scale == chosen else f"{mean:.1f}")
        test = oracle.of_row(seeds, "test", HYPERLDM, scale)
        expected.append(oracle.shown(test, oracle.concepts(tasks["test"]), RESAMPLES))
        for group in ("paraphrase", "composition"):
            expected.append(f"{test[oracle.members(tasks['test'], 'all', group)].mean():.1f}")
        assert cells == expected


def test_chosen_table(results):
    header, *lines = tables.chosen_table(results)
    assert header[1:3] == ["what varies", "settings tried"]
    assert header[3:] == ["chosen, seed_0", "chosen, seed_1", "chosen, seed_2"]
    assert lines == [
        [TITLES[HYPERCLIP], "steps", "2", "10", "100", "10"],
        [OURS, "guidance scale", "4", "1.5", "15", "1.5"],
        [TITLES[ADAPTED], "inner steps and learning rate", "2", "1, 0.1", "1, 0.1", "1, 0.1"],
    ]


@pytest.mark.parametrize("group", ["all", "paraphrase"])
def test_shot_table(group, results, seeds, tasks):
    table = tables.shot_table(results, group)
    heads = ["zero-shot [95%]", "1 per answer [95%]", "10 per answer [95%]"]
    assert table[0] == ["start", *heads]
    assert [row[0] for row in table[1:]] == [TITLES[start] for start in STARTS]
    inside = oracle.members(tasks["test"], "all", group)
    for start, (_, *cells) in zip(STARTS, table[1:], strict=True):
        for k, cell in zip(("0", "1", "10"), cells, strict=True):
            columns = [oracle.percent(saved["shots"][start][k])[inside] for saved in seeds]
            concepts = oracle.concepts(tasks["test"])[inside]
            assert cell == oracle.shown(np.stack(columns, axis=1), concepts, RESAMPLES)


def test_starts_need_not_have_the_same_shots(results):
    first, second = STARTS
    shots = {**results["shots"], first: {"1": results["shots"][first]["1"]}}
    table = tables.shot_table({**results, "shots": shots}, "all")
    assert table[0][1:] == ["zero-shot [95%]", "1 per answer [95%]", "10 per answer [95%]"]
    assert table[1][1] == "–" == table[1][3] and "–" not in table[2]


def test_seed_table(results, seeds):
    table = tables.seed_table(results)
    assert table[0] == ["method", "seed_0", "seed_1", "seed_2", "mean [95% over seeds]"]
    for title, cells in _lines(table).items():
        means = oracle.of_row(seeds, "test", title).mean(axis=0)
        reach = 4.302652729911275 * means.std(ddof=1) / np.sqrt(3)  # Student's t, 2 degrees
        overall = f"{means.mean():.1f} [{means.mean() - reach:.1f}, {means.mean() + reach:.1f}]"
        assert cells == [*(f"{mean:.1f}" for mean in means), overall]


def test_text_and_markdown_of_a_table():
    table = [["name", "x"], ["kind"], ["a|b", "1.0"], ["other"], ["c", "22.0"]]
    assert tables.as_text(table).splitlines() == [
        "name     x",
        "----------",
        "kind:",
        "a|b    1.0",
        "",
        "other:",
        "c     22.0",
    ]
    assert tables.as_markdown(table).splitlines() == [
        "| name | x |",
        "| --- | ---: |",
        "| **kind** |  |",
        r"| a\|b | 1.0 |",
        "| **other** |  |",
        "| c | 22.0 |",
    ]
