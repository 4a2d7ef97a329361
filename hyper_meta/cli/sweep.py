"""`hyper-meta sweep`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import OVERRIDES, Command, Work, add_config

HELP = """\
examples:
  hyper-meta sweep --config configs/quickstart.py --workdir runs/sweep \\
      --grid hyperldm_tokens.drop_rate=0.1,0.2 --grid hyperldm_tokens.hidden_dim=128,256 \\
      --row language_hyperldm_tokens

  alternatives of a setting that is a tuple are separated by semicolons; two rows of the report:
  hyper-meta sweep --config configs/quickstart.py --workdir runs/sweep_rates \\
      --grid "hyperldm_tokens.learning_rates=0.001;0.0003,0.001" --config.num_seeds=2 \\
      --row language_hyperldm_tokens --row language_hyperldm_tokens.mean_of_logits

Every combination is a run in a folder of the work directory. What a setting does not touch is
trained once. Stop it with Ctrl-C whenever you like: the same command goes on, and one with more
values only runs what is new. Choose by the validation tasks, that is what they are for.

"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.workflows.grid import plan

    combinations = plan(Path(arguments.config), arguments.grid, others)
    workdir = Path(arguments.workdir)

    def work() -> None:
        from hyper_meta.eval.tables import as_text
        from hyper_meta.workflows import sweep

        lines = sweep.run_sweep(combinations, workdir, rows=arguments.row)
        print(as_text(sweep.sweep_table(lines)), end="\n\n")
        print(sweep.NOTE)
        print(f"sweep: {workdir / 'sweep.md'}")

    return work


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="where a folder for each run goes"
    )
    parser.add_argument(
        "--grid",
        required=True,
        action="append",
        metavar="NAME=A,B,...",
        help="a setting and its values; several --grid: every combination",
    )
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="ROW",
        help="id or title; left out, each run's best from the sentence alone, on validation",
    )


COMMAND = Command(
    "sweep",
    "run every combination of a grid of settings, and rank them on validation tasks",
    HELP + OVERRIDES,
    _add_options,
    _check,
)
