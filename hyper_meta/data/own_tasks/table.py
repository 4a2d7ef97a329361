"""The table of a folder of tasks, one row for each labelled picture: tasks.csv, tasks.jsonl (one
object a line) or tasks.parquet.

Columns: task (a sentence), image (a path relative to the folder), answer. Optional, of a row:
subset ("support" or "query"). Optional, of a task, the same in all its rows: split ("train",
"validation", "test"), template (an answer sentence with {}), group and family (for reports),
concept (the same for tasks that ask one thing in other words), answers (all candidates in their
order, a list or separated by "|").
"""

from __future__ import annotations

import contextlib
import csv
import json
import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import reason, unique_keys

REQUIRED = ("task", "image", "answer")
OF_TASK = ("split", "template", "family", "group", "concept", "answers")
COLUMNS = (*REQUIRED, "subset", *OF_TASK)
CHOICES = {"subset": ("support", "query"), "split": ("train", "validation", "test")}
TABLES = (".csv", ".json", ".jsonl", ".ods", ".parquet", ".tsv", ".xls", ".xlsx")
SEPARATOR = "|"  # of candidate answers in a text; a list of JSON or Parquet needs none
APART = "\x1f"  # of those of a Row


class Row(NamedTuple):
    """One example of a task. line: of the file, from 1; about: the values of OF_TASK, "" for
    none."""

    line: int
    task: str
    image: str
    answer: str
    subset: str
    about: tuple[str, ...]


class Finding(NamedTuple):
    """Something that is wrong with a folder, or worth knowing. kind: a heading; line: of the table,
    None for none."""

    kind: str
    line: int | None
    text: str


class Table(NamedTuple):
    """path: of the file; rows: those that can be read; mistakes: what is wrong with the others;
    columns: all names in the file; unit: what a row is called, "line" or "row"."""

    path: Path
    rows: list[Row]
    mistakes: list[Finding]
    columns: tuple[str, ...]
    unit: str


def read_table(folder: Path) -> Table:
    """The table of a folder. Raises UserError where there is none, there are two, or it cannot be
    read at all."""
    path = find_table(folder)
    try:
        columns, records = READERS[path.name](path)
        _check_columns(path, columns)
        rows, mistakes, known = [], [], {}
        for line, record in records:
            row = record if isinstance(record, Finding) else _row(line, record, known)
            (mistakes if isinstance(row, Finding) else rows).append(row)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise UserError(f"{path} is no text in UTF-8 ({byte}): save it as CSV in UTF-8") from error
    if not rows and not mistakes:
        raise UserError(f"{path} has no rows: one for each labelled picture is expected")
    return Table(path, rows, mistakes, columns, "row" if path.suffix == ".parquet" else "line")


def find_table(folder: Path) -> Path:
    """The table of a folder. Raises UserError where there is none, or two."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: a folder with {_names()} is expected")
    found = [folder / name for name in READERS if (folder / name).exists()]
    if not found:
        tables = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in TABLES)
        there = f", but {', '.join(tables[:3])}" if tables else ""
        raise UserError(f"{folder} has no {_names()}{there}: its columns are {', '.join(REQUIRED)}")
    if len(found) > 1:
        raise UserError(f"{folder} has {found[0].name} and {found[1].name}: keep one of them")
    if not found[0].is_file():
        raise UserError(f"{found[0]} is no file")
    return found[0]


def _names() -> str:
    *most, last = READERS
    return f"{', '.join(most)} or {last}"


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    if missing := [name for name in REQUIRED if name not in columns]:
        hint = ""
        if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
            hint = ", separated by commas"
        elif {name.lower() for name in columns}.issuperset(REQUIRED):
            hint = ", in lower case"
        raise UserError(
            f"{path} has the columns {', '.join(columns) or '(none)'} and lacks "
            f"{', '.join(missing)}: {', '.join(REQUIRED)} are expected{hint}"
        )
    for name in COLUMNS:
        if columns.count(name) > 1:
            raise UserError(f"{path} has the column {name} twice: keep one of them")


Records = Iterator[tuple[int, "dict[str, Any] | Finding"]]


def _read_csv(path: Path) -> tuple[tuple[str, ...], Records]:
    lines = _csv_lines(path)
    _, header = next(lines, (0, []))
    columns = tuple(name.strip() for name in header)

    def records() -> Records:
        for line, cells in lines:
            if isinstance(cells, Finding):
                yield line, cells
            elif len(cells) != len(columns):
                text = f"{len(cells)} cells, where the header has {len(columns)}"
                yield line, Finding("rows of another length than the header", line, text)
            else:
                yield line, dict(zip(columns, cells, strict=True))

    return columns, records()


def _csv_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, cells) of what is not blank, the last perhaps a Finding."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # what follows has lost its place
                yield line, Finding("damaged CSV", line, f"{error}, and the rest is not read")
                return
            if cells:
                yield line, cells


def _read_jsonl(path: Path) -> tuple[tuple[str, ...], Records]:
    records, columns = [], {}
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                record = json.loads(text, object_pairs_hook=unique_keys)
                if not isinstance(record, dict):
                    raise ValueError("an object is expected")
                columns |= dict.fromkeys(record)
            except (ValueError, RecursionError) as error:
                record = Finding("lines that are no JSON object", line, str(error))
            records.append((line, record))
    if not columns:
        return REQUIRED, iter(records)
    return tuple(columns), iter(records)


def _read_parquet(path: Path) -> tuple[tuple[str, ...], Records]:
    import pyarrow
    from pyarrow import parquet

    @contextlib.contextmanager
    def readable() -> Iterator[None]:
        try:
            yield
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            raise UserError(f"{path} is damaged, it is no Parquet: {error}") from error

    with readable():
        columns = tuple(parquet.ParquetFile(path).schema_arrow.names)

    def records() -> Records:
        known = [name for name in COLUMNS if name in columns]
        with readable():
            rows = parquet.read_table(path, columns=known).to_pylist()
        yield from enumerate(rows, 1)

    return columns, records()


READERS: dict[str, Callable[[Path], tuple[tuple[str, ...], Records]]] = {
    "tasks.csv": _read_csv,
    "tasks.jsonl": _read_jsonl,
    "tasks.parquet": _read_parquet,
}


def _row(line: int, record: dict[str, Any], known: dict[tuple, tuple]) -> Row | Finding:
    """The row of a record, or what is wrong with it. known: values of OF_TASK that were seen, each
    kept once."""
    values = {}
    for name in COLUMNS:
        value = _text(name, record.get(name))
        if value is None:
            text = f"{name} is {record[name]!r}, a text is expected"
            return Finding("values that are no text", line, text)
        values[name] = value
    if empty := [name for name in REQUIRED if not values[name]]:
        return Finding("empty cells", line, f"without {' and '.join(empty)}")
    for name, choices in CHOICES.items():
        if values[name] and values[name] not in choices:
            text = f"{name} is {values[name]!r}, one of {', '.join(choices)} is expected"
            return Finding(f"unknown {name}s", line, text)
    if values["template"] and "{}" not in values["template"]:
        text = f"{values['template']!r} has no {{}} in the place of the answer"
        return Finding("templates without a place", line, text)
    image = posixpath.normpath(values["image"])
    if image.startswith(("/", "../")) or image in (".", "..") or "\0" in image:
        text = f"{values['image']!r}, a path inside the folder is expected"
        return Finding("images outside the folder", line, text)
    about = tuple(values[name] for name in OF_TASK)
    about = known.setdefault(about, about)
    return Row(line, values["task"], image, values["answer"], values["subset"], about)


def _text(name: str, value: Any) -> str | None:
    """A cell as a text without space around it; "" for none, None for what is no text."""
    if value is None:
        return ""
    if name == "answers" and isinstance(value, list):
        parts = [_text("answer", part) for part in value]
        return None if None in parts else APART.join(part or "" for part in parts)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    return value.strip().replace(SEPARATOR, APART) if name == "answers" else value.strip()
