import contextlib
import io
import json

import numpy as np
import pytest
from scipy import stats

from hyper_meta.eval import metrics
from hyper_meta.eval.report import choose_scenes, headline, write_report
from hyper_meta.eval.results import compute_results, partition, read_run
from hyper_meta.eval.tables import main_table
from hyper_meta.types import UserError

PICTURES = ("accuracy_by_scale.png", "training_curves.png", "latents.png", "examples.png")
SHOWN = [
    metrics.MAJORITY,
    metrics.CLIP,
    metrics.UNADAPTED,
    metrics.MEAN_LATENT,
    metrics.NEAREST,
    metrics.CONDITIONAL,
    "HyperLDM, scale 0",
    "HyperLDM, scale 1",
    "HyperLDM, scale 1.5",
    "HyperLDM, scale 4",
    metrics.CHOSEN,
    metrics.one_sample(metrics.CHOSEN),
    metrics.ADAPTED,
]


def _refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_workdir, tasks, images):
    """The work directory of three seeds, its folders and report, and what was printed."""
    workdir = tmp_path_factory.mktemp("three_seeds")
    folders = make_workdir(workdir)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        path = write_report(workdir, folders, tasks, images=images, num_resamples=200)
    return workdir, folders, path, printed.getvalue()


@pytest.fixture(scope="module")
def results(written):
    text = (written[0] / "results.json").read_text()
    return json.loads(text, parse_constant=_refuse_constant)


def _results_of(folders, tasks):
    runs = [read_run(folder, tasks) for folder in folders]
    return compute_results(runs, tasks, {}, num_resamples=200)


def test_everything_is_written_and_linked(written):
    workdir, _, path, _ = written
    text = path.read_text()
    for name in PICTURES:
        assert f"({name})" in text
        assert (path.parent / name).read_bytes().startswith(b"\x89PNG")
    for line in ("parameters of hyperldm", "1.5 (seed_0), 4 (seed_1), 1.5 (seed_2)", "beats"):
        assert line in text
    assert {file.name for file in path.parent.iterdir()} == {*PICTURES, "report.md"}
    assert not list(workdir.rglob("*.partial*"))


def test_table_is_printed_and_then_where_the_report_is(written):
    _, _, path, printed = written
    lines = printed.partition("-" * 80)[2].splitlines()[1:]
    for name, line in zip(SHOWN, lines, strict=False):
        assert line.startswith(name)
    assert lines[len(SHOWN) :] == ["", f"report: {path}"]


def test_report_is_the_same_when_written_again(written, tasks, images):
    workdir, folders, path, _ = written
    files = [workdir / "results.json", *sorted(path.parent.iterdir())]
    before = [file.read_bytes() for file in files]
    write_report(workdir, folders, tasks, images=images, num_resamples=200)
    assert [file.read_bytes() for file in files] == before


def test_rows_are_in_order(results):
    assert [row[0] for row in main_table(results, "test")[1:]] == SHOWN


def test_figures_follow_from_the_accuracies_of_tasks(results):
    for split in ("validation", "test"):
        records = results["tasks"][split]
        for method, families in results["summaries"][split].items():
            for family, groups in families.items():
                for group, figures in groups.items():
                    inside = [
                        record
                        for record in records
                        if family in ("all", record["family"]) and group in ("all", record["group"])
                    ]
                    accuracy = np.array([record["accuracy"][method] for record in inside])
                    size = np.array([record["examples"] for record in inside])
                    assert figures["tasks"] == len(inside)
                    assert figures["examples"] == size.sum()
                    assert figures["mean"] == pytest.approx(accuracy.mean())
                    assert figures["pooled"] == pytest.approx(
                        (accuracy.mean(axis=1) * size).sum() / size.sum()
                    )
                    assert figures["seeds"]["values"] == pytest.approx(accuracy.mean(axis=0))
                    assert figures["low"] <= figures["mean"] <= figures["high"]


def test_differences_follow_from_the_accuracies_of_tasks(results):
    differences = results["differences"]["test"]
    assert list(differences[metrics.CHOSEN]) == [
        metrics.CLIP,
        metrics.UNADAPTED,
        metrics.MEAN_LATENT,
        metrics.NEAREST,
        metrics.CONDITIONAL,
        metrics.ADAPTED,
        "HyperLDM, scale 0",
        "HyperLDM, scale 1",
    ]
    assert set(differences) == set(results["summaries"]["test"]) - {metrics.UNADAPTED}
    summaries = results["summaries"]["test"]
    for method, baselines in differences.items():
        for baseline, families in baselines.items():
            for family, groups in families.items():
                for group, figures in groups.items():
                    ours, theirs = (summaries[n][family][group] for n in (method, baseline))
                    assert figures["mean"] == pytest.approx(ours["mean"] - theirs["mean"])
                    assert ("verdict" in figures) == (family == "all")


def test_chosen_rows_are_those_of_the_scale_that_each_seed_chose(results):
    scales = results["chosen_scale"].values()
    assert list(scales) == [1.5, 4.0, 1.5]
    for record in results["tasks"]["test"]:
        accuracy = record["accuracy"]
        for number, scale in enumerate(scales):
            name = metrics.scale_name(scale)
            assert accuracy[metrics.CHOSEN][number] == accuracy[name][number]
            single = accuracy[metrics.one_sample(metrics.CHOSEN)][number]
            assert single == accuracy[metrics.one_sample(name)][number]


def test_interval_over_seeds(results, tmp_path, make_workdir, tasks):
    seeds = results["summaries"]["test"][metrics.CHOSEN]["all"]["paraphrase"]["seeds"]
    reference = stats.ttest_1samp(seeds["values"], 0).confidence_interval(0.95)
    assert (seeds["low"], seeds["high"]) == pytest.approx(tuple(reference))
    alone = _results_of(make_workdir(tmp_path, scales=(1.5,)), tasks)
    seeds = alone["summaries"]["test"][metrics.CHOSEN]["all"]["all"]["seeds"]
    assert list(seeds) == ["values", "mean"]


def test_config_and_parameters_are_recorded(results):
    assert results["config"] == {"dataset": "toy", "hyperldm.num_steps": 3}
    assert results["evaluated"]["seed_1"]["hyperldm"] == "parameters of hyperldm"


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (0.0, "beats CLIP as base model"),
        (1.0, "falls short of CLIP as base model"),
    ],
)
def test_headline_says_what_the_figures_say(clip, words, tmp_path, make_workdir, tasks):
    chance = {
        **dict.fromkeys(metrics.UNGUIDED, 0.5),
        "HyperLDM, scale 1": 0.5,
        "HyperLDM, scale 1, one sample": 0.5,
        metrics.CLIP: clip,
    }
    folders = make_workdir(tmp_path, scales=(1.0, 1.0), chance=chance)
    text = headline(_results_of(folders, tasks))
    assert text.count(words) == 2 == text.count("the latent of the nearest training sentence (")
    assert "paraphrase tasks" in text and "composition tasks" in text


def test_partition_covers_every_task_once(tasks):
    parts = partition(tasks["test"])
    everything = parts["all", "all"]
    assert everything.all()
    groups = [rows for (family, group), rows in parts.items() if family == "all" != group]
    families = [rows for (family, group), rows in parts.items() if group == "all" != family]
    cells = [rows for (family, group), rows in parts.items() if "all" not in (family, group)]
    for cover in (groups, families, cells):
        np.testing.assert_array_equal(np.sum(cover, axis=0), 1)
    assert [group for family, group in parts if family == "all"] == [
        "all",
        "paraphrase",
        "composition",
    ]


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


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("scores.json", "evaluate"),
        ("shown.npz", "evaluate"),
        ("curves/conditional.json", "conditional"),
    ],
)
def test_missing_file_names_the_stage_to_run(file, stage, tmp_path, make_workdir, tasks, images):
    folders = make_workdir(tmp_path, scales=(1.0,))
    (folders[0] / file).unlink()
    with pytest.raises(UserError, match=f"run the stage {stage}"):
        write_report(tmp_path, folders, tasks, images=images, num_resamples=50)
    assert not (tmp_path / "report").exists() and not (tmp_path / "results.json").exists()


def test_scores_of_other_tasks_are_refused(tmp_path, make_workdir, tasks):
    (folder,) = make_workdir(tmp_path, scales=(1.0,))
    with pytest.raises(UserError, match="of other tasks"):
        read_run(folder, {**tasks, "test": tasks["test"][1:]})
    with pytest.raises(UserError, match="30 train tasks, the data set holds 29"):
        read_run(folder, {**tasks, "train": tasks["train"][1:]})


def test_scores_without_a_method_are_refused(tmp_path, make_workdir, tasks):
    (folder,) = make_workdir(tmp_path, scales=(1.0,))
    saved = json.loads((folder / "scores.json").read_text())
    del saved["splits"]["test"][metrics.NEAREST]
    (folder / "scores.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=f"no scores of {metrics.NEAREST}: remove"):
        read_run(folder, tasks)


def test_damaged_files_are_refused(tmp_path, make_workdir, tasks):
    (folder,) = make_workdir(tmp_path, scales=(1.0,))
    shown = folder / "shown.npz"
    shown.write_bytes(shown.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        read_run(folder, tasks)
    (folder / "scores.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_run(folder, tasks)


def test_missing_image_is_named(tasks):
    with pytest.raises(UserError, match="no image 'test/q"):
        choose_scenes(tasks["test"], np.zeros((20, 4), int), lambda ids: {})
