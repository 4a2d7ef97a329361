"""From the rows of a folder's table to tasks, with all that is wrong with them and all that is left
out."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyper_meta.core.errors import UserError
from hyper_meta.core.settings.run import OwnTasksSettings
from hyper_meta.data.meta_vqa.split_files import families
from hyper_meta.data.own_tasks.alike import (
    answers_alike,
    missing_image,
    tasks_alike,
    unread_columns,
)
from hyper_meta.data.own_tasks.table import APART, OF_TASK, Finding, Row, Table
from hyper_meta.data.tasks import Task, concepts_of, hold_out

Example = tuple[str, int]  # an image, and the row of its answer


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of tasks as it was read.

    tasks: by split, "train", "validation" and "test", none where there are mistakes; images: the
    paths of images in rows that are files, each once; mistakes: what has to be mended first;
    remarks: what is left out, and what is worth knowing; unit: what a row of its table is called.
    """

    tasks: dict[str, list[Task]]
    images: list[str]
    mistakes: list[Finding]
    remarks: list[Finding]
    unit: str


class _Draft(NamedTuple):
    """A task with what its column says of its split, "" for nothing."""

    task: Task
    split: str


def make_tasks(
    folder: Path, table: Table, settings: OwnTasksSettings, *, validation_share: float
) -> Folder:
    """The tasks of a table. Nothing is raised: what is wrong is among the mistakes."""
    mistakes, remarks = list(table.mistakes), list(unread_columns(table.columns))
    images = {row.image: _is_file(folder / row.image) for row in table.rows}
    mistakes += _missing(folder, table.rows, images)
    by_task: dict[str, list[Row]] = {}
    for row in table.rows:
        by_task.setdefault(row.task, []).append(row)
    mistakes += answers_alike(by_task)
    remarks += tasks_alike(by_task)
    family = families(list(by_task))
    drafts = []
    for sentence, rows in by_task.items():
        rows, wrong, doubled = _consistent(rows)
        mistakes += wrong
        remarks += doubled
        if wrong:
            continue
        draft, left_out = _draft(sentence, rows, family[sentence], settings)
        remarks += left_out
        drafts += [draft] if draft else []
    remarks += _templates(drafts, by_task, settings)
    tasks: dict[str, list[Task]] = {}
    if not mistakes:
        try:
            tasks = _split(drafts, settings, validation_share)
        except UserError as error:
            mistakes.append(Finding("too few tasks", None, str(error)))
        remarks += _leaks(tasks)
    there = [image for image, is_file in images.items() if is_file]
    return Folder(tasks, there, sorted(mistakes, key=_order), remarks, table.unit)


def _order(finding: Finding) -> tuple[int, str]:
    return (finding.line or 0, finding.text)


def _missing(folder: Path, rows: Iterable[Row], is_file: dict[str, bool]) -> Iterator[Finding]:
    """Images that are no files, each at its first line."""
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.image, row.line)
    for image, line in first.items():
        if not is_file[image]:
            text = f"{image} is no regular file"
            if not os.path.exists(folder / image):
                text = missing_image(folder, image)
            yield Finding("missing images", line, text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _consistent(rows: list[Row]) -> tuple[list[Row], list[Finding], list[Finding]]:
    """(the rows of one task, each once; mistakes; remarks)."""
    mistakes, remarks, kept = [], [], {}
    first = rows[0]
    for row in rows:
        other = kept.setdefault(row.image, row)
        if other is not row:
            finding = _repeated(other, row)
            (remarks if finding.kind == SAME else mistakes).append(finding)
        for name, mine, theirs in zip(OF_TASK, row.about, first.about, strict=True):
            if mine != theirs:
                text = f"{name} {mine!r} of {row.task!r}, {theirs!r} at {first.line}"
                mistakes.append(Finding("values that differ within a task", row.line, text))
        if bool(row.subset) != bool(first.subset):
            text = f"subset {row.subset!r} of {row.task!r}, {first.subset!r} at {first.line}"
            mistakes.append(Finding("subsets for some rows of a task only", row.line, text))
    return list(kept.values()), mistakes, remarks


SAME = "rows that stand there twice, counted once"


def _repeated(one: Row, other: Row) -> Finding:
    """What is to be said of an image that comes again in its task."""
    where = f"{other.image} of {other.task!r}"
    if one.answer != other.answer:
        text = f"{where}: {other.answer!r}, and {one.answer!r} at {one.line}"
        return Finding("images with two answers to one task", other.line, text)
    if one.subset != other.subset:
        text = f"{where}, {one.subset} at {one.line}"
        return Finding("images in both support and query of a task", other.line, text)
    return Finding(SAME, other.line, f"{where}, as at {one.line}")


def _draft(
    sentence: str, rows: list[Row], family: str, settings: OwnTasksSettings
) -> tuple[_Draft | None, list[Finding]]:
    """(the task of its rows, None where they make none; what is left out)."""
    line, about = rows[0].line, dict(zip(OF_TASK, rows[0].about, strict=True))
    rng = np.random.default_rng([settings.seed, zlib.crc32(sentence.encode())])
    answers, rows, findings = _answers(sentence, rows, about["answers"])
    if len({row.answer for row in rows}) < 2:
        kind = "tasks with fewer than two answers, left out"
        return None, [*findings, Finding(kind, line, f"{sentence!r}")]
    support, query = _subsets(rng, rows, answers, settings)
    for name, part in (("support", support), ("query", query)):
        if not part:
            kind = f"tasks without {name} examples, left out"
            return None, [*findings, Finding(kind, line, f"{sentence!r}")]
    for answer in sorted({answer for _, answer in query} - {answer for _, answer in support}):
        text = f"{answers[answer]!r} of {sentence!r}"
        findings.append(Finding("answers in a query set that its support set lacks", line, text))
    task = Task(
        sentence=sentence,
        answers=tuple(answers),
        template=about["template"] or settings.template,
        family=about["family"] or family,
        group=about["group"] or about["split"] or "train",
        support=tuple(support),
        query=tuple(query),
        concept=about["concept"],
    )
    return _Draft(task, about["split"]), findings


def _answers(
    sentence: str, rows: list[Row], given: str
) -> tuple[list[str], list[Row], list[Finding]]:
    """(candidate answers, rows whose answer is one, what is left out).

    Where subsets are drawn, an answer that occurs once cannot be in both.
    """
    findings = []
    counts = collections.Counter(row.answer for row in rows)
    if not rows[0].subset:
        for row in rows:
            if counts[row.answer] == 1:
                text = f"{row.answer!r} of {sentence!r}"
                findings.append(Finding("answers seen once in a task, left out", row.line, text))
        rows = [row for row in rows if counts[row.answer] > 1]
    if not given:
        return sorted({row.answer for row in rows}, key=_natural), rows, findings
    answers = list(dict.fromkeys(part.strip() for part in given.split(APART) if part.strip()))
    listed = set(answers)
    for row in rows:
        if row.answer not in listed:
            text = f"{row.answer!r} of {sentence!r}"
            findings.append(Finding("answers that their list lacks, left out", row.line, text))
    return answers, [row for row in rows if row.answer in listed], findings


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts "2" before "10"."""
    parts = [part for part in re.split(r"([0-9]+)", text) if part]
    numbers = [part.lstrip("0") if part.isdecimal() and part.isascii() else None for part in parts]
    return [
        (0, 0, part) if number is None else (1, len(number), number)
        for part, number in zip(parts, numbers, strict=True)
    ]


def _subsets(
    rng: np.random.Generator, rows: list[Row], answers: list[str], settings: OwnTasksSettings
) -> tuple[list[Example], list[Example]]:
    """(support, query) as the rows say, else drawn; shuffled, if asked for."""
    number = {answer: place for place, answer in enumerate(answers)}
    examples = [(row.image, number[row.answer]) for row in rows]
    if not rows[0].subset:
        parts = _draw(rng, examples, settings.query_share)
    else:
        parts = (
            [e for e, row in zip(examples, rows, strict=True) if row.subset == "support"],
            [e for e, row in zip(examples, rows, strict=True) if row.subset == "query"],
        )
    if settings.shuffle:
        support, query = ([part[row] for row in rng.permutation(len(part))] for part in parts)
        return support, query
    return parts


def _draw(
    rng: np.random.Generator, examples: Sequence[Example], share: float
) -> tuple[list[Example], list[Example]]:
    """(support, query): the examples of each answer, two or more, divided by the share."""
    support, query = [], []
    of_answer: dict[int, list[Example]] = {}
    for example in examples:
        of_answer.setdefault(example[1], []).append(example)
    for _, mine in sorted(of_answer.items()):
        num_query = min(max(1, round(share * len(mine))), len(mine) - 1)
        chosen = set(rng.permutation(len(mine))[:num_query].tolist())
        query += [example for row, example in enumerate(mine) if row in chosen]
        support += [example for row, example in enumerate(mine) if row not in chosen]
    return support, query


def _templates(
    drafts: Sequence[_Draft], by_task: dict[str, list[Row]], settings: OwnTasksSettings
) -> Iterator[Finding]:
    place = OF_TASK.index("template")
    without = [d for d in drafts if not by_task[d.task.sentence][0].about[place]]
    if without:
        text = f"{len(without)} of {len(drafts)}: {settings.template!r} is taken"
        yield Finding("tasks without a template", None, text)


def _split(
    drafts: Sequence[_Draft], settings: OwnTasksSettings, validation_share: float
) -> dict[str, list[Task]]:
    """{"train" | "validation" | "test": tasks}, as their column says, and drawn where it names no
    validation or no test task. Raises UserError where a split would be empty."""
    if some := [draft for draft in drafts if not draft.split]:
        if len(some) < len(drafts):
            raise UserError(
                f"{len(some)} of {len(drafts)} tasks have no split, the first "
                f"{some[0].task.sentence!r}: give one to all tasks, or to none"
            )
    tasks: dict[str, list[Task]] = {"train": []}
    for draft in drafts:
        tasks.setdefault(draft.split or "train", []).append(draft.task)
    for split, share in (("test", settings.test_share), ("validation", validation_share)):
        if split not in tasks:
            _check_enough(tasks["train"], split, share)
            tasks |= hold_out(tasks["train"], share, seed=settings.seed, split=split)
    if not tasks["train"]:
        raise UserError('no task of the split "train" is left: add some')
    return {split: tasks[split] for split in ("train", "validation", "test")}


def _check_enough(tasks: Sequence[Task], split: str, share: float) -> None:
    """Raises UserError where a share of so few concepts is none, or all."""
    number = len(set(concepts_of(tasks)))
    if not 0 < round(share * number) < number:
        owner = "own_tasks.test_share" if split == "test" else "validation_share"
        raise UserError(
            f"{len(tasks)} tasks of {number} concepts are left, of which {owner}={share} draws no "
            f"{split} tasks, or all: add tasks, or say in a column split which are for {split}"
        )


def _leaks(tasks: dict[str, list[Task]]) -> Iterator[Finding]:
    """Test tasks are asked of pictures that training tasks have, with other questions."""
    seen = _images(tasks.get("train", ()), lambda task: (*task.support, *task.query))
    for split in ("validation", "test"):
        asked = _images(tasks.get(split, ()), lambda task: task.query)
        if both := asked & seen:
            text = f"{len(both):,} of {len(asked):,} of {split} tasks, such as {min(both)}"
            yield Finding("query images that are images of training tasks too", None, text)


def _images(tasks: Iterable[Task], part: Callable[[Task], Iterable[Example]]) -> set[str]:
    return {image for task in tasks for image, _ in part(task)}
