"""The commands, in process: what reaches the pipeline, what is printed, and the exit codes."""

import errno
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from toy_run import make_images, make_run

import hyper_meta
from hyper_meta.cli import pipeline as pipeline_commands
from hyper_meta.cli.main import COMMANDS, main
from hyper_meta.core import configuration
from hyper_meta.core.arguments import QUIET
from hyper_meta.core.configuration import execute_file, load_settings
from hyper_meta.core.progress import logged
from hyper_meta.core.settings import (
    BenchmarkSettings,
    EncoderSettings,
    RunSettings,
    as_dict,
    rules_of,
)
from hyper_meta.core.types import UserError
from hyper_meta.generation.weights_file import load_weights
from hyper_meta.methods.registry import METHODS
from hyper_meta.train.loop import Interrupted
from hyper_meta.workflows import pretrain_encoder as pretraining
from hyper_meta.workflows import run as pipeline

CONFIGS = Path(__file__).parents[2] / "configs"
FULL_RUN = str(CONFIGS / "digits_vqa.py")
QUICKSTART = str(CONFIGS / "quickstart.py")
PIPELINE_COMMANDS = [command.name for command in pipeline_commands.COMMANDS]
NAMES = [command.name for command in COMMANDS]


@pytest.fixture
def calls(monkeypatch):
    """What the commands call, instead of calling it: a list of (name, arguments)."""
    made = []

    def run(config, workdir, until, method):
        made.append((config, workdir, until, method))
        return ["references", "film"]

    def pretrain(config, workdir, out):
        made.append((config, workdir, out))
        return {"retrieval": 91.26, "chance": 12.3}

    monkeypatch.setattr(pipeline, "run", run)
    monkeypatch.setattr(pretraining, "pretrain_encoder", pretrain)
    return made


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("command", NAMES)
def test_help_teaches_by_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "example" in out and f"  hyper-meta {command} " in out.partition("example")[2]


def test_the_list_of_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(f"    {command}" in out for command in NAMES)


QUICK = """
import sys
from hyper_meta.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stopped:
    code = stopped.code
slow = {"jax", "numpy", "flax", "optax", "orbax", "scipy", "PIL", "matplotlib", "transformers"}
print("exit", code, *sorted(slow & set(sys.modules)))
"""
GENERATE = ("generate", "--workdir", "none", "--out", "out", "--task")
RUN = ("run", "--workdir", "new", "--config", QUICKSTART)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        *(([name, "--help"], 0) for name in NAMES),
        ([], 2),
        (["ruin"], 2),
        (["run", "--wordkir", "w"], 2),
        (["run", "--workdir", "none"], 2),
        (["run", "--workdir", "new", "--config", "none.py"], 2),
        ([*RUN, "--seed=3"], 2),
        ([*RUN, "--config.hnet.num_step=3"], 2),
        ([*RUN, "--config.seed=one"], 2),
        ([*RUN, "--config.seed=-1"], 2),
        ([*RUN, "--config.dataset=none"], 2),
        ([*RUN, "--config.hnet.clip_norm=0"], 2),
        ([*RUN, "--config.hyperldm.sampling_steps=100000"], 2),
        (["pretrain", *RUN[1:], "--out", "out"], 2),
        (["prepare", "--config", QUICKSTART, "--config.image_resize=none"], 2),
        (["benchmark", "--config", QUICKSTART, "--config.seed=one"], 2),
        ([*RUN, "--config.methods=references,fim"], 2),
        (["train", *RUN[1:], "--method", "fim"], 2),
        ([*RUN, "--num-processes", "2"], 2),
        (["sweep", *RUN[1:], "--grid", "hnet.num_step=3"], 2),
        ([*GENERATE, " "], 2),
        ([*GENERATE, "Which colour?"], 2),
        ([*GENERATE, "Which colour?", "--samples", "0"], 2),
        (["check", "none"], 2),
        (["check", "none", "--config.seed=1"], 2),
        (["import-tasks", "none", "--out", "out", "--rows", "1"], 2),
        (["export", "--weights", "none", "--to", "npz", "--out", "out"], 2),
        (["export", "--weights", "none", "--to", "tflite", "--out", "out"], 2),
        (["predict", "--weights", "none", "--answers", "red", "scene.png"], 2),
        (["predict", "--weights", "none", "--answers", "red,green", "scene.png"], 2),
    ],
    ids=lambda value: " ".join(value).replace(QUICKSTART, "F") if isinstance(value, list) else None,
)
def test_help_and_mistakes_do_not_wait_for_imports(argv, code, tmp_path):
    command = [sys.executable, "-c", QUICK, *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stdout.splitlines()[-1:] == [f"exit {code}"], done.stdout + done.stderr
    assert done.stderr.count("\n") == (1 if code else 0)
    assert not list(tmp_path.iterdir())


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"hyper-meta {hyper_meta.__version__}\n"


def test_the_package_is_a_command(tmp_path):
    command = [sys.executable, "-m", "hyper_meta", "ruin"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("hyper-meta: ") and "invalid choice: 'ruin'" in done.stderr


def test_every_method_is_listed_with_what_it_needs(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(METHODS) and max(map(len, lines)) <= 100
    listed = dict(zip(lines[::2], lines[1::2], strict=True))
    config = load_settings(FULL_RUN, Path(), [])
    for (what, needs), (name, method) in zip(listed.items(), METHODS.items(), strict=True):
        assert what.split()[0] == name and what.endswith(f"  {method.summary}")
        needed = needs.replace("the method of config.latents.base", config.latents.base)
        needed = needed.replace("the method of config.hvae.weights.base", config.hvae.weights.base)
        needed = needed.replace("the method of config.latents.nearest", config.latents.nearest)
        guides = ", ".join(config.evaluate.control_guides)
        needed = needed.replace("the method of config.evaluate.control_guides", guides)
        names = ", ".join(method.needs(config)) or "no other method"
        assert needed.strip() == f"needs {names}"


def test_methods_takes_no_more_arguments(capsys):
    with pytest.raises(SystemExit):
        main(["methods", "film"])
    assert "unknown argument film" in capsys.readouterr().err


def test_mistakes_of_compare_wait_for_numpy_alone(tmp_path):
    command = [sys.executable, "-c", QUICK, "compare", "none", "none"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.stdout == "exit 2 numpy\n"
    assert "none holds no results.json" in done.stderr


# Its arguments are sound; that the file is none of weights is found while it works.
WORKS = ["predict", "--weights", "file", "--answers", "red,green", "scene.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="of the C library of Linux")
@pytest.mark.parametrize(
    ("given", "argv", "started"),
    [
        (None, WORKS, 2),
        ("glibc.malloc.check=0", WORKS, 1),
        (None, ["--help"], 1),
        (None, ["methods", "--help"], 1),
        (None, ["run", "--workdir", "none"], 1),
        (None, ["ruin"], 1),
    ],
)
def test_a_process_that_computes_starts_over_with_huge_pages_once(given, argv, started, tmp_path):
    code = (
        "import os, sys; from hyper_meta.cli.main import main; "
        f"sys.argv = ['hyper-meta', *{argv}]; "
        "print('with', os.environ.get('GLIBC_TUNABLES'), flush=True); sys.exit(main())"
    )
    write(tmp_path / "file", "no weights")
    environment = {name: x for name, x in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    starts = [line for line in done.stdout.splitlines() if line.startswith("with ")]
    assert starts == [f"with {given}", "with glibc.malloc.hugetlb=1"][:started]
    assert done.returncode == (0 if "--help" in argv else 2)
    assert ("usage:" in done.stdout) == ("--help" in argv)
    assert done.stderr.count("\n") == (0 if "--help" in argv else 1)


@pytest.mark.parametrize("command", PIPELINE_COMMANDS)
def test_each_stage_is_a_command(command, calls, tmp_path, capsys):
    workdir = tmp_path / "w"
    assert main([command, "--config", QUICKSTART, "--workdir", str(workdir)]) == 0
    told = {
        "train": f"trained in {workdir}: references, film\n"
        f"next: hyper-meta evaluate --workdir {workdir}\n",
        "evaluate": f"trained and scored in {workdir}: references, film\n"
        f"next: hyper-meta report --workdir {workdir}\n",
    }
    assert capsys.readouterr().out == told.get(command, "")
    ((config, workdir, until, method),) = calls
    assert method is None
    assert until == ("report" if command == "run" else command)
    assert workdir == tmp_path / "w" and config.num_seeds == 1


def test_train_takes_a_method(calls, tmp_path, capsys):
    argv = ["--config", QUICKSTART, "--workdir", str(tmp_path), "--method", "film"]
    assert main(["train", *argv]) == 0
    assert calls[0][2:] == ("train", "film")
    assert main(["evaluate", *argv]) == 2
    assert "unknown argument --method" in capsys.readouterr().err and len(calls) == 1


def test_an_unknown_method_is_refused_before_a_work_directory_is_made(tmp_path, capsys):
    argv = ["--config", QUICKSTART, "--workdir", str(tmp_path / "w")]
    assert main(["train", *argv, "--config.network.name=nett"]) == 2
    assert "network 'nett' given, one of ['adapter', " in capsys.readouterr().err
    for given in (["--method", "fim"], ["--config.methods=('references','fim')"]):
        assert main(["train", *argv, *given]) == 2
        assert "method 'fim' given, one of ['references', " in capsys.readouterr().err
    for given in (["--method", "film"], ["--config.methods=references,film"]):
        assert main(["train", *argv, *given, "--config.network.name=low_rank"]) == 2
        assert "film scales the hidden units of an adapter, " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_overrides_have_the_types_of_the_config(calls, tmp_path):
    overrides = [
        "--config.hyperldm.guidance_scale=2",
        "--config.hnet.hidden_dims=16,32",
        "--config.evaluate.guidance_scales",
        "0.5,1.5",
        "--config.latents.pull=1",
        "--config.dataset=meta_vqa",
        "--config.seed=5",
    ]
    assert main(["run", "--config", QUICKSTART, "--workdir", str(tmp_path), *overrides]) == 0
    config = calls[0][0]
    values = (
        config.hyperldm.guidance_scale,
        config.hnet.hidden_dims,
        config.evaluate.guidance_scales,
        config.latents.pull,
        config.dataset,
        config.seed,
    )
    expected = (2.0, (16, 32), (0.5, 1.5), 1.0, "meta_vqa", 5)
    assert [repr(value) for value in values] == [repr(value) for value in expected]


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_of_the_project_is_accepted(file, tmp_path):
    record = {"encoder": EncoderSettings, "benchmark": BenchmarkSettings}.get(
        file.stem, RunSettings
    )
    config = load_settings(str(file), tmp_path, [], record)
    assert type(config) is record
    if record is not EncoderSettings:
        pipeline.check_choices(config)
    assert f"--config configs/{file.name}" in file.read_text()


def test_a_stored_config_is_the_one_that_was_given(tmp_path):
    overrides = ["--config.hnet.hidden_dims=16,32"]
    given = load_settings(QUICKSTART, tmp_path, overrides)
    pipeline.claim(given, tmp_path)
    stored = load_settings(None, tmp_path, [])
    assert as_dict(stored) == as_dict(given) and stored == given
    assert stored.hnet.hidden_dims == (16, 32)
    pipeline.claim(stored, tmp_path)
    more = load_settings(None, tmp_path, ["--config.num_seeds=2"])
    pipeline.claim(more, tmp_path)
    assert load_settings(None, tmp_path, []).num_seeds == 2
    scaled = load_settings(None, tmp_path, ["--config.hyperldm.guidance_scale=2"])
    assert scaled.hyperldm.guidance_scale == 2.0


def test_a_config_imports_its_own_neighbours(tmp_path):
    text = "from base import get_config"
    for name in ("one", "two"):
        write(
            tmp_path / name / "base.py",
            "from ml_collections import ConfigDict\n"
            f"def get_config():\n    return ConfigDict({{'name': '{name}'}})\n",
        )
        file = write(tmp_path / name / "main.py", text)
        before = list(sys.path), set(sys.modules)
        assert execute_file(Path(file)).name == name
        assert (list(sys.path), set(sys.modules)) == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hyperldm.guidence_scale=2"], "did you mean --config.hyperldm.guidance_scale?"),
        (["denoiser=v1"], "did you mean --config.hyperldm.denoiser?"),
        (["guidance_scale=2"], "did you mean --config.hyperldm.guidance_scale?"),
        (["hnet.num_step=2"], "did you mean --config.hnet.num_steps?"),
        (["hyperldm=2"], "hyperldm is a group of settings"),
        (["seed=1.5"], "--config.seed=1.5: a whole number such as 0 is expected"),
        (["seed"], "a whole number such as 0 is expected"),
        (["hyperldm.guidance_scale=two"], "a number is expected"),
        (["hnet.hidden_dims=1.5,2"], "a tuple of int such as 128,128,128 is expected"),
        (["evaluate.guidance_scales=(1,"], "a tuple of float such as 1.0,2.0"),
        (["evaluate.guidance_scales=()"], "a tuple of float such as 1.0,2.0"),
        (["hnet.learning_rates=nan"], "a tuple of float such as 0.001 is expected"),
        (["hnet.inner_learning_rate=nan"], "hnet.inner_learning_rate=nan is no finite number"),
        (["hnet.batch_size=0"], "hnet.batch_size=0 is too small, 1 is least"),
        (["seed=-1"], "seed=-1 is too small, 0 is least"),
        (["seed=4294967296"], "from 0 to 4294967295"),
        (["hyperldm.num_steps=7", "hyperldm.chunk_steps=5"], "the nearest is 5"),
        (["hyperldm.sampling_steps=1001"], "more than hyperldm.diffusion_steps=1000"),
    ],
)
def test_refuses_overrides(overrides, message):
    with pytest.raises(UserError) as caught:
        load_settings(QUICKSTART, Path("w"), [f"--config.{override}" for override in overrides])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "failed at line 1: SyntaxError"),
        ("\nimport no_such_module", "failed at line 2: ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0", "failed at line 2: ZeroDivisionError"),
        ("raise SystemExit('stop')", "failed at line 1: SystemExit: stop"),
        ("config = 3", "defines no get_config()"),
        ("def get_config():\n    return {}", "returns a dict, a ConfigDict is expected"),
    ],
)
def test_refuses_a_config_that_fails(text, message, tmp_path):
    file = write(tmp_path / "config.py", text)
    with pytest.raises(UserError, match="config.py") as caught:
        load_settings(file, tmp_path, [])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name, (_, rule) in rules_of(RunSettings).items() if rule.choices]
)
def test_names_are_checked_before_a_work_directory_is_made(name, tmp_path, capsys):
    argv = ["run", "--config", QUICKSTART, "--workdir", str(tmp_path / "w")]
    assert main([*argv, f"--config.{name}=zzz"]) == 2
    assert capsys.readouterr().err.startswith(f"hyper-meta: {name}='zzz' given, one of [")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("wrong\n  here"), 2, "wrong here"),
        (Interrupted("stopped by SIGINT at step 3"), 130, "stopped by SIGINT at step 3"),
        (Interrupted("stopped by SIGTERM at step 3"), 143, "stopped by SIGTERM at step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 2, "/a: Permission denied"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_one_line_and_an_exit_code(error, code, line, monkeypatch, tmp_path, capsys):
    def fail(config, workdir, until, method):
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    assert main(["run", "--config", QUICKSTART, "--workdir", str(tmp_path)]) == code
    assert capsys.readouterr().err == f"hyper-meta: {line}\n"


@pytest.mark.parametrize("error", [ValueError("a fault"), OSError(errno.EBADF, "a fault")])
def test_a_fault_of_the_program_leaves_its_traceback_in_a_file(
    error, monkeypatch, tmp_path, capsys
):
    def fail(config, workdir, until, method):
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = ["run", "--config", QUICKSTART, "--workdir", str(tmp_path / "w")]
    assert main(command) == 1
    said = capsys.readouterr().err
    (path,) = tmp_path.glob("hyper-meta-*.log")
    assert said.startswith(f"hyper-meta: {type(error).__name__}: ") and said.count("\n") == 1
    assert "a fault" in said and f"please report it with {path}, " in said
    written = path.read_text()
    assert written.startswith("Traceback") and "in fail" in written and "a fault" in written
    # Where no file can be written, it goes to the terminal.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "in fail" in said and said.splitlines()[-1].endswith("please report it)")


def test_once_a_work_directory_has_a_log_the_traceback_of_a_fault_is_there(
    monkeypatch, tmp_path, capsys
):
    def fail(config, workdir, until, method):
        with logged(workdir):
            raise ValueError("a fault")

    monkeypatch.setattr(pipeline, "run", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert main(["run", "--config", QUICKSTART, "--workdir", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    path = tmp_path / "log.txt"
    assert said.count("\n") == 1 and f"please report it with {path}, " in said
    ended, traceback = path.read_text().split("\n", 1)
    assert ended.endswith("ended by ValueError: a fault")
    assert traceback.startswith("Traceback") and "in fail" in traceback


def test_pretrain(calls, tmp_path, capsys):
    argv = ["pretrain", "--config", str(CONFIGS / "encoder.py"), "--config.num_steps=50"]
    argv += ["--workdir", str(tmp_path / "w"), "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    config, workdir, out = calls[0]
    assert (config.num_steps, workdir, out) == (50, tmp_path / "w", tmp_path / "out")
    assert "91.3% (by chance 12.3%)" in capsys.readouterr().out
    # The same command goes on; another configuration is refused there.
    assert main(argv) == 0
    (tmp_path / "w/encoder/00000050").mkdir(parents=True)
    (tmp_path / "w/encoder/00000050/notes.json").write_text("{}")
    assert main([*argv, "--config.seed=1"]) == 2
    assert "seed=0, this command has seed=1" in capsys.readouterr().err
    assert len(calls) == 2


def test_pretrain_looks_at_its_target_first(calls, tmp_path, capsys):
    write(tmp_path / "out" / "model.safetensors", "precious")
    argv = ["pretrain", "--workdir", str(tmp_path / "w"), "--out", str(tmp_path / "out")]
    assert main([*argv, "--config", str(CONFIGS / "encoder.py")]) == 2
    assert f"{tmp_path}/out exists" in capsys.readouterr().err
    assert main([*argv, "--config", QUICKSTART]) == 2
    assert "not of an encoder" in capsys.readouterr().err
    assert not calls and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("cli"))


def test_from_a_sentence_to_a_table(workdir, tmp_path, capsys):
    out = tmp_path / "new" / "seven.safetensors"
    argv = ["generate", "--workdir", str(workdir), "--task", "Where is the red digit?"]
    assert main([*argv, "--samples", "2", "--seed", "7", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {out}: a network of 137 weights by hnet_hyperldm and the 2 samples" in printed
    expected = r"expected accuracy \d\d%, give or take 12 \(a network without language: 50%\)"
    assert re.search(expected, printed) and "warning" not in printed
    weights = load_weights(out)
    assert (weights.seed, weights.guidance_scale, len(weights.samples)) == (7, 1.5, 2)
    images = [str(path) for path in make_images(tmp_path, 3)]
    answers = ["--answers", "left, right,top"]
    assert main(["predict", "--weights", str(out), *answers, *images]) == 0
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert 'answers were read as "the red digit is {}"' in last
    assert header.split() == ["image", "answer", "probability"]
    for row, image in zip(rows, images, strict=True):
        name, answer, probability, *agreeing = row.split()
        assert name == image and answer in ("left", "right", "top")
        assert 1 / 3 <= float(probability) <= 1
        assert agreeing[1:] == ["of", "2", "samples", "agree"]


def test_a_sentence_that_the_model_does_not_know_is_warned_of(workdir, tmp_path, capsys):
    out = tmp_path / "dog.safetensors"
    argv = ["generate", "--workdir", str(workdir), "--task", "Is there a dog?", "--out", str(out)]
    assert main(argv) == 0
    *_, warning = capsys.readouterr().out.splitlines()
    told = "the words 'a' and 'dog' are in none of the 3 sentences that this model was "
    assert warning.startswith(f"warning: {told}")
    (image,) = make_images(tmp_path, 1)
    assert main(["predict", "--weights", str(out), "--answers", "yes,no", str(image)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == warning


def test_options_of_generate(workdir, tmp_path, capsys):
    out = tmp_path / "seven.safetensors"
    argv = ["generate", "--workdir", str(workdir), "--task", "Which?", "--out", str(out)]
    argv += ["--samples", "2", "--guidance-scale", "-0.5", "--template", "it is {}"]
    assert main(argv) == 0
    weights = load_weights(out)
    assert (weights.guidance_scale, weights.task) == (-0.5, "Which?")
    assert weights.templates == {"it is {}": []}
    assert main(argv) == 0
    np.testing.assert_array_equal(load_weights(out).samples, weights.samples)


def test_many_tasks_in_one_call(workdir, tmp_path, capsys, monkeypatch):
    """A file for each, the same as alone."""
    asked = ["Where is the red digit?", "How many digits are there?", "Which colour?"]
    (tmp_path / "tasks.txt").write_text(f"\ufeff{asked[1]}\n\n  {asked[2]} \r\n", "utf-8")
    argv = ["generate", "--workdir", str(workdir), "--seed", "7", "--task"]
    together = [*argv, asked[0], "--tasks", str(tmp_path / "tasks.txt")]
    assert main([*together, "--out", str(tmp_path / "new" / "networks")]) == 0
    out, err = capsys.readouterr()
    files = sorted((tmp_path / "new" / "networks").iterdir())
    names = ["1_where_is_the_red_digit", "2_how_many_digits_are_there", "3_which_colour"]
    assert [path.stem for path in files] == names
    assert "generate: 100%" in err and err.count("3/3") == 1
    for task, path in zip(asked, files, strict=True):
        assert f"{task}\nwrote {path}: a network" in out
        assert main([*argv, task, "--out", str(tmp_path / "alone")]) == 0
        assert (tmp_path / "alone").read_bytes() == path.read_bytes()
    # Again, into the files that are there, and without a bar.
    monkeypatch.setenv(QUIET, "")
    capsys.readouterr()
    assert main([*together, "--out", str(tmp_path / "new" / "networks"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_the_words_of_a_mistaken_option(capsys):
    for argv, message in (
        (["generate", "--workdir", "w", "--task", "q", "--out", "o", "--sample=3"], "--sample=3"),
        (["predict", "--answers", "a,b", "scene.png"], "required: --weights"),
        (["run", "--workdir"], "--workdir: expected one argument"),
        (["ruin"], "invalid choice: 'ruin'"),
        ([], "required: COMMAND"),
        (["generate", "--workdir", "w", "--out", "o"], "--task or --tasks are required"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        line = capsys.readouterr().err
        assert stopped.value.code == 2 and message in line and "--help)" in line
        assert line.count("\n") == 1
    assert main(["run", "--workdir", "w", "--config", QUICKSTART, "--seed=3"]) == 2
    assert "unknown argument --seed=3" in capsys.readouterr().err


def test_flat_names():
    nested = ConfigDict({"a": {"b": {"c": 1}}, "d": (1, 2)})
    assert configuration.flatten(nested.to_dict()) == {"a.b.c": 1, "d": (1, 2)}


def test_a_command_that_computes_does_not_import_torch():
    script = """
import sys
from hyper_meta.cli.main import hide_torch
hide_torch()
from hyper_meta.workflows import run
from transformers import CLIPImageProcessorPil
assert not {name for name in sys.modules if name.split(".")[0] == "torch"}
import torch
hide_torch()
assert sys.modules["torch"] is torch
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_enough_is_no_error(monkeypatch, capsys):
    """`hyper-meta methods | head -1`"""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["methods"]) == 141
        print("more")
    assert capsys.readouterr().err == ""


def test_a_terminal_that_cannot_show_a_letter(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(shown, encoding="ascii"))
    assert main(["run", "--workdir", "zürich"]) == 2
    sys.stderr.flush()
    assert b"z\\xfcrich holds no run" in shown.getvalue()


def test_the_environments_settings_of_jax_are_set_back(tmp_path):
    others = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    others |= {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_RANDOM_SEED_OFFSET": "5"}
    code = """
from hyper_meta.cli.main import main
main(["run", "--workdir", "none"])
import jax
print(jax.config.jax_enable_x64, jax.config.jax_default_prng_impl, jax.random.key(0))
print(jax.config.jax_numpy_dtype_promotion)
"""
    run = [sys.executable, "-c", code]
    environments = [{name: os.environ[name] for name in os.environ if name not in others}]
    environments.append(environments[0] | others)
    seen = [
        subprocess.run(run, env=each, capture_output=True, text=True, check=True, cwd=tmp_path)
        for each in environments
    ]
    assert seen[0].stdout == seen[1].stdout and "False threefry2x32" in seen[0].stdout
