"""`hyper-meta prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import OVERRIDES, Command, Work, add_config

HELP = """\
examples:
  hyper-meta prepare --config configs/meta_vqa.py --data-dir data
  hyper-meta run --config configs/meta_vqa.py --config.data_dir=data --workdir runs/meta_vqa

  with files that were downloaded elsewhere, and another encoder:
  hyper-meta prepare --config configs/meta_vqa.py --data-dir data --manual-dir ~/downloads \\
      --config.encoder=openai/clip-vit-base-patch32

  with questions read by a sentence encoder, and the states of their tokens:
  hyper-meta prepare --config configs/meta_vqa.py --data-dir data \\
      --config.question_encoder=sentence-transformers/all-mpnet-base-v2 --config.question_tokens

It says first which files it needs, how large they are, and whether they fit on the disk. Stop it
whenever you like: the same command goes on. What is downloaded is checked by its SHA-256.

"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.core.configuration import load_settings

    config = load_settings(arguments.config, Path(), others)
    data_dir = Path(arguments.data_dir or config.data_dir).expanduser()
    manual_dir = arguments.manual_dir and Path(arguments.manual_dir)

    def work() -> None:
        from hyper_meta.core.compilation import keep_programs
        from hyper_meta.preparation.prepare import prepare
        from hyper_meta.workflows.run import check_choices

        check_choices(config)
        keep_programs(config.compilation_cache)
        prepare(config, data_dir, manual_dir)

    return work


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where data go; left out, config.data_dir"
    )
    parser.add_argument(
        "--manual-dir", metavar="DIR", help="with files that are there already, zipped or unpacked"
    )


COMMAND = Command(
    "prepare",
    "build the data set of a configuration and encode its images and sentences",
    HELP + OVERRIDES,
    _add_options,
    _check,
)
