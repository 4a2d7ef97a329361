"""A folder of one's own tasks as a data set."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json, reason, write_json
from hyper_meta.core.settings.run import OwnTasksSettings
from hyper_meta.data.own_tasks.table import Finding, read_table
from hyper_meta.data.own_tasks.tasks import Folder, make_tasks
from hyper_meta.data.source import Source

NAME = "own_tasks"
FEATURES = "features"  # the folder in it that holds what is computed from it
INDEX = f"{NAME}-images.json"  # there: {image: [size, two times of change, SHA-256]}


def read_folder(folder: Path, settings: OwnTasksSettings, *, validation_share: float) -> Folder:
    """The tasks of a folder, with all that is wrong with it. Raises UserError where it has no table
    that can be read."""
    return make_tasks(folder, read_table(folder), settings, validation_share=validation_share)


def open_folder(folder: Path, settings: OwnTasksSettings, *, validation_share: float) -> Source:
    """The data set of a folder. Says on stderr what is left out of it.

    Raises UserError where something in it has to be mended first.
    """
    read = read_folder(folder, settings, validation_share=validation_share)
    check = f"hyper-meta check {folder} lists all"
    if read.mistakes:
        first, others = read.mistakes[0], len(read.mistakes) - 1
        more = f", and {others} more mistakes" if others else ""
        raise UserError(f"{folder}: {describe(first, read.unit)}{more}: {check}")
    if told := [_in_short(kind, found) for kind, found in by_kind(read.remarks).items()]:
        print(f"hyper-meta: in {folder}: {'; '.join(told)} ({check})", file=sys.stderr)
    used = {
        image
        for part in read.tasks.values()
        for task in part
        for image, _ in (*task.support, *task.query)
    }
    images = sorted(used)
    hashes = _hashes(folder, images)
    digest = hashlib.sha256(repr(sorted(read.tasks.items())).encode())
    for image in images:
        digest.update(f"{image} {hashes[image]} ".encode())
    return Source(
        name=NAME,
        tasks=read.tasks,
        fingerprint=digest.hexdigest(),
        num_images=len(images),
        read_images=lambda start: _read_known(folder, images[start:], hashes),
        image_hashes=hashes,
        read_named=lambda names: _read_known(folder, names, hashes),
    )


def describe(finding: Finding, unit: str) -> str:
    """One line: where, what, and which."""
    where = f"{unit} {finding.line}: " if finding.line else ""
    return f"{where}{finding.kind}: {finding.text}"


def by_kind(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """The findings under their headings."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds


def _in_short(kind: str, found: Sequence[Finding]) -> str:
    """How many there are, or what is said of the whole table."""
    texts = [finding.text for finding in found if finding.line is None]
    return f"{kind}: {', '.join(texts) or f'{len(found):,}'}"


def read_images(folder: Path, images: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(path in the folder, content) of each image. Raises UserError where one cannot be read."""
    for image in images:
        yield image, _bytes(folder / image)


def _read_known(
    folder: Path, images: Sequence[str], hashes: dict[str, str]
) -> Iterator[tuple[str, bytes]]:
    """The same, of files that are those of the hashes still."""
    for image, content in read_images(folder, images):
        if hashlib.sha256(content).hexdigest() != hashes[image]:
            raise UserError(f"{folder / image} changed while it was read: run again")
        yield image, content


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {reason(error)}") from error


def _hashes(folder: Path, images: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each image; files that have not changed since are not read again."""
    index = folder / FEATURES / INDEX
    known = _known(index)
    found: dict[str, list] = {}
    for image in images:
        mark = _mark(folder / image)
        old = known.get(image, [])
        if old[:-1] != mark:
            old = [*mark, hashlib.sha256(_bytes(folder / image)).hexdigest()]
        found[image] = old
    if found != known:
        write_json(index, found)
    return {image: str(mark[-1]) for image, mark in found.items()}


def _mark(path: Path) -> list[int]:
    """What changes with a file: its size, and when its content and its entry were changed."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {reason(error)}") from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _known(index: Path) -> dict[str, list]:
    """What an index says, nothing where it is missing or damaged."""
    try:
        content = read_json(index) if index.exists() else {}
    except UserError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        image: mark
        for image, mark in content.items()
        if isinstance(mark, list) and len(mark) == 4 and isinstance(mark[-1], str)
    }
