"""What tests of whole runs share: the quickstart, run once through the real command, small."""

from pathlib import Path

import pytest

from hyper_meta.cli import main

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.py"
SMALL = (
    "hnet.num_steps=4",
    "hnet.chunk_steps=2",
    "hnet.inner_steps=2",
    "conditional.num_steps=4",
    "conditional.chunk_steps=2",
    "latents.num_steps=2",
    "latents.repeats=2",
    "hyperclip.num_steps=20",
    "hyperclip.chunk_steps=10",
    "hyperclip.guidance.steps=2,4",
    "hyperldm.num_steps=20",
    "hyperldm.chunk_steps=10",
    "hyperldm.sampling_steps=5",
    "hyperldm.num_samples=2",
    "evaluate.guidance_scales=0,2",
    "evaluate.few_shot_steps=0,2",
    "evaluate.shots=1,3",
    "evaluate.num_resamples=100",
    "batching.num_shapes=2",
    "checkpoint_every=1",
)


@pytest.fixture(scope="session")
def quickstart_command(tmp_path_factory):
    """work directory -> the arguments of its small quickstart; all share their data."""
    data_dir = tmp_path_factory.mktemp("data")
    overrides = [f"--config.{setting}" for setting in (*SMALL, f"data_dir={data_dir}")]
    return lambda workdir: ["run", "--config", str(CONFIG), "--workdir", str(workdir), *overrides]


@pytest.fixture(scope="session")
def finished_quickstart(tmp_path_factory, quickstart_command):
    """The work directory of a small quickstart at its end; not to be changed."""
    workdir = tmp_path_factory.mktemp("runs") / "quickstart"
    assert main(quickstart_command(workdir)) == 0
    return workdir
