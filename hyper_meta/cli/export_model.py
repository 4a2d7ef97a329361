"""`hyper-meta export-model`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import Command, Work, refuse_others

HELP = """\
examples:
  hyper-meta export-model --workdir runs/quickstart --out digits-model
  hyper-meta generate --model digits-model --task "Colour of the top left digit?" \\
      --out colour.safetensors

  of another method than the best on validation tasks, and to the Hugging Face Hub as well (with the
  token of `hf auth login`):
  hyper-meta export-model --workdir runs/quickstart --method hnet_language --out digits-model \\
      --push-to-hub you/digits-model

in Python:
  from hyper_meta import load_model
  load_model("runs/quickstart").save_pretrained("digits-model")
  load_model("digits-model")

The folder holds safetensors, JSON and README.md, a card to read and to complete. An encoder that is
a folder comes along; one of the Hub is named with its revision.
"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    refuse_others(arguments, others)

    from hyper_meta.core.configuration import stored_settings
    from hyper_meta.core.files import check_empty

    stored_settings(Path(arguments.workdir))
    check_empty(Path(arguments.out))
    return lambda: _export(arguments)


def _export(arguments: argparse.Namespace) -> None:
    from hyper_meta.generation.model import load_model
    from hyper_meta.generation.saved_model import check_repo

    if arguments.push_to_hub:
        check_repo(arguments.push_to_hub)
    model = load_model(arguments.workdir, arguments.method)
    model.save_pretrained(arguments.out)
    print(f"wrote {arguments.out}: {model.guide.name}, with its card in README.md")
    if arguments.push_to_hub:
        model.push_to_hub(arguments.push_to_hub)
        print(f"pushed to https://huggingface.co/{arguments.push_to_hub}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a finished run")
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="a language method of the run (hyper-meta methods lists all); left out, the best on "
        "validation tasks",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="new, or empty")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload it as well")


COMMAND = Command(
    "export-model",
    "write a trained model to a folder that can be handed on",
    HELP,
    _add_options,
    _check,
)
