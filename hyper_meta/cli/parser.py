"""What every command shares: its parser, its options, and how a mistaken option is answered."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Any, NoReturn

USAGE_ERROR = 2
# Options whose own check says what is expected in place of nothing.
SAID = ("template", "answers")

OVERRIDES = """\
Every setting of the config file can be overridden, in its own type; the file explains them all:
  --config.hyperldm_tokens.guidance_scale=2
  --config.hnet.inner_learning_rate=0.1
  --config.evaluate.guidance_scales=1,2,4
"""

# The work of a command, to be called once its arguments have been checked.
Work = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of `hyper-meta`.

    name: on the command line; purpose: one line for the list of commands; epilog: examples, and
    what else --help teaches; add_options: adds the command's options to its parser. check:
    (arguments, all others of the command line) -> Work; raises UserError or SystemExit before
    anything is computed, and imports little, so that a mistake is answered at once. computes:
    whether its work uses jax. shows_progress: whether it has a progress bar.
    """

    name: str
    purpose: str
    epilog: str
    add_options: Callable[[argparse.ArgumentParser], None]
    check: Callable[[argparse.Namespace, list[str]], Work]
    computes: bool = True
    shows_progress: bool = True


def make_parser(
    commands: tuple[Command, ...], *, description: str, epilog: str
) -> argparse.ArgumentParser:
    """The parser of all commands; parsed arguments have `command`, `prog` and its options."""
    parser = _Parser(prog="hyper-meta", description=description, epilog=epilog)
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version")
    places = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        place = places.add_parser(
            command.name,
            help=command.purpose,
            description=f"{command.purpose[0].upper()}{command.purpose[1:]}.",
            epilog=command.epilog,
        )
        place.set_defaults(command=command, prog=place.prog)
        command.add_options(place)
        if command.shows_progress:
            place.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


class _Parser(argparse.ArgumentParser):
    """Keeps the lines of examples, takes no abbreviations, and answers a mistake in one line."""

    def __init__(self, **settings: Any) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(**settings, formatter_class=layout, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        usage_error(self.prog, message)


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import hyper_meta

        print(f"hyper-meta {hyper_meta.__version__}")
        parser.exit()


def usage_error(prog: str, message: str) -> NoReturn:
    """Ends with one line on stderr. prog: the command whose --help explains more."""
    complain(f"{message} (see {prog} --help)")
    raise SystemExit(USAGE_ERROR)


def complain(message: str) -> None:
    """One line on stderr."""
    print("hyper-meta:", one_line(message), file=sys.stderr)


def one_line(message: str) -> str:
    """The message with single spaces, `printable`."""
    return printable(" ".join(message.split()))


def printable(text: str) -> str:
    """The text on one line, what would move the cursor of a terminal as its code."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def refuse_empty(arguments: argparse.Namespace) -> None:
    """Ends with a message where an option is given without a value, as with an unset variable of a
    shell."""
    for name, value in vars(arguments).items():
        if value == "" and name not in SAID:
            option = "--" + name.replace("_", "-")
            usage_error(arguments.prog, f"argument {option}: it is empty, a value is expected")


def refuse_others(arguments: argparse.Namespace, others: list[str]) -> None:
    """Ends with a message where the command line holds what a command without overrides ignores."""
    if others:
        usage_error(arguments.prog, f"unknown argument {others[0]}")


def add_config(parser: argparse.ArgumentParser, *, stored: bool = False) -> None:
    """--config; stored: it may be left out for that of the work directory."""
    text = "Python file with get_config()"
    if stored:
        text += "; left out, that of the work directory"
    parser.add_argument("--config", required=not stored, metavar="FILE", help=text)


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """--workdir of a command that can be stopped and goes on."""
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="where results go, and where it resumes"
    )
