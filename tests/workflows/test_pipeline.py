"""The quickstart itself, run small: every stage through the real command, to the report."""

import json
import shutil

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from killed import IN_EVERY_STAGE, assert_same_bits, kill_points, run_and_kill
from ml_collections import ConfigDict
from PIL import Image

from hyper_meta.cli.main import main
from hyper_meta.workflows import run as pipeline


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


@pytest.fixture
def cached_in(programs):
    """folder -> compiles a program with config.compilation_cache set to that folder."""

    def compile_one(folder):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        pipeline.use_compilation_cache(ConfigDict({"compilation_cache": str(folder)}))
        compilation_cache.reset_cache()
        jax.jit(lambda x: x + 1.5)(1.0)

    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    yield compile_one
    jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    compilation_cache.reset_cache()


@pytest.mark.filterwarnings("error")
def test_compiled_programs_are_kept_where_the_config_says(tmp_path, cached_in):
    cached_in(tmp_path / "new")
    assert list((tmp_path / "new").glob("*-cache"))


@pytest.mark.filterwarnings("error")
def test_what_a_killed_process_kept_of_a_program_is_in_nobodys_way(tmp_path, cached_in):
    half = tmp_path / "jit_killed-cache"
    half.write_bytes(b"half")
    cached_in(tmp_path)
    kept = list(tmp_path.glob("*-cache"))
    assert kept and half not in kept
    cached_in(tmp_path)
    assert list(tmp_path.glob("*-cache")) == kept


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


def test_killed_at_any_time_it_ends_with_the_same_bits(
    finished_quickstart, tmp_path, quickstart_command
):
    """In a stage, after latents and in evaluation; tests/kills.py kills more often."""
    workdir, command = tmp_path / "killed", quickstart_command(tmp_path / "killed")
    points = kill_points(workdir, np.random.default_rng(0), marks=IN_EVERY_STAGE[1::3])
    assert len(points) == 3
    ended, errors = run_and_kill(points, command)
    assert ended == ["killed"] * len(points), errors
    assert main(command) == 0
    assert_same_bits(workdir, finished_quickstart)
    shutil.rmtree(workdir)


def test_one_method_is_trained_with_what_it_needs(quickstart_command, tmp_path):
    """And with nothing that is evaluated or reported."""
    _, *arguments = quickstart_command(tmp_path / "one")
    assert main(["train", *arguments, "--method", "language"]) == 0
    left = {path.name for path in (tmp_path / "one" / "seed_0").iterdir()}
    assert left == {"hnet_language", "language_latents", "curves", "reads"}
