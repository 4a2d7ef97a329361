"""What tests of whole runs share: the quickstart, run once through the real command, small."""

from pathlib import Path

import jax
import pytest

from hyper_meta.cli import main

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.py"
TRAINED = ("hnet", "conditional", "hyperclip", "hyperldm")
SMALL = (
    *(f"{section}.num_steps=2" for section in TRAINED),
    *(f"{section}.chunk_steps=1" for section in TRAINED),
    "hnet.inner_steps=1",
    "latents.num_steps=1",
    "latents.repeats=2",
    "hyperclip.guidance.steps=2,4",
    "hyperclip.guidance.learning_rates=0.01",
    "hyperclip.guidance.pull=0.0",
    "hyperldm.sampling_steps=3",
    "hyperldm.num_samples=2",
    "evaluate.guidance_scales=0,2",
    "evaluate.few_shot_steps=0,2",
    "evaluate.shot_steps=0,2",
    "evaluate.shots=1,2",
    "evaluate.num_resamples=100",
    "batching.num_layouts=1",
    "batching.num_shapes=1",
    "checkpoint_every=1",
)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_freed():
    """At the end of a test file. A process may map 65,530 pieces of memory; all tests need more."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def small_settings():
    """Overrides that make a run short, such as "hnet.num_steps=2"."""
    return SMALL


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """Where small runs find data and compiled programs."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        yield folder
        jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def quickstart_command(run_folder):
    """work directory -> the arguments of its small quickstart; all share data and programs."""
    folders = (f"data_dir={run_folder / 'data'}", f"compilation_cache={run_folder / 'programs'}")
    overrides = [f"--config.{setting}" for setting in (*SMALL, *folders)]
    return lambda workdir: ["run", "--config", str(CONFIG), "--workdir", str(workdir), *overrides]


@pytest.fixture(scope="session")
def finished_quickstart(tmp_path_factory, quickstart_command):
    """The work directory of a small quickstart at its end; not to be changed."""
    workdir = tmp_path_factory.mktemp("runs") / "quickstart"
    assert main(quickstart_command(workdir)) == 0
    return workdir
