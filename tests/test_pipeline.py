"""The quickstart itself, run small: every stage through the real command, to the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from hyper_meta.cli import main

STAGES = ("hnet_multitask", "hnet_maml", "conditional", "hnet_hyperclip", "hnet_hyperldm")


def test_the_quickstart_ends_in_a_report(finished_quickstart):
    results = json.loads((finished_quickstart / "results.json").read_text())
    report = (finished_quickstart / "report" / "report.md").read_text()
    rows = results["summaries"]["test"]
    for method in ("CLIP as base model", "conditional hypernetwork", "HNet + HyperLDM"):
        assert method in report
        for group in ("all", "paraphrase", "composition"):
            figures = rows[method]["all"][group]
            assert 0 <= figures["low"] <= figures["mean"] <= figures["high"] <= 100
    assert len(list((finished_quickstart / "report").glob("*.png"))) == 5


def test_the_encoder_leaves_room(finished_quickstart):
    """CLIP alone knows something and not everything: between 30% and 60% on test tasks."""
    results = json.loads((finished_quickstart / "results.json").read_text())
    figures = results["summaries"]["test"]["CLIP as base model"]["all"]["all"]
    assert 30 < figures["mean"] < 60


def test_a_finished_run_is_only_restored(finished_quickstart, quickstart_command, capsys):
    before = (finished_quickstart / "results.json").read_bytes()
    assert main(quickstart_command(finished_quickstart)) == 0
    assert (finished_quickstart / "results.json").read_bytes() == before
    assert "report" in capsys.readouterr().out


def test_compiled_programs_are_kept_where_the_config_says(finished_quickstart, run_folder):
    assert any((run_folder / "programs").iterdir())


def test_a_sentence_becomes_weights_that_answer(finished_quickstart, tmp_path, capsys):
    out, scene = tmp_path / "seven.safetensors", tmp_path / "scene.png"
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(scene)
    asked = ["--workdir", str(finished_quickstart), "--task", "Which colour does the seven have?"]
    assert main(["generate", *asked, "--samples", "3", "--out", str(out)]) == 0
    assert main(["predict", "--weights", str(out), "--answers", "red,green", str(scene)]) == 0
    printed = capsys.readouterr().out
    assert "of 3 samples agree" in printed and 'read as "the colour is {}"' in printed


def test_killed_at_any_time_it_ends_with_the_same_bits(
    finished_quickstart, tmp_path, quickstart_command
):
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "hyper_meta.cli", *quickstart_command(workdir)]
    # Each attempt is killed at another stage: as soon as that stage has left a checkpoint.
    for mark in ("hnet_maml/00000001", "hnet_latents", "hnet_hyperldm/00000001", "model"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(workdir / "seed_0" / mark, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert main(command[3:]) == 0
    curves = [f"curves/{stage}.json" for stage in STAGES]
    for name in ("scores.json", *curves):
        assert (workdir / "seed_0" / name).read_text() == (
            finished_quickstart / "seed_0" / name
        ).read_text()
    left, right = (np.load(run / "seed_0" / "shown.npz") for run in (workdir, finished_quickstart))
    for name in left.files:
        np.testing.assert_array_equal(left[name], right[name])
    shutil.rmtree(workdir)


def test_one_method_is_trained_with_what_it_needs(quickstart_command, tmp_path):
    """And with nothing that is evaluated or reported."""
    _, *arguments = quickstart_command(tmp_path / "one")
    assert main(["train", *arguments, "--method", "hnet"]) == 0
    left = {path.name for path in (tmp_path / "one" / "seed_0").iterdir()}
    assert left == {"hnet_maml", "hnet_latents", "curves"}


def _wait_for(path, process):
    for _ in range(6000):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{path} did not appear")
