"""Comparing finished runs: the figures against NumPy, and the command."""

import json
import re

import numpy as np
import pytest
import report_oracle as oracle

from hyper_meta.cli.main import main
from hyper_meta.core.errors import UserError
from hyper_meta.eval.compare import compare, comparison_table, read_tested, remarks
from hyper_meta.eval.results import RESULTS_FORMAT

RESAMPLES = 300
ROWS = ("clip", "hnet_multitask", "hnet_hyperldm")
TITLES = {"clip": "CLIP", "hnet_multitask": "HNet, multitask", "hnet_hyperldm": "HNet + HyperLDM"}


def write_run(path, sentences, *, seed, num_seeds=3, rows=ROWS, examples=10):
    """A results.json with what is compared; returns {row: {sentence: accuracies by seed}}."""
    rng = np.random.default_rng(seed)
    accuracy = {
        row: {sentence: rng.uniform(20 + 10 * n, 90, size=num_seeds) for sentence in sentences}
        for n, row in enumerate(rows)
    }
    records = [
        {
            "sentence": sentence,
            "concept": concept(sentence),
            "examples": examples,
            "accuracy": {row: accuracy[row][sentence].tolist() for row in rows},
        }
        for sentence in sentences
    ]
    results = {
        "format": RESULTS_FORMAT,
        "rows": [{"id": row, "title": TITLES.get(row, f"the {row} one")} for row in rows],
        "tasks": {"test": records},
    }
    path.mkdir()
    (path / "results.json").write_text(json.dumps(results))
    return accuracy


def sentences(*numbers):
    return [f"What is thing {number}?" for number in range(*numbers)]


def concept(sentence):
    """Three things after one another ask for one."""
    return f"of things from {int(re.search(r'[0-9]+', sentence)[0]) // 3}"


@pytest.fixture
def two(tmp_path):
    """Runs of 12 and 15 tasks in other orders, 8 of them shared, and of 3 and 2 seeds."""
    a = write_run(tmp_path / "a", sentences(12), seed=0)
    b = write_run(tmp_path / "b", sentences(18, 3, -1), seed=1, num_seeds=2, rows=ROWS[1:])
    return (tmp_path / "a", a), (tmp_path / "b", b)


def _compare(a, b, rows=None, against=None):
    return compare(
        read_tested(a), read_tested(b), rows=rows, against=against, num_resamples=RESAMPLES
    )


def _expected(b, a, shared):
    """Accuracies and difference with its interval, from the definition; b, a: by sentence."""
    ours, theirs = (np.array([run[s].mean() for s in shared]) for run in (b, a))
    gap = ours - theirs
    interval = oracle.interval(gap, [concept(sentence) for sentence in shared], RESAMPLES)
    return [ours.mean(), theirs.mean(), gap.mean(), *interval]


def _figures(difference):
    names = ("our_accuracy", "their_accuracy", "mean", "low", "high")
    return [getattr(difference, name) for name in names]


def test_rows_that_both_have_are_compared_on_the_shared_tasks(two):
    (path_a, a), (path_b, b) = two
    result = _compare(path_a, path_b)
    shared = sentences(11, 3, -1)
    assert (result.shared, result.concepts, result.resized) == (8, 3, 0) and len(shared) == 8
    assert [(d.ours, d.theirs) for d in result.differences] == [(row, row) for row in ROWS[1:]]
    for difference in result.differences:
        expected = _expected(b[difference.ours], a[difference.theirs], shared)
        assert _figures(difference) == pytest.approx(expected)


def test_each_row_against_another_one(two):
    (path_a, a), (path_b, b) = two
    result = _compare(path_a, path_b, against="clip")
    assert [(d.ours, d.theirs) for d in result.differences] == [(row, "clip") for row in ROWS[1:]]
    (one,) = _compare(path_a, path_b, rows=["hnet_hyperldm"], against="clip").differences
    expected = _expected(b["hnet_hyperldm"], a["clip"], sentences(11, 3, -1))
    assert _figures(one) == pytest.approx(expected)
    assert _figures(result.differences[1]) == pytest.approx(expected)


def test_a_run_does_not_differ_from_itself_and_the_sign_is_that_of_b(two):
    (path_a, _), (path_b, _) = two
    same = _compare(path_a, path_a).differences
    assert len(same) == 3 and all(d.mean == d.low == d.high == 0 for d in same)
    there, back = _compare(path_a, path_b).differences, _compare(path_b, path_a).differences
    assert [d.mean for d in there] == pytest.approx([-d.mean for d in back])


def test_table_and_remarks_print_the_figures(two):
    (path_a, a), (path_b, b) = two
    result = _compare(path_a, path_b, rows=["hnet_hyperldm"], against="clip")
    ours, theirs, *gap = _expected(b["hnet_hyperldm"], a["clip"], sentences(11, 3, -1))
    mean, low, high = (f"{value:+.1f}" for value in gap)
    assert comparison_table(result)[1] == [
        "HNet + HyperLDM, minus CLIP",
        f"{theirs:.1f}",
        f"{ours:.1f}",
        f"{mean} [{low}, {high}]",
        "B beats A" if gap[1] > 0 else "B is not distinguishable from A",
    ]
    assert remarks(result) == [
        f"A: {path_a} (3 seeds; 8 of its 12 test tasks are shared)",
        f"B: {path_b} (2 seeds; 8 of its 15 test tasks are shared)",
        "what they share is 8 tasks of 3 concepts",
    ]


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (5, "B beats A"),
        (-5, "B falls short of A"),
        (0, "B is not distinguishable from A"),
    ],
)
def test_verdict(shift, words, tmp_path):
    write_run(tmp_path / "a", sentences(9), seed=0)
    write_run(tmp_path / "b", sentences(9), seed=0)
    saved = json.loads((tmp_path / "b" / "results.json").read_text())
    for record in saved["tasks"]["test"]:
        record["accuracy"]["clip"] = [value + shift for value in record["accuracy"]["clip"]]
    (tmp_path / "b" / "results.json").write_text(json.dumps(saved))
    table = comparison_table(_compare(tmp_path / "a", tmp_path / "b", rows=["clip"]))
    figure = f"{shift:+.1f} [{shift:+.1f}, {shift:+.1f}]"
    assert table[1][3:] == [figure, words]


def test_query_sets_of_another_size_are_told(tmp_path):
    write_run(tmp_path / "a", sentences(6), seed=0, num_seeds=1)
    write_run(tmp_path / "b", sentences(2, 8), seed=1, examples=11)
    lines = remarks(_compare(tmp_path / "a", tmp_path / "b"))
    assert lines[0].endswith("(1 seed; 4 of its 6 test tasks are shared)")
    assert lines[3].startswith("4 shared tasks have query sets of another size")


def test_runs_without_a_shared_task_or_row_are_refused(tmp_path):
    write_run(tmp_path / "a", sentences(6), seed=0)
    write_run(tmp_path / "b", sentences(6, 11), seed=1)
    write_run(tmp_path / "c", sentences(6), seed=1, rows=("other",))
    with pytest.raises(UserError, match=r"share no test task \(6 and 5 sentences\)"):
        _compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="share no row: name one of each with --rows and"):
        _compare(tmp_path / "a", tmp_path / "c")
    (difference,) = _compare(tmp_path / "a", tmp_path / "c", against="clip").differences
    assert (difference.ours, difference.theirs) == ("other", "clip")


def test_a_row_may_be_named_by_its_title(two):
    (path_a, _), (path_b, _) = two
    by_id = _compare(path_a, path_b, rows=["hnet_hyperldm"], against="clip")
    by_title = _compare(path_a, path_b, rows=["HNet + HyperLDM"], against="CLIP")
    assert by_title.differences == by_id.differences


def test_unknown_rows_are_named_with_the_known(two):
    (path_a, _), (path_b, _) = two
    known = "hnet_multitask; hnet_hyperldm"
    with pytest.raises(UserError, match=f"'clip' is no row of both .*which are: {known}$"):
        _compare(path_a, path_b, rows=["clip"])
    with pytest.raises(UserError, match=f"'clip' is no row of .*b, which are: {known}$"):
        _compare(path_a, path_b, rows=["clip"], against="clip")
    with pytest.raises(UserError, match=f"'MAML' is no row of .*a, which are: clip; {known}$"):
        _compare(path_a, path_b, against="MAML")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda saved: saved.pop("format"), "is of another version of hyper-meta: remove it and"),
        (lambda saved: saved["rows"].pop(), "does not hold what it should"),
        (lambda saved: saved.pop("rows"), "does not hold what it should"),
        (lambda saved: saved.pop("tasks"), "does not hold what it should"),
        (lambda saved: saved["tasks"]["test"].clear(), "does not hold what it should"),
        (lambda saved: saved["tasks"].update(test=3), "does not hold what it should"),
        (lambda saved: saved["tasks"]["test"][1].pop("sentence"), "does not hold what it should"),
        (lambda saved: saved["tasks"]["test"][1].pop("concept"), "does not hold what it should"),
        (lambda saved: saved["tasks"]["test"][1]["accuracy"].pop("clip"), "not hold what it"),
        (lambda saved: saved["tasks"]["test"][1]["accuracy"]["clip"].pop(), "not hold what it"),
        (
            lambda saved: [task["accuracy"]["clip"].pop() for task in saved["tasks"]["test"]],
            "one accuracy a task, row and seed",
        ),
        (
            lambda saved: saved["tasks"]["test"][0]["accuracy"].update(clip=[1, 2, float("nan")]),
            "one accuracy a task, row and seed",
        ),
        (
            lambda saved: [task["accuracy"].clear() for task in saved["tasks"]["test"]],
            "one accuracy a task, row and seed",
        ),
        (
            lambda saved: saved["tasks"]["test"].append(saved["tasks"]["test"][0]),
            "two test tasks of one sentence",
        ),
    ],
)
def test_damaged_results_are_refused(damage, message, tmp_path):
    write_run(tmp_path / "a", sentences(6), seed=0)
    path = tmp_path / "a" / "results.json"
    saved = json.loads(path.read_text())
    damage(saved)
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=message):
        read_tested(tmp_path / "a")


def test_results_that_are_missing_or_no_json_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no results.json: give the --workdir of a run"):
        read_tested(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_tested(tmp_path)


def test_the_command_prints_what_is_compared(two, capsys):
    (path_a, _), (path_b, _) = two
    command = ["compare", str(path_a), str(path_b), "--rows", ROWS[2], ROWS[1]]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"A: {path_a}") and lines[1].startswith(f"B: {path_b}")
    assert lines[4].split() == "row of B, minus row of A A B B minus A [95%] verdict".split()
    assert lines[6].startswith(f"{TITLES[ROWS[2]]}  ")
    assert lines[7].startswith(f"{TITLES[ROWS[1]]}  ")
    assert len(lines) == 8
    assert main([*command[:3], "--against", "clip"]) == 0
    assert f"{TITLES[ROWS[1]]}, minus CLIP" in capsys.readouterr().out


def test_mistakes_are_one_line(two, tmp_path, capsys):
    (path_a, _), _ = two
    assert main(["compare", str(path_a), str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hyper-meta: ") and error.count("\n") == 1
    assert "hyper-meta report --workdir" in error
    for arguments in (["compare", str(path_a)], ["compare", str(path_a), str(path_a), "--row=x"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "hyper-meta compare --help" in capsys.readouterr().err


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out and "--rows hnet_language --against conditional" in out
