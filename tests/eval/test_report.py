import contextlib
import io
import json

import numpy as np
import pytest
import report_oracle as oracle
from toy_scores import ADAPTED, CONDITIONAL_MAML, HYPERLDM, ROWS, SCALES, STARTS, TITLES

from hyper_meta.core.errors import UserError
from hyper_meta.eval.compare import read_tested
from hyper_meta.eval.report import choose_scenes, scale_panels, shot_panels, write_report
from hyper_meta.eval.rows import CLIP, MULTITASK, NEAREST

RESAMPLES = 200
PICTURES = {
    "accuracy_by_scale.png",
    "accuracy_by_shots.png",
    "training_curves.png",
    "latents.png",
    "examples.png",
    "expected_accuracy.png",
}


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_workdir, tasks, images):
    """The work directory of three seeds, its folders and report, and what was printed."""
    workdir = tmp_path_factory.mktemp("three_seeds")
    folders = make_workdir(workdir)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        path = write_report(workdir, folders, tasks, images=images, num_resamples=RESAMPLES)
    return workdir, folders, path, printed.getvalue()


@pytest.fixture(scope="module")
def results(written):
    text = (written[0] / "results.json").read_text()
    return json.loads(text, parse_constant=_refuse_constant)


def test_everything_is_written_and_linked(written):
    workdir, _, path, _ = written
    text = path.read_text()
    for name in PICTURES:
        assert text.count(f"({name})") == 1
        assert (path.parent / name).read_bytes().startswith(b"\x89PNG")
    for line in ("parameters of hyperldm", "| 1.5 | 15 | 1.5 |", "beats"):
        assert line in text
    assert {file.name for file in path.parent.iterdir()} == {*PICTURES, "report.md"}
    assert not list(workdir.rglob("*.partial*"))


def test_headline_and_table_are_printed_and_then_where_the_report_is(written, tasks):
    _, folders, path, printed = written
    assert printed.startswith(f"From the sentence alone, {TITLES[HYPERLDM]}")
    lines = printed.partition("-" * 80)[2].splitlines()[1:]
    seeds = oracle.read(folders)
    for row, *_ in ROWS:
        (line,) = (line for line in lines if line.startswith(f"{TITLES[row]}  "))
        accuracy = oracle.of_row(seeds, "test", row)
        assert oracle.shown(accuracy, oracle.concepts(tasks["test"]), RESAMPLES) in line
    assert lines[-2:] == ["", f"report: {path}"]


def test_report_is_the_same_when_written_again(written, tasks, images):
    workdir, folders, path, _ = written
    files = [workdir / "results.json", *sorted(path.parent.iterdir())]
    before = [file.read_bytes() for file in files]
    write_report(workdir, folders, tasks, images=images, num_resamples=RESAMPLES)
    assert [file.read_bytes() for file in files] == before


def test_config_is_recorded(results):
    assert results["config"] == {"dataset": "toy", "hyperldm.num_steps": 3}


def test_compare_reads_what_was_written(written):
    workdir, folders, _, _ = written
    tested = read_tested(workdir)
    assert tested.num_seeds == 3 and tested.titles == TITLES
    seeds = oracle.read(folders)
    for title, *_ in ROWS:
        expected = oracle.of_row(seeds, "test", title).mean(axis=1)
        np.testing.assert_allclose(tested.accuracy[title], expected)


@pytest.mark.parametrize(
    "missing", ["images", "shown", "latents", "curves", "shots", "curve rows", "trust"]
)
def test_pictures_of_what_is_missing_are_left_out(missing, tmp_path, make_workdir, tasks, images):
    rows = [row for row in ROWS if missing != "curve rows" or row[0] != HYPERLDM]
    folders = make_workdir(tmp_path, scales=("1.5",), rows=rows)
    path = folders[0] / "scores.json"
    if missing == "shown":
        (folders[0] / "shown.npz").unlink()
    elif missing == "latents":
        np.savez(folders[0] / "shown.npz", answers=np.zeros((20, 4), int))
    elif missing == "curves":
        (folders[0] / "curves").rename(tmp_path / "elsewhere")
    elif missing == "shots":
        path.write_text(json.dumps({**json.loads(path.read_text()), "shots": {}}))
    elif missing == "trust":
        (folders[0] / "trust.json").unlink()
    images = None if missing == "images" else images
    report = write_report(tmp_path, folders, tasks, images=images, num_resamples=20)
    absent = {
        "images": {"examples.png"},
        "shown": {"examples.png", "latents.png"},
        "latents": {"latents.png"},
        "curves": {"training_curves.png"},
        "shots": {"accuracy_by_shots.png"},
        "curve rows": {"accuracy_by_scale.png", "expected_accuracy.png"},
        "trust": {"expected_accuracy.png"},
    }[missing]
    assert {file.name for file in report.parent.glob("*.png")} == PICTURES - absent
    for name in PICTURES:
        assert (name in report.read_text()) == (name not in absent)


def test_nothing_is_written_without_scores(tmp_path, make_workdir, tasks, images):
    folders = make_workdir(tmp_path, scales=("1",))
    (folders[0] / "scores.json").unlink()
    with pytest.raises(UserError, match="run the stage evaluate"):
        write_report(tmp_path, folders, tasks, images=images, num_resamples=50)
    assert not (tmp_path / "report").exists() and not (tmp_path / "results.json").exists()


def test_panels_of_scales_hold_the_figures(results, written, tasks):
    seeds = oracle.read(written[1])
    panels = scale_panels(results)
    places = [("validation", "all"), *(("test", g) for g in ("all", "paraphrase", "composition"))]
    assert len(panels) == len(places)
    lines = (MULTITASK, NEAREST, CLIP, CONDITIONAL_MAML, ADAPTED)
    for panel, (split, group) in zip(panels, places, strict=True):
        place = f"{split} tasks" if group == "all" else f"{split} tasks: {group}"
        assert panel.title == f"{TITLES[HYPERLDM]}\n{place}" and panel.varies == "guidance scale"
        assert panel.settings == SCALES and panel.chosen == ("1.5", "15", "1.5")
        inside = oracle.members(tasks[split], "all", group)
        concepts = oracle.concepts(tasks[split])[inside]
        by_scale = [oracle.of_row(seeds, split, HYPERLDM, scale)[inside] for scale in SCALES]
        curve = [oracle.bounds(by_seed, concepts, RESAMPLES) for by_seed in by_scale]
        np.testing.assert_allclose(panel.curve, curve)
        assert panel.lines == pytest.approx(
            {TITLES[row]: oracle.of_row(seeds, split, row)[inside].mean() for row in lines}
        )


def test_panels_of_shots_hold_the_figures(results, written, tasks):
    seeds = oracle.read(written[1])
    panels = shot_panels(results)
    groups = ("all", "paraphrase", "composition")
    assert len(panels) == len(groups)
    for panel, group in zip(panels, groups, strict=True):
        assert panel.shots == ("0", "1", "10")
        assert list(panel.curves) == [TITLES[start] for start in STARTS]
        inside = oracle.members(tasks["test"], "all", group)
        for start, curve in zip(STARTS, panel.curves.values(), strict=True):
            for k, bounds in zip(panel.shots, curve, strict=True):
                columns = [oracle.percent(saved["shots"][start][k]) for saved in seeds]
                by_seed = np.stack(columns, axis=1)[inside]
                concepts = oracle.concepts(tasks["test"])[inside]
                np.testing.assert_allclose(bounds, oracle.bounds(by_seed, concepts, RESAMPLES))


def test_shots_that_were_not_measured_are_gaps(results):
    first, second = STARTS
    shots = {**results["shots"], first: {"1": results["shots"][first]["1"]}}
    curves = shot_panels({**results, "shots": shots})[0].curves
    np.testing.assert_array_equal(np.isnan(curves[TITLES[first]]).all(axis=1), [True, False, True])
    assert np.isfinite(curves[TITLES[second]]).all()


def test_scenes_are_chosen_without_looking_at_answers(tasks, images):
    answers = np.zeros((20, 4), int)
    scenes = choose_scenes(tasks["test"], answers, images)
    others = choose_scenes(tasks["test"], answers + 2, images)
    assert [scene.question for scene in scenes] == [scene.question for scene in others]
    assert {scene.group for scene in scenes} == {"paraphrase", "composition"}
    assert {scene.answer for scene in scenes} == {"red"}
    assert {scene.answer for scene in others} == {"blue"}
    asked = {task.sentence: task for task in tasks["test"]}
    for number, scene in enumerate(scenes):
        image, label = asked[scene.question].query[number % 4]
        np.testing.assert_array_equal(scene.image, images({image})[image])
        assert scene.right == asked[scene.question].answers[label]


def test_tasks_of_one_group_have_scenes_too(plain_tasks, images):
    scenes = choose_scenes(plain_tasks["test"], np.zeros((20, 4), int), images)
    assert len(scenes) == 4  # one of each family


def test_missing_image_is_named(tasks):
    with pytest.raises(UserError, match="no image 'test/q"):
        choose_scenes(tasks["test"], np.zeros((20, 4), int), lambda ids: {})
