"""Tasks: the record every data set gives, and which of them are for validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from hyper_meta.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """One task as a data set gives it.

    sentence: the question; answers: candidate answers; template: sentence with {} for an answer;
    family, group: for reports; support, query: [(image id, index into answers), ...]; concept:
    what is asked, whatever the wording, "" where no other task asks it (see `concepts_of`).
    """

    sentence: str
    answers: tuple[str, ...]
    template: str
    family: str
    group: str
    support: tuple[tuple[str, int], ...]
    query: tuple[tuple[str, int], ...]
    # Not among what is printed, of which `datasets.dataset_fingerprint` is the hash: a concept
    # follows from the sentence, and no training sees it.
    concept: str = dataclasses.field(default="", repr=False)

    def prompts(self) -> list[str]:
        """The template filled with each answer (plainly: an answer may hold braces)."""
        return [self.template.replace("{}", answer) for answer in self.answers]


def concepts_of(tasks: Sequence[Task]) -> list[str]:
    """The concept of each task, its sentence where it has none: tasks of one concept are no
    independent examples of what a method can do."""
    return [task.concept or task.sentence for task in tasks]


def hold_out(tasks: Sequence[Task], share: float, *, seed: int) -> dict[str, list[Task]]:
    """{"train" | "validation": tasks}: a share in (0, 1) of training tasks for validation, drawn by
    the seed alone and of the group "validation". Raises UserError where either would be empty."""
    num_validation = round(share * len(tasks)) if 0 < share < 1 else 0
    if not 0 < num_validation < len(tasks):
        raise UserError(
            f"validation_share={share} of {len(tasks)} training tasks given, a share in (0, 1) "
            "that leaves tasks for both training and validation is expected"
        )
    chosen = set(np.random.default_rng(seed).permutation(len(tasks))[:num_validation].tolist())
    return {
        "train": [task for row, task in enumerate(tasks) if row not in chosen],
        "validation": [
            dataclasses.replace(task, group="validation")
            for row, task in enumerate(tasks)
            if row in chosen
        ],
    }


def without_images(tasks: Sequence[Task], missing: Collection[str]) -> list[Task]:
    """The tasks without the examples of some images, and without those that keep no support or no
    query example."""
    kept = []
    for task in tasks:
        support, query = (
            tuple(item for item in part if item[0] not in missing)
            for part in (task.support, task.query)
        )
        if support and query:
            kept.append(dataclasses.replace(task, support=support, query=query))
    return kept
