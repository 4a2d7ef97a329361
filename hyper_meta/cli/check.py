"""`hyper-meta check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hyper_meta.cli.parser import OVERRIDES, Command, Work, printable, refuse_others

if TYPE_CHECKING:
    from hyper_meta.core.settings import RunSettings

HELP = """\
examples:
  hyper-meta check photos/
  hyper-meta check photos/ --all > findings.txt

  as a run of this configuration reads it:
  hyper-meta check photos/ --config configs/own_tasks.py --config.own_tasks.test_share=0.3

A folder of tasks holds pictures and tasks.csv, tasks.jsonl or tasks.parquet, a row for each
labelled picture:
  task      a sentence, such as "What is the man riding on?"
  image     a path in the folder, of any kind of picture that Pillow reads
  answer    such as horse
and, if you like, the same in all rows of a task,
  split     train, validation or test; else drawn
  template  an answer sentence such as "the man rides on a {}"
  concept   the same for tasks that ask one thing in other words
  group, family    for reports
  answers   all candidates, separated by |; else those that occur
and of a row
  subset    support or query; else drawn for each answer

Exit code 2 where something has to be mended before a run.

"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.core.configuration import load_settings
    from hyper_meta.data.own_tasks.table import find_table

    config = None
    if arguments.config:
        config = load_settings(arguments.config, Path(), others)
    else:
        refuse_others(arguments, others)
    find_table(Path(arguments.folder))
    return lambda: _print(arguments, config)


def _print(arguments: argparse.Namespace, config: RunSettings | None) -> None:
    from hyper_meta.core.errors import UserError
    from hyper_meta.preparation.check import DEFAULTS, VALIDATION_SHARE, check_folder

    lines, num_mistakes = check_folder(
        Path(arguments.folder),
        (config and config.own_tasks) or DEFAULTS,
        validation_share=config.validation_share if config else VALIDATION_SHARE,
        shows_all=arguments.all,
    )
    for line in lines:  # one each, whatever a cell holds
        print(printable(line))
    if num_mistakes:
        mistakes = "1 mistake" if num_mistakes == 1 else f"{num_mistakes:,} mistakes"
        raise UserError(f"{arguments.folder} has {mistakes} to mend before a run")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="with pictures and a table")
    parser.add_argument("--all", action="store_true", help="every finding, not the first of a kind")
    parser.add_argument(
        "--config", metavar="FILE", help="whose own_tasks section says how tasks are drawn"
    )


COMMAND = Command(
    "check",
    "say what a folder of your own tasks holds, and what is wrong",
    HELP + OVERRIDES,
    _add_options,
    _check,
    computes=False,
)
