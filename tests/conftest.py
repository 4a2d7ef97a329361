"""How tests compile, and what tests of whole runs share: the quickstart, run once through the real
command, small."""

import gc
import os
from pathlib import Path

from compiling import hurry

hurry()

import pytest  # noqa: E402
import shape_hook  # noqa: E402
from filelock import FileLock  # noqa: E402
from small_quickstart import SMALL, command  # noqa: E402

# Before the first import of hyper_meta: its functions check the shapes of arrays.
shape_hook.install("hyper_meta")

# What takes long to import is imported where it is used: the process that hands out the tests
# does not need it.

# Scripts that tests start find the package and what tests share.
ROOT = Path(__file__).parents[1]
PATHS = [str(ROOT), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, PATHS))

# Test files that take 20 s or more of a core. They come first, so that no process is left with one
# at the end, and those between the first and test_processes.py do not wait for the quickstart that
# the first makes.
LONG = (
    *("test_pipeline.py", "test_language.py", "test_benchmark.py", "test_preparation.py"),
    *("test_sweep.py", "test_widths.py", "test_generate.py"),
    *("test_processes.py", "test_stages.py", "test_datasets.py", "test_objectives.py"),
    *("test_all_methods.py", "test_real_configurations.py", "test_samplers.py"),
    *("test_bert.py", "test_installed.py", "test_sentence_encoder_run.py"),
    *("test_hyperldm.py", "test_hyperclip_stage.py", "test_hvae_stage.py", "test_pretrain.py"),
    *("test_inspection.py", "test_notebook.py", "test_linear_gaussian.py", "test_parallel.py"),
    *("test_cli.py", "test_loop.py", "test_sentence_encoder.py", "test_token_learner.py"),
    *("test_properties.py", "test_interrupts.py", "test_bad_arguments.py"),
)


def pytest_collection_modifyitems(items):
    """Puts the tests of LONG first."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


def pytest_collection_finish():
    """What all tests import stays: looking through it again and again takes 7% of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_freed():
    """At the end of a test file. A process may map 65,530 pieces of memory; all tests need more."""
    import jax

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
    import jax

    from hyper_meta.core import compilation

    folder = shared_folder / "programs"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        # As runs set it: jax keeps a note beside each program only where there is a limit, and
        # where there is one keeps nothing more as soon as a note is missing.
        "jax_compilation_cache_max_size": compilation.CACHE_BYTES,
        # To keep one more, jax reads the notes of all.
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    with pytest.MonkeyPatch.context() as patch:
        # Of a command, which is a process of its own.
        patch.setattr(compilation, "keep_quick_programs", lambda *folder: None)
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield folder


@pytest.fixture(scope="session")
def digits_vqa_dir(shared_folder):
    """Digits-VQA as the builder writes it, built once."""
    from hyper_meta.data import datasets

    data_dir = shared_folder / "data"
    with FileLock(shared_folder / "data.lock"):
        datasets.build("digits_vqa", data_dir)
    return data_dir


@pytest.fixture(scope="session")
def quickstart_command(digits_vqa_dir, programs):
    """work directory -> the arguments of its small quickstart; all share data and programs."""
    return lambda workdir: command(workdir, data_dir=digits_vqa_dir, programs=programs)


@pytest.fixture(scope="session")
def finished_quickstart(shared_folder, quickstart_command):
    """The work directory of a small quickstart at its end; not to be changed."""
    from hyper_meta.cli.main import main

    workdir = shared_folder / "quickstart"
    with FileLock(shared_folder / "quickstart.lock"):
        if not (workdir / "report").exists():
            assert main(quickstart_command(workdir)) == 0
    return workdir
