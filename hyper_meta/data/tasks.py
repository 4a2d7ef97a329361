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
    # Not among what is printed, of which the fingerprint of a data set is the hash: no training
    # sees a concept. Which tasks it keeps together in a split is in the hash.
    concept: str = dataclasses.field(default="", repr=False)

    def prompts(self) -> list[str]:
        """The template filled with each answer (plainly: an answer may hold braces)."""
        return [self.template.replace("{}", answer) for answer in self.answers]


def concepts_of(tasks: Sequence[Task]) -> list[str]:
    """The concept of each task, its sentence where it has none: tasks of one concept are no
    independent examples of what a method can do."""
    return [task.concept or task.sentence for task in tasks]


def hold_out(
    tasks: Sequence[Task], share: float, *, seed: int, split: str = "validation"
) -> dict[str, list[Task]]:
    """{"train" | split: tasks}: a share in (0, 1) of the concepts of training tasks, drawn by the
    seed alone, with all their tasks; the group of these, "train", is then the split. Raises
    UserError where either would be empty."""
    concepts = concepts_of(tasks)
    names = list(dict.fromkeys(concepts))
    num_chosen = round(share * len(names)) if 0 < share < 1 else 0
    if not 0 < num_chosen < len(names):
        raise UserError(
            f"{split}_share={share} of {len(tasks)} training tasks given, a share in (0, 1) that "
            f"leaves tasks for both training and {split} is expected"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[row] for row in order[:num_chosen]}
    parts: dict[str, list[Task]] = {"train": [], split: []}
    for task, concept in zip(tasks, concepts, strict=True):
        if concept not in chosen:
            parts["train"].append(task)
        else:
            group = split if task.group == "train" else task.group
            parts[split].append(dataclasses.replace(task, group=group))
    return parts


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
