"""The rows of the tables: their kinds, the ids that the report knows, and how a row is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# Ids of the rows that others are compared with, where they are there.
CLIP = "clip"
MULTITASK = "hnet_multitask"
NEAREST = "nearest_latent"

# Kinds of rows, in the order of the table: what a row knows of the task that it answers.
KINDS = {
    "reference": "references",
    "unconditional": "without language, before any adaptation",
    "language": "from the sentence alone",
    "control": "controls: what language has to beat",
    "few-shot": "saw the support set, so not zero-shot",
}


@dataclasses.dataclass(frozen=True)
class RowRecord:
    """A scored row, as scores.json has it.

    id: how files and commands know it.
    title: for display only.
    kind: one of KINDS.
    varies: what its settings are settings of, or None.
    chosen: the setting that validation tasks chose, "" where nothing is tuned.
    maps_question_directly: whether it is a conditional hypernetwork.
    """

    id: str
    title: str
    kind: str
    varies: str | None
    chosen: str
    maps_question_directly: bool


def row_record(saved: Mapping[str, Any]) -> RowRecord:
    """The record of its JSON values. Raises KeyError where one is missing."""
    return RowRecord(**{field.name: saved[field.name] for field in dataclasses.fields(RowRecord)})


def find_row(name: str, titles: Mapping[str, str]) -> str | None:
    """The id of the row that a user means by its id or its title; None where there is none.

    titles: {id: title}, no title twice.
    """
    if name in titles:
        return name
    return next((row for row, title in titles.items() if title == name), None)
