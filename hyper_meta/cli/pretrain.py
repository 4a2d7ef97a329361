"""`hyper-meta pretrain`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import Command, Work, add_config, add_workdir

HELP = """\
example:
  hyper-meta pretrain --config configs/encoder.py --workdir runs/encoder --out runs/digits_clip

  then use it in place of the bundled one:
  hyper-meta run --config configs/quickstart.py --workdir runs/own_encoder \\
      --config.encoder=runs/digits_clip

Every setting of the config file can be overridden, in its own type: --config.num_steps=100
"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.core.configuration import load_settings
    from hyper_meta.core.settings import EncoderSettings

    workdir, out = Path(arguments.workdir), Path(arguments.out)
    config = load_settings(arguments.config, workdir, others, EncoderSettings)
    _check_out(out)

    def work() -> None:
        from hyper_meta.workflows.pretrain_encoder import pretrain_encoder
        from hyper_meta.workflows.run import claim

        claim(config, workdir)
        measured = pretrain_encoder(config, workdir, out)
        print(
            f"wrote {out}: the sentence nearest to an unseen scene is true of it in "
            f"{measured['retrieval']:.1f}% (by chance {measured['chance']:.1f}%)"
        )

    return work


def _check_out(out: Path) -> None:
    """Raises UserError for a folder that holds something, or cannot be written."""
    from hyper_meta.core.errors import UserError
    from hyper_meta.core.files import check_writable

    if not out.exists():
        check_writable(out)
    elif not out.is_dir() or any(out.iterdir()):
        raise UserError(f"{out} exists: remove it or choose another --out")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_config(parser, stored=True)
    add_workdir(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="where the encoder goes")


COMMAND = Command("pretrain", "train an encoder: a small CLIP", HELP, _add_options, _check)
