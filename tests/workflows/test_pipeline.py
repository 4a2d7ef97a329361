"""The quickstart itself, run small: every stage through the real command, to the report."""

import json
import shutil

import numpy as np
from killed import assert_same_file, kill_points, run_and_kill
from PIL import Image

from hyper_meta.cli.main import main


def test_the_quickstart_ends_in_a_report(finished_quickstart):
    results = json.loads((finished_quickstart / "results.json").read_text())
    report = (finished_quickstart / "report" / "report.md").read_text()
    rows = results["summaries"]["test"]
    titles = {row["id"]: row["title"] for row in results["rows"]}
    for method in ("clip", "conditional", "generators", "language_hyperldm_tokens"):
        assert titles[method] in report
        for group in ("all", "paraphrase", "composition"):
            figures = rows[method]["all"][group]
            assert 0 <= figures["low"] <= figures["mean"] <= figures["high"] <= 100
    drawn = {path.stem for path in (finished_quickstart / "report").glob("*.png")}
    expected = {"accuracy_by_scale", "accuracy_by_shots", "training_curves", "examples"}
    expected |= {"expected_accuracy"}
    with np.load(finished_quickstart / "seed_0" / "shown.npz") as shown:
        expected |= {"latents"} & set(shown.files)  # where the best guide samples latents
    assert drawn == expected


def test_the_encoder_leaves_room(finished_quickstart):
    """CLIP alone knows something and not everything: between 30% and 60% on test tasks."""
    results = json.loads((finished_quickstart / "results.json").read_text())
    figures = results["summaries"]["test"]["clip"]["all"]["all"]
    assert 30 < figures["mean"] < 60


def test_a_finished_run_is_only_restored(finished_quickstart, quickstart_command, capsys):
    before = (finished_quickstart / "results.json").read_bytes()
    assert main(quickstart_command(finished_quickstart)) == 0
    assert (finished_quickstart / "results.json").read_bytes() == before
    assert "report" in capsys.readouterr().out


def test_no_folder_for_compiled_programs_is_refused_before_anything_is_written(
    tmp_path, quickstart_command, capsys
):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "programs"
    command = quickstart_command(tmp_path / "run")
    assert main([*command, f"--config.compilation_cache={folder}"]) == 2
    assert str(folder) in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_sentence_becomes_weights_that_answer(finished_quickstart, tmp_path, capsys):
    out, scene = tmp_path / "seven.safetensors", tmp_path / "scene.png"
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(scene)
    asked = ["--workdir", str(finished_quickstart), "--task", "Which colour does the seven have?"]
    asked += ["--method", "language_hyperldm_tokens", "--samples", "3"]
    assert main(["generate", *asked, "--out", str(out)]) == 0
    assert main(["predict", "--weights", str(out), "--answers", "red,green", str(scene)]) == 0
    printed = capsys.readouterr().out
    assert "of 3 samples agree" in printed and 'read as "the colour is {}"' in printed


def test_what_is_missing_beside_the_scores_is_made_again(
    finished_quickstart, tmp_path, quickstart_command, monkeypatch
):
    """By evaluate, and nothing is scored again."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished_quickstart, workdir)
    seed = workdir / "seed_0"
    index = json.loads((seed / "guides.json").read_text())
    shutil.rmtree(seed / "guides" / index["best"])
    for name in ("guides.json", "shown.npz", "trust.json"):
        (seed / name).unlink()
    monkeypatch.setattr("hyper_meta.workflows.evaluate.score_row", None)
    assert main(["evaluate", *quickstart_command(workdir)[1:]]) == 0
    notes = f"guides/{index['best']}/notes.json"
    for name in ("guides.json", "scores.json", "shown.npz", "trust.json", notes):
        assert (seed / name).read_bytes() == (finished_quickstart / "seed_0" / name).read_bytes()
    shutil.rmtree(workdir)


def test_killed_at_any_time_it_ends_with_the_same_bits(
    finished_quickstart, tmp_path, quickstart_command
):
    """Of one guide: in a stage, in the next, and in evaluation; against the quickstart, where it is
    one of several. tests/kills.py kills the whole, more often."""
    workdir, seed = tmp_path / "killed", tmp_path / "killed" / "seed_0"
    _, *arguments = quickstart_command(workdir)
    arguments.append("--config.methods=language_hyperldm_tokens")

    def kill(*marks):
        points = kill_points(workdir, np.random.default_rng(0), marks=marks)
        ended, errors = run_and_kill(points, ["evaluate", *arguments])
        assert ended == ["killed"] * len(marks), errors

    kill("seed_0/hnet_language/00000001")
    # One method is trained with what it needs, and nothing is evaluated.
    assert main(["train", *arguments, "--method", "language"]) == 0
    left = {path.name for path in seed.iterdir()}
    assert left == {"hnet_language", "language_latents", "curves", "reads"}
    kill("seed_0/language_hyperldm_tokens/00000001", "seed_0/rows/2.json")
    assert main(["evaluate", *arguments]) == 0
    for stage in ("hnet_language", "language_hyperldm_tokens"):
        assert_same_file(seed, finished_quickstart / "seed_0", f"curves/{stage}.json")
    ours, whole = (
        json.loads((run / "seed_0" / "scores.json").read_text())
        for run in (workdir, finished_quickstart)
    )
    assert len(ours["rows"]) >= 6
    for split in ("validation", "test"):
        for row, scores in ours[split].items():
            assert scores == whole[split][row], row
    shutil.rmtree(workdir)
