import numpy as np
import pytest
import report_oracle as oracle
from toy_scores import CONDITIONAL, CONDITIONAL_MAML, HYPERCLIP, HYPERLDM, ROWS, TITLES

from hyper_meta.eval.markdown import compose, headline, memory
from hyper_meta.eval.results import compute_results
from hyper_meta.eval.rows import CLIP, MULTITASK, NEAREST
from hyper_meta.eval.seeds import read_seeds

RESAMPLES = 200
REMEMBERS = (
    "does not beat the nearest training sentence: on these tasks it does no more than remember."
)


def _results(folders, tasks):
    return compute_results(read_seeds(folders, tasks), tasks, {}, num_resamples=RESAMPLES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_workdir):
    return make_workdir(tmp_path_factory.mktemp("three_seeds"))


@pytest.fixture(scope="module")
def results(folders, tasks):
    return _results(folders, tasks)


def test_headline_has_the_figures_of_every_group(results, folders, tasks):
    seeds, text = oracle.read(folders), headline(results)
    assert text.startswith(
        f"From the sentence alone, {TITLES[HYPERLDM]} (the best such method on valid"
    )
    ours = oracle.of_row(seeds, "test", HYPERLDM)
    for group in ("paraphrase", "composition"):
        inside = oracle.members(tasks["test"], "all", group)
        concepts = oracle.concepts(tasks["test"])[inside]
        share = oracle.shown(ours[inside], concepts, RESAMPLES).replace(" ", "% ", 1)
        before, after = text.split(f" it is right in {share}")
        assert f"on {inside.sum()} {group} tasks of {len({*concepts})} concepts" in before
        for baseline in (MULTITASK, NEAREST, CLIP, CONDITIONAL_MAML):
            gap = (ours - oracle.of_row(seeds, "test", baseline))[inside]
            assert f"({oracle.shown(gap, concepts, RESAMPLES, '+')} points)" in after


def test_headline_without_groups_is_of_all_test_tasks(folders, plain_tasks):
    text = headline(_results(folders, plain_tasks))
    assert "on 20 test tasks of 8 concepts it is right in" in text


def test_headline_without_language(tmp_path, make_workdir, tasks):
    rows = tuple(row for row in ROWS if row[1] != "language")
    text = headline(_results(make_workdir(tmp_path, rows=rows), tasks))
    assert text == "No method here answers from the sentence alone."


@pytest.mark.parametrize(
    ("clip", "words"),
    [(0.0, "beats CLIP as base model"), (1.0, "falls short of CLIP as base model")],
)
def test_headline_says_what_the_figures_say(clip, words, tmp_path, make_workdir, tasks):
    rows = tuple((*row[:3], dict.fromkeys(row[3], clip if row[0] == CLIP else 0.5)) for row in ROWS)
    text = headline(_results(make_workdir(tmp_path, rows=rows), tasks))
    assert text.count(words) == 2 == text.count("the latent of the nearest training sentence (")


def test_memory_is_told_of_every_language_row_that_does_not_beat_it(results, folders, tasks):
    seeds, expected = oracle.read(folders), []
    nearest = oracle.of_row(seeds, "test", NEAREST)
    for row in (CONDITIONAL, CONDITIONAL_MAML, HYPERCLIP, HYPERLDM):
        for group in ("all", "paraphrase", "composition"):
            inside = oracle.members(tasks["test"], "all", group)
            gap = (oracle.of_row(seeds, "test", row) - nearest)[inside]
            concepts = oracle.concepts(tasks["test"])[inside]
            if oracle.bounds(gap, concepts, RESAMPLES)[1] <= 0:
                points = f"({oracle.shown(gap, concepts, RESAMPLES, '+')} points)"
                expected.append(f"{TITLES[row]} on {group} tasks {points} {REMEMBERS}")
    assert memory(results) == expected
    # The made-up chances are such that both kinds are there.
    assert any(TITLES[HYPERCLIP] in sentence for sentence in expected)
    assert not any(TITLES[HYPERLDM] in sentence for sentence in expected)


def test_an_interval_that_touches_zero_is_memory(results):
    gaps = {"all": {"all": {"mean": 1.0, "low": 0.0, "high": 2.0}}}
    tied = {
        **results,
        "summaries": {"test": {HYPERLDM: {"all": {"all": {}}}}},
        "rows": [{"id": HYPERLDM, "title": "ours", "kind": "language"}],
        "differences": {"test": {HYPERLDM: {NEAREST: gaps}}},
    }
    assert memory(tied) == [f"ours (+1.0 [+0.0, +2.0] points) {REMEMBERS}"]


def test_report_has_only_the_sections_that_there_is_something_for(
    results, tmp_path, make_workdir, plain_tasks
):
    full = compose(results, [], ["accuracy_by_scale.png", "latents.png"])
    titles = ("Guided or remembered", "New networks or", "By question family", "Settings")
    for title in (*titles, "From zero-shot"):
        assert f"\n## {title}" in full
    assert "\n## Examples" not in full and "### Paraphrase" in full
    rows = ((CLIP, "reference", None, {"": 0.5}),)
    (folder,) = make_workdir(tmp_path, rows=rows, scales=("1",))
    (folder / "curves").rename(tmp_path / "elsewhere")
    results = _results([folder], plain_tasks)
    results["shots"] = {}
    bare = compose(results, [], [])
    titles = [line for line in bare.splitlines() if line.startswith("#")]
    assert titles == [
        "# From a sentence to weights: results",
        "## Test tasks",
        "## Differences on test tasks",
        "## Validation tasks",
        "## Seeds",
    ]
    assert ".png" not in bare and "1 seed (seed_0)" in bare


def test_that_all_beat_memory_is_said(tmp_path, make_workdir, tasks):
    rows = tuple(
        (*row[:3], dict.fromkeys(row[3], 0.9 if row[1] == "language" else 0.1)) for row in ROWS
    )
    results = _results(make_workdir(tmp_path, rows=rows), tasks)
    assert memory(results) == []
    text = compose(results, [], [])
    assert "Every method that answers from the sentence beats the nearest training" in text
    assert np.all(["no more than remember" not in line for line in text.split("## ")[2:]])


def test_what_validation_tasks_chose_for_the_latents_is_said(results):
    assert "* seed_0, hnet_latents: learning rate 10 of 1, 10" in compose(results, [], [])
