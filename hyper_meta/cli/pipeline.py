"""`hyper-meta run`, and its steps `train`, `evaluate` and `report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import (
    OVERRIDES,
    Command,
    Work,
    add_config,
    add_workdir,
    usage_error,
)

RUN_HELP = """\
examples:
  hyper-meta run --config configs/quickstart.py --workdir runs/quickstart

  the same with another seed and a fixed guidance scale, in a work directory of its own:
  hyper-meta run --config configs/quickstart.py --workdir runs/seed1 \\
      --config.seed=1 --config.hyperldm_tokens.guidance_scale=2

  go on with a run that was stopped, its configuration is in its work directory:
  hyper-meta run --workdir runs/quickstart

Stop it with Ctrl-C whenever you like: it saves where it is, and the same command goes on.

"""

TRAIN_HELP = """\
examples:
  hyper-meta train --config configs/quickstart.py --workdir runs/quickstart

  one method with what it needs, and no other:
  hyper-meta train --workdir runs/quickstart --method language_hyperldm_tokens

hyper-meta methods lists the methods.

"""

STEP_HELP = """\
examples:
  hyper-meta {step} --config configs/quickstart.py --workdir runs/quickstart

  on a run that is there already, what is finished is only restored:
  hyper-meta {step} --workdir runs/quickstart

"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.core.configuration import load_settings
    from hyper_meta.methods.names import check_names

    workdir = Path(arguments.workdir)
    _check_processes(arguments)
    config = load_settings(arguments.config, workdir, others)
    method = getattr(arguments, "method", None)
    check_names((*config.methods, *([] if method is None else [method])))

    def work() -> None:
        if arguments.distributed or arguments.coordinator:
            from hyper_meta.core import processes

            processes.connect(arguments.coordinator, arguments.num_processes, arguments.process_id)

        from hyper_meta.workflows import run as pipeline

        name = arguments.command.name
        last = "report" if name == "run" else name
        names = pipeline.run(config, workdir, until=last, method=method)
        _tell(name, names, workdir)

    return work


def _tell(step: str, names: list[str], workdir: Path) -> None:
    """What was done, where the report does not say it."""
    from hyper_meta.core import processes

    done = {"train": "trained", "evaluate": "trained and scored"}
    if step in done and processes.is_main():
        following = {"train": "evaluate", "evaluate": "report"}[step]
        print(f"{done[step]} in {workdir}: {', '.join(names)}")
        print(f"next: hyper-meta {following} --workdir {workdir}")


def _check_processes(arguments: argparse.Namespace) -> None:
    """Ends with a message where only some of what joins processes by hand is given, or nonsense."""
    by_hand = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if by_hand == (None, None, None):
        return
    if None in by_hand:
        usage_error(
            arguments.prog, "--coordinator, --num-processes and --process-id are given together"
        )
    _, number, process = by_hand
    if not 0 <= process < number:
        usage_error(
            arguments.prog,
            f"--process-id {process} of --num-processes {number}: 0 to {number - 1} is expected",
        )


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_config(parser, stored=True)
    add_workdir(parser)
    group = parser.add_argument_group(
        "several processes", "the same command in each; launch/README.md says how on which machine"
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="they find each other (Cloud TPU, Slurm, Open MPI, Kubernetes)",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="by hand: where process 0 listens"
    )
    group.add_argument("--num-processes", type=int, metavar="N", help="by hand: of the whole run")
    group.add_argument("--process-id", type=int, metavar="I", help="by hand: of this one, from 0")


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    _add_options(parser)
    parser.add_argument("--method", metavar="NAME", help="left out, all of the config")


COMMANDS = (
    Command(
        "run",
        "run everything, from the data to the report",
        RUN_HELP + OVERRIDES,
        _add_options,
        _check,
    ),
    Command(
        "train",
        "train the methods of the configuration, or one of them and what it needs",
        TRAIN_HELP + OVERRIDES,
        _add_train_options,
        _check,
    ),
    Command(
        "evaluate",
        "train, then score all methods",
        STEP_HELP.format(step="evaluate") + OVERRIDES,
        _add_options,
        _check,
    ),
    Command(
        "report",
        "train, score, then write the report",
        STEP_HELP.format(step="report") + OVERRIDES,
        _add_options,
        _check,
    ),
)
