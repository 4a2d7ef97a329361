"""Which settings the training of each method reads, noted while it runs and kept beside what it
leaves: a sweep takes over what another combination trained where all that was read is equal.

A setting that is read while a program is compiled counts as well, since it is read through the same
record. It is written before the program runs, so that a training that is killed and restored later,
without compiling again, has lost nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hyper_meta.core import processes
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json, write_json

FOLDER = "reads"  # in that of a seed


@dataclasses.dataclass(frozen=True)
class Reads:
    """What is noted of one seed.

    folder: of the seed; noted: {method: {dotted name of a setting: value as JSON has it}};
    makers: {(kind, key) of `interface.remember`: the method whose training made it};
    running: the method that is being trained, or nothing.
    """

    folder: Path
    noted: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    makers: dict[Any, str] = dataclasses.field(default_factory=dict)
    running: list[str] = dataclasses.field(default_factory=list)


def reads_path(seed_folder: Path, method: str) -> Path:
    """Where the settings that a method's training read are kept."""
    return seed_folder / FOLDER / f"{method}.json"


@contextlib.contextmanager
def while_training(reads: Reads, method: str) -> Iterator[None]:
    """What is read in this context is noted for the method, with what an earlier process noted."""
    path = reads_path(reads.folder, method)
    reads.noted[method] = processes.from_main(lambda: _read(path) if path.exists() else {})
    reads.running.append(method)
    try:
        yield
    finally:
        reads.running.pop()
    # A method that reads nothing has a file too.
    _keep(reads, method)


def note(reads: Reads, name: str, value: Any) -> None:
    """Notes a setting for the method that is being trained, if one is."""
    if not reads.running:
        return
    method = reads.running[-1]
    value = json.loads(json.dumps(value))
    if name not in reads.noted[method] or reads.noted[method][name] != value:
        reads.noted[method][name] = value
        _keep(reads, method)


def note_made(reads: Reads, key: Any) -> None:
    """Notes which method made what is remembered by a (kind, key)."""
    if reads.running:
        reads.makers[key] = reads.running[-1]


def note_taken(reads: Reads, key: Any) -> None:
    """Notes for the method that is being trained all that the one read which made what it takes."""
    maker = reads.makers.get(key)
    if maker is not None:
        for name, value in reads.noted[maker].items():
            note(reads, name, value)


def _keep(reads: Reads, method: str) -> None:
    if processes.is_main():
        write_json(reads_path(reads.folder, method), reads.noted[method])


def take_over(source: Path, target: Path, method: str) -> None:
    """Notes in the folder of one seed what a method's training read in that of another."""
    noted = _read(reads_path(source, method))
    if reads_path(target, method).exists():
        noted |= _read(reads_path(target, method))
    write_json(reads_path(target, method), noted)


def are_equal(seed_folder: Path, methods: Iterable[str], settings: Mapping[str, Any]) -> bool:
    """Whether all of these methods were trained in the folder of a seed, and all that they read is
    equal to settings: {dotted name: value as JSON has it}."""
    for method in methods:
        path = reads_path(seed_folder, method)
        # A name that no setting has is of another version.
        if not path.exists() or any(
            name not in settings or settings[name] != value for name, value in _read(path).items()
        ):
            return False
    return True


def was_read(seed_folder: Path, name: str) -> bool:
    """Whether any training in the folder of a seed read a setting."""
    return any(name in _read(path) for path in (seed_folder / FOLDER).glob("*.json"))


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged, it holds no settings: remove {path.parents[1]}")
    return content
