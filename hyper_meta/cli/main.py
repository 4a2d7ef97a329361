"""The commands. `hyper-meta --help` lists them, `hyper-meta COMMAND --help` teaches by example.

What a command needs is imported once its arguments and its configuration have been checked, so
that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import errno
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hyper_meta.cli import help_texts

USAGE_ERROR = 2
# A shell's code for a process that a signal ended.
INTERRUPTED, TERMINATED = (128 + number for number in (signal.SIGINT, signal.SIGTERM))
# What a file system may refuse without being asked wrongly by this program.
REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}

# Large arrays come and go at every step: on a CPU a quarter of a MAML step goes into asking for
# their memory in pages of 4 KiB. The C library reads this when a process starts.
HUGE_PAGES = "glibc.malloc.hugetlb=1"

PIPELINE_COMMANDS = {
    "run": "run everything, from the data to the report",
    "train": "train the methods of the configuration, or one of them and what it needs",
    "evaluate": "train, then score all methods",
    "report": "train, score, then write the report",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 2 for a mistake of the user, 130 or 143 where a
    signal stopped it. A mistake is one line on stderr.

    argv: None for those of this process, which then starts over with HUGE_PAGES. Raises SystemExit
    for --help and for arguments that are no command.
    """
    if argv is None:
        _start_over_with_huge_pages()
    _quiet()
    parser = _make_parser()
    arguments, extra = parser.parse_known_args(argv)
    try:
        return arguments.command_fn(arguments, extra)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        return _complain(_message(error), code)


def _start_over_with_huge_pages() -> None:
    """On Linux, unless the caller has tunables of their own; does nothing the second time."""
    if sys.platform == "linux" and sys.orig_argv and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _quiet() -> None:
    """Keeps the libraries' remarks off the terminal, before they are imported."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "tensorflow_datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _exit_code(error: Exception) -> int | None:
    """The exit code for what is no fault of this program, else None."""
    from hyper_meta.core.errors import UserError

    if isinstance(error, UserError):
        return USAGE_ERROR
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return USAGE_ERROR
    # Whoever raised an Interrupted has imported its module.
    loop = sys.modules.get("hyper_meta.train.loop")
    if loop and isinstance(error, loop.Interrupted):
        return TERMINATED if signal.SIGTERM.name in str(error) else INTERRUPTED
    return None


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _complain(message: str, code: int) -> int:
    print("hyper-meta:", " ".join(message.split()), file=sys.stderr)
    return code


def _run(arguments: argparse.Namespace, extra: list[str]) -> int:
    from hyper_meta.core.configuration import load_config

    workdir = Path(arguments.workdir)
    _check_processes(arguments)
    config = load_config(arguments.config, workdir, extra)

    if arguments.distributed or arguments.coordinator:
        from hyper_meta.core import processes

        processes.connect(arguments.coordinator, arguments.num_processes, arguments.process_id)

    from hyper_meta.workflows import run as pipeline

    last = "report" if arguments.command == "run" else arguments.command
    pipeline.run(config, workdir, until=last, method=getattr(arguments, "method", None))
    return 0


def _check_processes(arguments: argparse.Namespace) -> None:
    """Ends with a message where only some of what joins processes by hand is given, or nonsense."""
    by_hand = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if by_hand == (None, None, None):
        return
    if None in by_hand:
        _argument_error(
            arguments.prog, "--coordinator, --num-processes and --process-id are given together"
        )
    _, number, process = by_hand
    if not 0 <= process < number:
        _argument_error(
            arguments.prog,
            f"--process-id {process} of --num-processes {number}: 0 to {number - 1} is expected",
        )


def _benchmark(arguments: argparse.Namespace, extra: list[str]) -> int:
    from hyper_meta.core.configuration import load_config
    from hyper_meta.core.files import check_writable

    config = load_config(arguments.config, Path(), extra)
    out = Path(arguments.out) if arguments.out else None
    if out is not None:
        check_writable(out)

    from hyper_meta.workflows.benchmark import benchmark

    benchmark(config, arguments.only, out)
    return 0


def _pretrain(arguments: argparse.Namespace, extra: list[str]) -> int:
    from hyper_meta.core.configuration import load_config
    from hyper_meta.core.errors import UserError
    from hyper_meta.core.files import check_writable

    workdir, out = Path(arguments.workdir), Path(arguments.out)
    config = load_config(arguments.config, workdir, extra)
    if "vocab_size" not in config:
        raise UserError(
            "this configuration is not of an encoder: take one such as configs/encoder.py"
        )
    if not out.exists():
        check_writable(out)
    elif not out.is_dir() or any(out.iterdir()):
        raise UserError(f"{out} exists: remove it or choose another --out")

    from hyper_meta.workflows.pretrain_encoder import pretrain_encoder
    from hyper_meta.workflows.run import claim

    claim(config, workdir)
    measured = pretrain_encoder(config, workdir, out)
    print(
        f"wrote {out}: the sentence nearest to an unseen scene is true of it in "
        f"{measured['retrieval']:.1f}% (by chance {measured['chance']:.1f}%)"
    )
    return 0


def _prepare(arguments: argparse.Namespace, extra: list[str]) -> int:
    from hyper_meta.core.configuration import load_config

    config = load_config(arguments.config, Path(), extra)

    from hyper_meta.preparation.prepare import prepare
    from hyper_meta.workflows.run import check_choices, use_compilation_cache

    check_choices(config)
    use_compilation_cache(config)
    data_dir = Path(arguments.data_dir or config.data_dir).expanduser()
    manual_dir = arguments.manual_dir and Path(arguments.manual_dir)
    prepare(config, data_dir, manual_dir)
    return 0


def _generate(arguments: argparse.Namespace, extra: list[str]) -> int:
    from hyper_meta.core import arguments as check
    from hyper_meta.core.files import check_writable

    _refuse_extra(arguments, extra)
    check.check_task(arguments.task)
    check.check_seed(arguments.seed)
    if arguments.samples is not None:
        check.check_num_samples(arguments.samples)
    if arguments.guidance_scale is not None:
        check.check_guidance_scale(arguments.guidance_scale)
    if arguments.template is not None:
        check.check_template(arguments.template)
    check_writable(Path(arguments.out))

    from hyper_meta.generation.generate import generate, load_model, save_weights

    weights = generate(
        load_model(arguments.workdir),
        arguments.task,
        num_samples=arguments.samples,
        guidance_scale=arguments.guidance_scale,
        template=arguments.template,
        seed=arguments.seed,
    )
    save_weights(arguments.out, weights)
    num_samples, size = weights.samples.shape
    print(
        f"wrote {arguments.out}: a network of {size:,} weights and the {num_samples} samples "
        f"behind it, guidance scale {weights.guidance_scale:g}"
    )
    return 0


def _predict(arguments: argparse.Namespace, extra: list[str]) -> int:
    from hyper_meta.core import arguments as check

    _refuse_extra(arguments, extra)
    answers = [answer.strip() for answer in arguments.answers.split(",")]
    check.check_answers(answers)
    if arguments.template is not None:
        check.check_template(arguments.template)

    from hyper_meta.generation.generate import load_weights, predict

    weights = load_weights(arguments.weights)
    result = predict(weights, arguments.images, answers=answers, template=arguments.template)
    num_samples = len(weights.samples)
    rows = [("image", "answer", "probability", "")]
    for image, answer, probability, share in zip(
        arguments.images,
        result.answer,
        result.probabilities.max(axis=1),
        result.agreement,
        strict=True,
    ):
        agreeing = f"{round(share * num_samples)} of {num_samples} samples agree"
        rows.append((image, answer, f"{probability:.2f}", agreeing))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print(f'answers were read as "{result.template}" (--template changes it)')
    return 0


def _compare(arguments: argparse.Namespace, extra: list[str]) -> int:
    _refuse_extra(arguments, extra)

    from hyper_meta.eval import compare
    from hyper_meta.eval.tables import as_text

    a, b = (compare.read_tested(Path(run)) for run in (arguments.a, arguments.b))
    comparison = compare.compare(
        a,
        b,
        rows=arguments.rows,
        against=arguments.against,
        num_resamples=compare.NUM_RESAMPLES,
    )
    print("\n".join(compare.remarks(comparison)), end="\n\n")
    print(as_text(compare.comparison_table(comparison)))
    return 0


def _sweep(arguments: argparse.Namespace, extra: list[str]) -> int:
    from hyper_meta.workflows.grid import plan

    combinations = plan(Path(arguments.config), arguments.grid, extra)
    workdir = Path(arguments.workdir)

    from hyper_meta.eval.tables import as_text
    from hyper_meta.workflows import sweep

    lines = sweep.run(combinations, workdir, rows=arguments.row)

    print(as_text(sweep.sweep_table(lines)), end="\n\n")
    print(sweep.NOTE)
    print(f"sweep: {workdir / 'sweep.md'}")
    return 0


def _refuse_extra(arguments: argparse.Namespace, extra: list[str]) -> None:
    if extra:
        _argument_error(arguments.prog, f"unknown argument {extra[0]}")


def _argument_error(prog: str, message: str) -> NoReturn:
    _complain(f"{message} (see {prog} --help)", USAGE_ERROR)
    raise SystemExit(USAGE_ERROR)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hyper-meta",
        description="From a sentence to the weights of a classifier.",
        epilog=help_texts.MAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = functools.partial(_argument_error, parser.prog)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, purpose in PIPELINE_COMMANDS.items():
        epilog = {"run": help_texts.RUN, "train": help_texts.TRAIN}.get(name, help_texts.STEP)
        command = _add_command(
            commands, name, purpose, _run, epilog.format(step=name) + help_texts.OVERRIDES
        )
        _add_config(command)
        _add_processes(command)
        if name == "train":
            command.add_argument("--method", metavar="NAME", help="left out, all of the config")
    _add_prepare(commands)
    command = _add_command(
        commands, "pretrain", "train an encoder: a small CLIP", _pretrain, help_texts.PRETRAIN
    )
    _add_config(command)
    command.add_argument("--out", required=True, metavar="DIR", help="where the encoder goes")
    _add_generate(commands)
    _add_predict(commands)
    _add_compare(commands)
    _add_sweep(commands)
    _add_benchmark(commands)
    return parser


def _add_command(
    commands: Any, name: str, purpose: str, command_fn: Callable, epilog: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.error = functools.partial(_argument_error, command.prog)
    command.set_defaults(command=name, command_fn=command_fn, prog=command.prog)
    return command


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        metavar="FILE",
        help="Python file with get_config(); left out, that of the work directory",
    )
    command.add_argument(
        "--workdir", required=True, metavar="DIR", help="where results go, and where it resumes"
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
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


def _add_prepare(commands: Any) -> None:
    purpose = "build the data set of a configuration and encode its images and sentences"
    command = _add_command(
        commands, "prepare", purpose, _prepare, help_texts.PREPARE + help_texts.OVERRIDES
    )
    command.add_argument(
        "--config", required=True, metavar="FILE", help="Python file with get_config()"
    )
    command.add_argument(
        "--data-dir", metavar="DIR", help="where data go; left out, config.data_dir"
    )
    command.add_argument(
        "--manual-dir", metavar="DIR", help="with files that are there already, zipped or unpacked"
    )


def _add_benchmark(commands: Any) -> None:
    purpose = "measure how fast every stage is on this machine"
    command = _add_command(
        commands, "benchmark", purpose, _benchmark, help_texts.BENCHMARK + help_texts.OVERRIDES
    )
    command.add_argument(
        "--config", required=True, metavar="FILE", help="Python file with get_config()"
    )
    command.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="work whose name holds one of these"
    )
    command.add_argument("--out", metavar="FILE", help="a JSON file for the figures")


def _add_generate(commands: Any) -> None:
    purpose = "generate the weights of a network from a sentence"
    command = _add_command(commands, "generate", purpose, _generate, help_texts.GENERATE)
    command.add_argument("--workdir", required=True, metavar="DIR", help="of a finished run")
    command.add_argument("--task", required=True, metavar="SENTENCE", help="the question")
    command.add_argument(
        "--samples",
        type=int,
        metavar="K",
        help="how many, best an even number, since their noise comes in opposite pairs; left out, "
        "as many as were evaluated",
    )
    command.add_argument("--out", required=True, metavar="FILE", help="a safetensors file")
    command.add_argument(
        "--guidance-scale",
        type=float,
        metavar="S",
        help="0 ignores the sentence, more holds to it closer; left out, the best on validation "
        "tasks",
    )
    command.add_argument(
        "--template",
        metavar="SENTENCE",
        help="how an answer is read, with {} in its place; left out, predict takes the one of "
        "training that knows its answers",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (0)")


def _add_predict(commands: Any) -> None:
    purpose = "answer a question about images with generated weights"
    command = _add_command(commands, "predict", purpose, _predict, help_texts.PREDICT)
    command.add_argument("--weights", required=True, metavar="FILE", help="of hyper-meta generate")
    command.add_argument(
        "--answers", required=True, metavar="A,B,...", help="candidates, separated by commas"
    )
    command.add_argument(
        "--template",
        metavar="SENTENCE",
        help="left out, the one that knows the answers",
    )
    command.add_argument("images", nargs="+", metavar="IMAGE", help="PNG or JPEG, of any size")


def _add_compare(commands: Any) -> None:
    purpose = "compare two finished runs on the test tasks that they share"
    command = _add_command(commands, "compare", purpose, _compare, help_texts.COMPARE)
    command.add_argument("a", metavar="A", help="work directory of a finished run")
    command.add_argument("b", metavar="B", help="of another; differences are B minus A")
    command.add_argument(
        "--rows", nargs="+", metavar="ROW", help="of B; left out, all that both runs have"
    )
    command.add_argument(
        "--against", metavar="ROW", help="of A, for each row of B; left out, the row of that name"
    )


def _add_sweep(commands: Any) -> None:
    purpose = "run every combination of a grid of settings, and rank them on validation tasks"
    command = _add_command(
        commands, "sweep", purpose, _sweep, help_texts.SWEEP + help_texts.OVERRIDES
    )
    command.add_argument(
        "--config", required=True, metavar="FILE", help="Python file with get_config()"
    )
    command.add_argument(
        "--workdir", required=True, metavar="DIR", help="where a folder for each run goes"
    )
    command.add_argument(
        "--grid",
        required=True,
        action="append",
        metavar="NAME=A,B,...",
        help="a setting and its values; several --grid: every combination",
    )
    command.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="ROW",
        help="of the report; left out, each run's best from the sentence alone, on validation",
    )


if __name__ == "__main__":
    sys.exit(main())
