"""`hyper-meta import-tasks`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import Command, Work, refuse_others, usage_error

HELP = """\
examples:
  hyper-meta import-tasks HuggingFaceM4/VQAv2 --answer multiple_choice_answer --out vqa
  hyper-meta check vqa

  a data set that lies in a folder, its first 100,000 rows:
  hyper-meta import-tasks downloads/my-vqa --split validation --rows 100000 --out vqa

Every question with enough pictures and two answers or more becomes a task. The data set is
streamed: nothing but the pictures of these tasks is kept. No code of a data set is run. Needs the
package `datasets`: pip install 'hyper_meta[datasets]'.
"""


MOST_ROWS = 10**12


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    refuse_others(arguments, others)

    from hyper_meta.core.files import check_empty

    for option in ("fewest", "rows"):
        number = getattr(arguments, option)
        if number is not None and not 2 <= number <= MOST_ROWS:
            usage_error(arguments.prog, f"--{option} {number} given, 2 or more are expected")
    check_empty(Path(arguments.out))
    return lambda: _import(arguments)


def _import(arguments: argparse.Namespace) -> None:
    from hyper_meta.data.own_tasks.hugging_face import Origin, write_tasks

    origin = Origin(
        source=arguments.source,
        subset=arguments.subset,
        split=arguments.split,
        image=arguments.image,
        question=arguments.question,
        answer=arguments.answer,
        most=arguments.rows,
    )
    written = write_tasks(origin, Path(arguments.out), fewest=arguments.fewest)
    print(
        f"wrote {arguments.out}: {written.tasks:,} tasks with {written.examples:,} examples of "
        f"{written.images:,} images"
    )
    for reason, count in written.left_out.items():
        if count:
            print(f"  left out: {count:,} rows {reason}")
    print(f"next: hyper-meta check {arguments.out}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="NAME", help="OWNER/NAME on the Hub, or a folder")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="new, or empty")
    parser.add_argument("--split", metavar="NAME", help="train, if left out")
    parser.add_argument("--subset", metavar="NAME", help="a data set's configuration, if several")
    for column in ("image", "question", "answer"):
        text = f"the column, {column}, if left out"
        parser.add_argument(f"--{column}", default=column, metavar="COLUMN", help=text)
    parser.add_argument(
        "--fewest", type=int, default=20, metavar="N", help="pictures of a task: 20"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="read the first N; left out, all")


COMMAND = Command(
    "import-tasks",
    "turn a visual question answering data set of Hugging Face into a folder of tasks",
    HELP,
    _add_options,
    _check,
    computes=False,
)
