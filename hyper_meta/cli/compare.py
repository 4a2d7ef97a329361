"""`hyper-meta compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hyper_meta.cli.parser import Command, Work, refuse_others

if TYPE_CHECKING:
    from hyper_meta.eval.compare import Tested

HELP = """\
examples:
  hyper-meta compare runs/quickstart runs/seed1

  only some rows, by their ids (in results.json) or by their titles in the report:
  hyper-meta compare runs/quickstart runs/seed1 --rows hnet_multitask hnet_language

  a row of B against another row of A (A and B may be one run):
  hyper-meta compare runs/quickstart runs/quickstart \\
      --rows hnet_language --against conditional

Tasks are matched by their sentence. Right answers are averaged over the seeds of a run first; the
intervals are 95% bootstrap intervals over concepts (a concept may be asked in several tasks, in
other words), and say nothing about another seed.
"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    refuse_others(arguments, others)

    from hyper_meta.eval.compare import read_tested

    a, b = (read_tested(Path(run)) for run in (arguments.a, arguments.b))
    return lambda: _compare(a, b, arguments)


def _compare(a: Tested, b: Tested, arguments: argparse.Namespace) -> None:
    from hyper_meta.eval import compare
    from hyper_meta.eval.tables import as_text

    comparison = compare.compare(
        a,
        b,
        rows=arguments.rows,
        against=arguments.against,
        num_resamples=compare.NUM_RESAMPLES,
    )
    print("\n".join(compare.remarks(comparison)), end="\n\n")
    print(as_text(compare.comparison_table(comparison)))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="work directory of a finished run")
    parser.add_argument("b", metavar="B", help="of another; differences are B minus A")
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help="ids or titles, of B; left out, all that both have"
    )
    parser.add_argument(
        "--against", metavar="ROW", help="id or title, of A; left out, the same row as of B"
    )


COMMAND = Command(
    "compare",
    "compare two finished runs on the test tasks that they share",
    HELP,
    _add_options,
    _check,
)
