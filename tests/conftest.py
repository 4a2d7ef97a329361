"""How tests compile, and what tests of whole runs share: the quickstart, run once through the real
command, small."""

import importlib.metadata
import os
from pathlib import Path

# Most programs of the tests, and of the processes that they start, run once: compiling them well
# would be most of the time.
HURRY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know it
    HURRY += " --xla_cpu_use_fusion_emitters=false"
if HURRY not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {HURRY}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from filelock import FileLock  # noqa: E402

from hyper_meta.cli.main import main  # noqa: E402
from hyper_meta.data import datasets  # noqa: E402
from hyper_meta.workflows.run import CACHE_BYTES  # noqa: E402

# Scripts that tests start find the package and what tests share.
ROOT = Path(__file__).parents[1]
PATHS = [str(ROOT), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, PATHS))

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
    "evaluate.guidance_scales=0.5,2",
    "evaluate.few_shot_steps=0,2",
    "evaluate.shot_steps=0,2",
    "evaluate.shots=1,2",
    "evaluate.num_resamples=100",
    "batching.num_layouts=1",
    "batching.num_shapes=1",
    "checkpoint_every=1",
)


# Test files that take long. They come first, so that no process is left with one at the end, and
# those between the first and test_processes.py do not wait for the quickstart that the first makes.
LONG = (
    *("test_pipeline.py", "test_benchmark.py", "test_preparation.py", "test_sweep.py"),
    *("test_processes.py", "test_inspection.py", "test_notebook.py"),
)


def pytest_collection_modifyitems(items):
    """Puts the tests of LONG first."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


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
def shared_folder(tmp_path_factory, worker_id):
    """What all processes of these tests share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session", autouse=True)
def programs(shared_folder):
    """The folder of compiled programs, for the tests and for the processes that they start."""
    folder = shared_folder / "programs"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        # As runs set it: jax keeps a note beside each program only where there is a limit, and
        # where there is one keeps nothing more as soon as a note is missing.
        "jax_compilation_cache_max_size": CACHE_BYTES,
        # To keep one more, jax reads the notes of all.
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield folder


@pytest.fixture(scope="session")
def digits_vqa_dir(shared_folder):
    """Digits-VQA as the builder writes it, built once."""
    data_dir = shared_folder / "data"
    with FileLock(shared_folder / "data.lock"):
        datasets.build("digits_vqa", data_dir)
    return data_dir


@pytest.fixture(scope="session")
def quickstart_command(digits_vqa_dir, programs):
    """work directory -> the arguments of its small quickstart; all share data and programs."""
    folders = (f"data_dir={digits_vqa_dir}", f"compilation_cache={programs}")
    overrides = [f"--config.{setting}" for setting in (*SMALL, *folders)]
    return lambda workdir: ["run", "--config", str(CONFIG), "--workdir", str(workdir), *overrides]


@pytest.fixture(scope="session")
def finished_quickstart(shared_folder, quickstart_command):
    """The work directory of a small quickstart at its end; not to be changed."""
    workdir = shared_folder / "quickstart"
    with FileLock(shared_folder / "quickstart.lock"):
        if not (workdir / "report").exists():
            assert main(quickstart_command(workdir)) == 0
    return workdir
