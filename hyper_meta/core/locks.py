"""A work directory belongs to one process at a time, and so does a folder in which data are
prepared."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json, reason, write_bytes

LOCK, HOLDER = ".lock", ".holder.json"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, which it makes; they are let in however this one ends.

    Raises UserError, which says who holds it, where another process does. On a file system without
    locks nobody is kept out.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is in use by {_holder(folder)}: wait for it, stop it, or choose another "
            "--workdir"
        ) from None
    except NotImplementedError:
        yield
        return
    except OSError as error:
        raise UserError(f"cannot write {folder}: {reason(error)}") from error
    try:
        try:
            write_bytes(folder / HOLDER, _me())
        except UserError:
            (folder / LOCK).unlink()  # nothing is left where nothing can be written
            raise
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """As `held`, but waits for another process, and says so. Where nothing can be written, nobody
    else writes either."""
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        print(f"hyper-meta: {_holder(folder)} prepares data in {folder}: waiting", file=sys.stderr)
        lock.acquire()
    except (NotImplementedError, OSError):
        yield
        return
    try:
        with contextlib.suppress(UserError):
            write_bytes(folder / HOLDER, _me())
        yield
    finally:
        lock.release()


def _me() -> bytes:
    return json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode()


def _holder(folder: Path) -> str:
    try:
        record = read_json(folder / HOLDER)
        return f"process {record['process']} of {record['host']}"
    except (UserError, KeyError, TypeError):
        return "another process"
