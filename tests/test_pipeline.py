"""The quickstart itself, run small: every stage through the real command, to the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from hyper_meta.cli import main

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.py"
STAGES = ("hnet_multitask", "hnet_maml", "conditional", "hnet_hyperclip", "hnet_hyperldm")
SMALL = (
    *(f"{section}.num_steps=2" for section in ("hnet", "conditional", "hyperclip", "hyperldm")),
    *(f"{section}.chunk_steps=1" for section in ("hnet", "conditional", "hyperclip", "hyperldm")),
    "hnet.inner_steps=1",
    "latents.num_steps=1",
    "latents.repeats=1",
    "hyperclip.guidance.steps=1,2",
    "hyperclip.guidance.learning_rates=0.01",
    "hyperclip.guidance.pull=0.0",
    "hyperldm.sampling_steps=3",
    "hyperldm.num_samples=2",
    "evaluate.guidance_scales=0,2",
    "evaluate.few_shot_steps=0,2",
    "evaluate.shots=1,2",
    "evaluate.num_resamples=100",
    "batching.num_shapes=1",
    "checkpoint_every=1",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Where all runs find data and compiled programs."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        yield folder
        jax.config.update("jax_compilation_cache_dir", None)


def _arguments(workdir, shared):
    folders = (f"data_dir={shared / 'data'}", f"compilation_cache={shared / 'programs'}")
    overrides = [f"--config.{setting}" for setting in (*SMALL, *folders)]
    return ["run", "--config", str(CONFIG), "--workdir", str(workdir), *overrides]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared):
    workdir = tmp_path_factory.mktemp("runs") / "quickstart"
    assert main(_arguments(workdir, shared)) == 0
    return workdir


def test_the_quickstart_ends_in_a_report(finished):
    results = json.loads((finished / "results.json").read_text())
    report = (finished / "report" / "report.md").read_text()
    rows = results["summaries"]["test"]
    for method in ("CLIP as base model", "conditional hypernetwork", "HNet + HyperLDM"):
        assert method in report
        for group in ("all", "paraphrase", "composition"):
            figures = rows[method]["all"][group]
            assert 0 <= figures["low"] <= figures["mean"] <= figures["high"] <= 100
    assert len(list((finished / "report").glob("*.png"))) == 5


def test_the_encoder_leaves_room(finished):
    """CLIP alone knows something and not everything: between 30% and 60% on test tasks."""
    results = json.loads((finished / "results.json").read_text())
    figures = results["summaries"]["test"]["CLIP as base model"]["all"]["all"]
    assert 30 < figures["mean"] < 60


def test_a_finished_run_is_only_restored(finished, shared, capsys):
    before = (finished / "results.json").read_bytes()
    assert main(_arguments(finished, shared)) == 0
    assert (finished / "results.json").read_bytes() == before
    assert "report" in capsys.readouterr().out


def test_compiled_programs_are_kept_where_the_config_says(finished, shared):
    assert any((shared / "programs").iterdir())


def test_a_sentence_becomes_weights_that_answer(finished, tmp_path, capsys):
    out, scene = tmp_path / "seven.safetensors", tmp_path / "scene.png"
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(scene)
    asked = ["--workdir", str(finished), "--task", "Which colour does the seven have?"]
    assert main(["generate", *asked, "--samples", "3", "--out", str(out)]) == 0
    assert main(["predict", "--weights", str(out), "--answers", "red,green", str(scene)]) == 0
    printed = capsys.readouterr().out
    assert "of 3 samples agree" in printed and 'read as "the colour is {}"' in printed


def test_killed_at_any_time_it_ends_with_the_same_bits(finished, tmp_path, shared):
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "hyper_meta.cli", *_arguments(workdir, shared)]
    # Each attempt is killed at another stage: as soon as that stage has left a checkpoint.
    for mark in ("hnet_maml/00000001", "hnet_latents", "hnet_hyperldm/00000001", "model"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(workdir / "seed_0" / mark, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert main(command[3:]) == 0
    curves = [f"curves/{stage}.json" for stage in STAGES]
    for name in ("scores.json", *curves):
        assert (workdir / "seed_0" / name).read_text() == (finished / "seed_0" / name).read_text()
    left, right = (np.load(run / "seed_0" / "shown.npz") for run in (workdir, finished))
    for name in left.files:
        np.testing.assert_array_equal(left[name], right[name])
    shutil.rmtree(workdir)


def test_one_method_is_trained_with_what_it_needs(shared, tmp_path):
    """And with nothing that is evaluated or reported."""
    _, *arguments = _arguments(tmp_path / "one", shared)
    assert main(["train", *arguments, "--method", "hnet"]) == 0
    left = {path.name for path in (tmp_path / "one" / "seed_0").iterdir()}
    assert left == {"hnet_maml", "hnet_latents", "curves"}


def _wait_for(path, process):
    for _ in range(6000):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{path} did not appear")
