"""Reader of the files in which the authors published Meta-VQA.

- meta_train.json, meta_test.json: {question: {"train": [[image id, answer], ...], "test": [...],
  "answers": [answer, ...]}}; "train" is the support set, "test" the query set. Files of one's own
  may give a "concept": the same string for questions that ask for one thing in other words.
- prompt_meta.json: {question: template with {} for the answer}; it may have more questions than
  there are tasks.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyper_meta.core.files import read_json
from hyper_meta.core.types import UserError
from hyper_meta.data.tasks import Task

SUBSETS = {"support": "train", "query": "test"}
SMALLEST_FAMILY = 20  # questions


def read_tasks(train: Path, test: Path, templates: Path) -> dict[str, list[Task]]:
    """{"train" | "test": tasks} of the three files, in their order.

    Raises:
      UserError: a file is malformed; the message names the file and the question.
    """
    splits = {"train": _read_object(train), "test": _read_object(test)}
    known = _read_object(templates)
    if both := sorted(splits["train"].keys() & splits["test"].keys()):
        raise UserError(
            f"{train.parent} has {len(both)} questions among both training and test tasks, the "
            f"first {both[0]!r}: remove them from one"
        )
    return make_tasks(splits, known.get, origin=str(train.parent))


def make_tasks(
    splits: Mapping[str, Mapping[str, Any]], template_of: Callable[[str], Any], *, origin: str
) -> dict[str, list[Task]]:
    """{split: tasks}. The group of a task is its split, its family is its kind of question.

    Args:
      splits: {split: {question: record}}, records as in the files.
      template_of: question -> its template.
      origin: the source of the records, for messages.

    Raises:
      UserError: a record is malformed; the message names the origin and the question.
    """
    family = families([question for records in splits.values() for question in records])
    tasks: dict[str, list[Task]] = {}
    for split, records in splits.items():
        tasks[split] = []
        for question, record in records.items():
            try:
                answers, support, query = _parse(record)
                template, concept = _template(template_of(question)), _concept(record)
            except ValueError as error:
                raise UserError(
                    f"task {question!r} of {origin} {error}: correct its files"
                ) from error
            task = Task(
                *(question, answers, template, family[question], split, support, query, concept)
            )
            tasks[split].append(task)
    return tasks


def families(questions: Sequence[str]) -> dict[str, str]:
    """{question: kind}, its first two words in lower case ("how many", "what color").

    Kinds of fewer than SMALLEST_FAMILY questions are "other".
    """
    kinds = {text: " ".join(text.lower().rstrip("? ").split()[:2]) for text in questions}
    sizes = collections.Counter(kinds.values())
    return {
        text: kind if sizes[kind] >= SMALLEST_FAMILY else "other" for text, kind in kinds.items()
    }


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no questions, {{question: ...}} is expected")
    return content


def _parse(record: Any) -> tuple[tuple, tuple, tuple]:
    """(answers, support, query) as in Task. Raises ValueError with what is wrong with a record."""
    keys = (*SUBSETS.values(), "answers")
    if not isinstance(record, dict) or any(not isinstance(record.get(k), list) for k in keys):
        raise ValueError(f"is not an object with the lists {', '.join(keys)}")
    answers = record["answers"]
    if not all(isinstance(answer, str) for answer in answers) or len(set(answers)) < 2:
        raise ValueError(f"has the answers {answers}, two different strings or more are expected")
    if len(set(answers)) < len(answers):
        twice = next(answer for answer in answers if answers.count(answer) > 1)
        raise ValueError(f"lists the answer {twice!r} twice")
    index = {answer: row for row, answer in enumerate(answers)}
    support, query = (_parse_items(record[key], index, subset) for subset, key in SUBSETS.items())
    # method.md section 8, fault 8: a query image seen in adaptation makes the score worthless.
    if shared := {image for image, _ in support} & {image for image, _ in query}:
        raise ValueError(f"has the image {min(shared)!r} in both support and query set")
    return tuple(answers), support, query


def _parse_items(items: list, index: dict[str, int], subset: str) -> tuple[tuple[str, int], ...]:
    if not items:
        raise ValueError(f"has an empty {subset} set")
    for item in items:
        pair = isinstance(item, list) and len(item) == 2
        if not pair or not all(isinstance(part, str) for part in item):
            raise ValueError(f"has {item!r} in its {subset} set, [image id, answer] is expected")
        if item[1] not in index:
            raise ValueError(f"has {item!r} in its {subset} set, an answer it does not list")
    answer_of: dict[str, str] = {}
    for image, answer in items:
        if answer_of.setdefault(image, answer) != answer:
            raise ValueError(
                f"has the image {image!r} twice in its {subset} set, with the answers "
                f"{answer_of[image]!r} and {answer!r}"
            )
    return tuple((image, index[answer]) for image, answer in items)


def _concept(record: dict[str, Any]) -> str:
    concept = record.get("concept", "")
    if not isinstance(concept, str):
        raise ValueError(f"has the concept {concept!r}, a string is expected")
    return concept


def _template(template: Any) -> str:
    if not isinstance(template, str) or "{}" not in template:
        raise ValueError(f"has the template {template!r}, a string with {{}} is expected")
    return template
