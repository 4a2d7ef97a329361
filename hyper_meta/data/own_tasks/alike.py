"""Texts of a table that differ only in what no encoder reads, and names that nearly fit."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hyper_meta.data.own_tasks.table import APART, COLUMNS, OF_TASK, Finding, Row

ANSWERS = OF_TASK.index("answers")  # in Row.about


def _plain(text: str) -> str:
    """As a tokenizer sees it: neither case, nor the number of spaces, nor what does not print."""
    shown = "".join(char for char in text if char.isprintable() or char.isspace())
    return " ".join(shown.split()).casefold()


def answers_alike(by_task: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """Answers of a task, in its rows and its list of candidates, that are one to an encoder, at
    their first lines."""
    for task, rows in by_task.items():
        listed = [part.strip() for part in rows[0].about[ANSWERS].split(APART) if part.strip()]
        given = [*((rows[0].line, part) for part in listed), *((r.line, r.answer) for r in rows)]
        lines: dict[str, int] = {}
        for line, answer in given:
            lines.setdefault(answer, line)
        first: dict[str, str] = {}
        for answer, line in lines.items():
            other = first.setdefault(_plain(answer), answer)
            if other != answer:
                text = f"{answer!r} of {task!r}, {other!r} at {lines[other]}"
                yield Finding("answers that differ only in case or spaces", line, text)


def tasks_alike(by_task: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """Tasks that ask the same but for case, spaces or the mark at the end."""
    first: dict[str, str] = {}
    for task, rows in by_task.items():
        other = first.setdefault(_plain(task).rstrip("?!. "), task)
        if other != task:
            text = f"{task!r}, {other!r} at {by_task[other][0].line}"
            kind = "tasks that differ only in case, spaces or the last mark"
            yield Finding(kind, rows[0].line, text)


def unread_columns(columns: Sequence[str]) -> Iterator[Finding]:
    """Columns that have no meaning here, with the name that may be meant."""
    for name in columns:
        if name not in COLUMNS:
            unused = [known for known in COLUMNS if known not in columns]
            near = difflib.get_close_matches(name.strip().lower(), unused, n=1, cutoff=0.75)
            meant = f" (did you mean {near[0]}?)" if near else ""
            yield Finding("columns that are not read", None, f"{name or 'without a name'}{meant}")


def missing_image(folder: Path, image: str) -> str:
    """A path that leads nowhere, with the one that may be meant."""
    path, others = folder / image, []
    if "\\" in image:
        return f"{image} (write / between folders)"
    with contextlib.suppress(OSError):
        others = [other.name for other in path.parent.iterdir()]
    same = [name for name in others if name.casefold() == path.name.casefold()]
    return f"{image} (there is {same[0]})" if same else image
