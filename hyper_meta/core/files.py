"""Files and folders that are complete or absent: written under another name and then renamed."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hyper_meta.core.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, replacing an existing one, or the one that a link leads to.

    Raises UserError where that fails, or there is anything but a regular file; what there is, is
    then unchanged.
    """
    path = _regular(path)
    with _partial_file(path) as partial:
        partial.write_bytes(content)
        partial.replace(path)


def _regular(path: Path) -> Path:
    """Where a link leads. Raises UserError for what is there and no regular file."""
    try:
        real = path.resolve()
        if real.is_dir():
            raise UserError(f"cannot write {path}: it is a folder")
        if real.exists() and not real.is_file():
            raise UserError(f"cannot write {path}: it is a device, a pipe or a socket, and no file")
    except (OSError, RuntimeError) as error:  # a loop of links
        raise UserError(f"cannot write {path}: {error}") from error
    return real


def check_replaceable(path: Path, kind: str, is_ours: Callable[[Path], bool]) -> None:
    """Raises UserError where write_bytes would replace what this program has not written, or cannot
    write. For use before a long computation.

    kind: what is to be written, in words; is_ours: whether an existing file is one.
    """
    check_writable(path)
    if path.exists() and not is_ours(path):
        raise UserError(
            f"{path} exists, and is not {kind} of hyper-meta: remove it, or choose another name"
        )


def check_exists(path: Path, name: str) -> None:
    """Raises UserError where there is no file. name: what the file is."""
    if path.is_file():
        return
    if path.is_dir():
        raise UserError(f"{name} {path} is a folder, a file is expected")
    if path.exists():
        raise UserError(f"{name} {path} is a device, a pipe or a socket, a file is expected")
    raise UserError(f"{name} {path} does not exist")


def reason(error: OSError) -> str:
    """What an operating system's error says, in words that help."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return "a file stands where a folder is expected, choose another place"
    return error.strerror or str(error)


def check_writable(path: Path) -> None:
    """Raises UserError where write_bytes cannot write path. For use before a long computation."""
    with _partial_file(_regular(path)) as partial:
        partial.touch()


@contextlib.contextmanager
def _partial_file(path: Path) -> Iterator[Path]:
    """The path of a temporary file beside path, deleted at the end of the context."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def whole_folder(path: Path, *, failure: str, is_new: bool = False) -> Iterator[Path]:
    """An empty folder beside path, which replaces path where the context ends without an error.

    is_new: whether path was checked by `check_empty` before; what has come into it since stays.
    Raises UserError that begins with the text `failure` where the file system refuses.
    """
    path = path.absolute()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if path.exists() and is_new:
            path.rmdir()
        elif path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except OSError as error:
        raise UserError(f"{failure}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Raises UserError for a folder that exists and is not empty, a file, a link, the folder where
    one is, and where nothing can be written. For use before a long computation."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists: remove it or choose another folder")
    if folder.is_symlink() or folder.resolve() == Path.cwd():
        raise UserError(f"{folder} is a link, or the folder where you are: choose another one")
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {folder}: {there} may not be written, choose another place")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON values, indented."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError where it is missing, not JSON, or has a key
    twice in one object: of two values none is right in silence."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged, it is not JSON: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the space around them. Raises UserError
    where it is missing, no file or no text."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file: a text file is expected")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{path} is no text in UTF-8: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for json's object_pairs_hook. Raises ValueError where a key stands in it
    twice."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{twice!r} stands in it twice")
    return unique


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in tree.items():
        name = prefix + key
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
