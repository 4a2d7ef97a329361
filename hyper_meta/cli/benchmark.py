"""`hyper-meta benchmark`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import OVERRIDES, Command, Work, add_config

HELP = """\
examples:
  hyper-meta benchmark --config configs/benchmark.py --out benchmark.json

  two kinds of work only, at other sizes:
  hyper-meta benchmark --config configs/benchmark.py --only hyperldm ddim \\
      --config.hyperldm.hidden_dim=256

Everything is timed warm, three times or for 20 seconds, and the median counts. The columns: work a
second; the floating-point operations of its matrix products a second, and that as a share of the
speed of one large matrix product here; the bytes of those products' operands and results; memory
at its peak; programs compiled the first time and later; seconds of compilation.

"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.core.configuration import load_settings
    from hyper_meta.core.files import check_replaceable
    from hyper_meta.core.settings import BenchmarkSettings

    config = load_settings(arguments.config, Path(), others, BenchmarkSettings)
    out = Path(arguments.out) if arguments.out else None
    if out is not None:
        check_replaceable(out, "a file of figures", _is_of_figures)

    def work() -> None:
        from hyper_meta.workflows.benchmark import benchmark

        benchmark(config, arguments.only, out)

    return work


def _is_of_figures(path: Path) -> bool:
    from hyper_meta.core.errors import UserError
    from hyper_meta.core.files import read_json

    try:
        figures = read_json(path)
    except UserError:
        return False
    return isinstance(figures, dict) and {"machine", "work"} <= figures.keys()


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="work whose name holds one of these"
    )
    parser.add_argument("--out", metavar="FILE", help="a JSON file for the figures")


COMMAND = Command(
    "benchmark",
    "measure how fast every stage is on this machine",
    HELP + OVERRIDES,
    _add_options,
    _check,
)
