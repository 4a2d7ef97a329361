"""What a command tells while it works: a bar on stderr, one at a time, and the log of a work
directory."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hyper_meta.core import processes
from hyper_meta.core.arguments import QUIET

LOG_FILE = "log.txt"
LOG = logging.getLogger("hyper_meta")


def progress_bar(
    iterable: Iterable | None = None, *, disable: bool = False, **settings: Any
) -> tqdm:
    """A tqdm of process 0, unless QUIET is set. On a terminal it is live, in a file it has two
    lines a minute.

    disable, settings: of tqdm.
    """
    return tqdm(
        iterable,
        file=sys.stderr,
        mininterval=0.1 if sys.stderr.isatty() else 30,
        disable=disable or bool(os.environ.get(QUIET)) or not processes.is_main(),
        **settings,
    )


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Within, what is said to LOG goes to the end of LOG_FILE in a folder, with the time; so does
    the error that ends it, which gets the path of that file as its attribute `log_file`. Where
    nothing can be written, nothing is said."""
    path = folder / LOG_FILE
    try:
        handler = _Handler(path, encoding="utf-8", errors="backslashreplace")
    except OSError:
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    LOG.addHandler(handler)
    try:
        yield
    except BaseException as error:
        LOG.info("ended by %s", f"{type(error).__name__}: {error}")
        error.log_file = path  # type: ignore[attr-defined]
        raise
    finally:
        LOG.removeHandler(handler)
        handler.close()


class _Handler(logging.FileHandler):
    """Of a log that nothing depends on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk is told of where it matters."""
