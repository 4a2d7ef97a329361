"""The quickstart itself, run small: every stage through the real command, to the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyper_meta.cli import main

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.py"
SMALL = (
    "generator.num_steps=4",
    "generator.chunk_steps=2",
    "generator.inner_steps=2",
    "conditional.num_steps=4",
    "conditional.chunk_steps=2",
    "latents.num_steps=2",
    "latents.repeats=2",
    "hyperldm.num_steps=20",
    "hyperldm.chunk_steps=10",
    "hyperldm.sampling_steps=5",
    "hyperldm.num_samples=2",
    "evaluate.guidance_scales=0,2",
    "evaluate.few_shot_steps=2",
    "evaluate.num_resamples=100",
    "batching.num_shapes=2",
    "checkpoint_every=1",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def _arguments(workdir, data_dir):
    overrides = [f"--config.{setting}" for setting in (*SMALL, f"data_dir={data_dir}")]
    return ["run", "--config", str(CONFIG), "--workdir", str(workdir), *overrides]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("runs") / "quickstart"
    assert main(_arguments(workdir, data_dir)) == 0
    return workdir


def test_the_quickstart_ends_in_a_report(finished):
    results = json.loads((finished / "results.json").read_text())
    report = (finished / "report" / "report.md").read_text()
    rows = results["summaries"]["test"]
    for method in ("CLIP as base model", "conditional hypernetwork", "HyperLDM, scale 2"):
        assert method in report
        for group in ("all", "paraphrase", "composition"):
            figures = rows[method]["all"][group]
            assert 0 <= figures["low"] <= figures["mean"] <= figures["high"] <= 100
    assert len(list((finished / "report").glob("*.png"))) == 4


def test_the_encoder_leaves_room(finished):
    """CLIP alone knows something and not everything: between 30% and 60% on test tasks."""
    results = json.loads((finished / "results.json").read_text())
    figures = results["summaries"]["test"]["CLIP as base model"]["all"]["all"]
    assert 30 < figures["mean"] < 60


def test_a_finished_run_is_only_restored(finished, data_dir, capsys):
    before = (finished / "results.json").read_bytes()
    assert main(_arguments(finished, data_dir)) == 0
    assert (finished / "results.json").read_bytes() == before
    assert "report" in capsys.readouterr().out


def test_a_sentence_becomes_weights_that_answer(finished, tmp_path, capsys):
    out, scene = tmp_path / "seven.safetensors", tmp_path / "scene.png"
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(scene)
    asked = ["--workdir", str(finished), "--task", "Which colour does the seven have?"]
    assert main(["generate", *asked, "--samples", "3", "--out", str(out)]) == 0
    assert main(["predict", "--weights", str(out), "--answers", "red,green", str(scene)]) == 0
    printed = capsys.readouterr().out
    assert "of 3 samples agree" in printed and 'read as "the colour is {}"' in printed


def test_killed_at_any_time_it_ends_with_the_same_bits(finished, tmp_path, data_dir):
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "hyper_meta.cli", *_arguments(workdir, data_dir)]
    # Each attempt is killed at another stage: as soon as that stage has left a checkpoint.
    for mark in ("generator/00000002", "conditional/00000002", "hyperldm/00000010", "model"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(workdir / "seed_0" / mark, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert main(command[3:]) == 0
    curves = [f"curves/{stage}.json" for stage in ("generator", "conditional", "hyperldm")]
    for name in ("scores.json", *curves):
        assert (workdir / "seed_0" / name).read_text() == (finished / "seed_0" / name).read_text()
    left, right = (np.load(run / "seed_0" / "shown.npz") for run in (workdir, finished))
    for name in left.files:
        np.testing.assert_array_equal(left[name], right[name])
    shutil.rmtree(workdir)


def _wait_for(path, process):
    for _ in range(6000):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{path} did not appear")
