"""Two processes of two devices each, through the real command."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import hyper_meta
from hyper_meta.cli.main import main
from hyper_meta.train import checkpoints

# Without an inner loop: what takes time here is compiling.
STEPS = (
    "--config.hnet.num_steps=6",
    "--config.latents.base=hnet_multitask",
    "--method",
    "hnet_hyperldm",
)
STAGES = ("hnet_multitask", "hnet_hyperldm")


@pytest.fixture(scope="module")
def command(quickstart_command, finished_quickstart):
    """Work directory -> the arguments that train HyperLDM and what it needs."""
    return lambda workdir: ["train", *quickstart_command(workdir)[1:], *STEPS]


def _start(arguments):
    """A process of two devices, which has only core memory in common with this one."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(hyper_meta.__file__).parents[1]),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "hyper_meta", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _start_two(command, workdir):
    """Process 1 is told of another work directory, which it must leave alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    joined = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    folders = workdir, workdir.with_name("of_process_1")
    return [_start([*command(folder), *joined, str(i)]) for i, folder in enumerate(folders)]


def _end(processes):
    ended = [(*process.communicate(timeout=600), process.returncode) for process in processes]
    assert not any("Traceback" in err for _, err, _ in ended), ended
    return ended


def _wait_for(path, processes):
    for _ in range(6000):
        if path.exists() or any(process.poll() is not None for process in processes):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{path} did not appear")


def _assert_same_training(workdir, other):
    for stage in STAGES:
        curves = [
            json.loads((folder / "seed_0" / "curves" / f"{stage}.json").read_text())
            for folder in (workdir, other)
        ]
        for one, two in zip(*(curve["history"] for curve in curves), strict=True):
            assert one.keys() == two.keys()
            for name, value in one.items():
                np.testing.assert_allclose(
                    value, two[name], rtol=2e-3, atol=1e-3, err_msg=f"{stage} {name}"
                )


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory):
    """The work directory of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert main(command(workdir)) == 0
    return workdir


def test_two_processes_train_like_one_and_a_signal_to_either_saves(command, alone, tmp_path):
    workdir = tmp_path / "two"
    stage = workdir / "seed_0" / "hnet_multitask"
    started = _start_two(command, workdir)
    _wait_for(stage / "00000001", started)
    started[1].send_signal(signal.SIGTERM)
    ended = _end(started)
    assert [code for _, _, code in ended] == [143, 143]
    assert all("stopped by SIGTERM" in err for _, err, _ in ended)
    assert 1 <= checkpoints.latest_step(stage) < 6
    shutil.copytree(workdir, tmp_path / "one")

    ended = _end(_start_two(command, workdir))
    assert [code for _, _, code in ended] == [0, 0], ended
    assert not (tmp_path / "of_process_1").exists()
    _assert_same_training(workdir, alone)

    # What two processes saved, one goes on with.
    assert main(command(tmp_path / "one")) == 0
    _assert_same_training(tmp_path / "one", alone)


def test_an_error_of_process_0_ends_both(command, tmp_path):
    workdir = tmp_path / "taken"
    workdir.mkdir()
    (workdir / "something").touch()
    ended = _end(_start_two(command, workdir))
    assert [code for _, _, code in ended] == [2, 2]
    assert all("is not empty and holds no run" in err for _, err, _ in ended)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--coordinator", "localhost:1"], "are given together"),
        (["--num-processes", "2", "--process-id", "0"], "are given together"),
        (
            ["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"],
            "0 to 1 is expected",
        ),
    ],
)
def test_half_of_the_flags_is_a_mistake(command, tmp_path, capsys, given, expected):
    with pytest.raises(SystemExit):
        main([*command(tmp_path / "run"), *given])
    assert expected in capsys.readouterr().err
