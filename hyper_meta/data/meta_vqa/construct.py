"""Construction of Meta-VQA from VQA v2, by the rules of the paper's authors (method.md section 6).

From the official files, `construct` returns the split that they published, order included.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

SEED = 2021
SHARE = 0.7  # of a task's examples for the support set, and of the tasks for training
ANSWER_TYPES = ("number", "other")
MORE_THAN = 20  # examples
FEWEST_ANSWERS = 2
FEWEST_OF_AN_ANSWER = 2
ITEM = TypeVar("ITEM")


class Annotation(NamedTuple):
    """One question about one image, with its most common human answer."""

    image_id: str  # such as "COCO_train2014_000000000009"
    question: str
    answer: str
    answer_type: str


# {question: {"train": [[image id, answer], ...], "test": [...], "answers": [...]}}, where "train"
# is the support set and "test" the query set: the format of the published files.
Split = dict[str, dict[str, list]]


def construct(annotations: Iterable[Annotation]) -> tuple[Split, Split]:
    """(training tasks, test tasks) of all annotations of VQA v2, those of train2014 first."""
    tasks = {
        question: split_task(images)
        for question, images in group(annotations).items()
        if is_kept(question, images)
    }
    training, test = divide(list(tasks))
    return {name: tasks[name] for name in training}, {name: tasks[name] for name in test}


def group(annotations: Iterable[Annotation]) -> dict[str, dict[str, list[str]]]:
    """{question: {answer: image ids}} of "number" and "other" questions, in order of appearance.

    Of several annotations of one image and question the first counts. Answers seen once are
    dropped.
    """
    images: dict[str, dict[str, str]] = {}
    for image_id, question, answer, answer_type in annotations:
        if answer_type in ANSWER_TYPES:
            images.setdefault(question, {}).setdefault(image_id, answer)
    return {question: _by_answer(items) for question, items in images.items()}


def _by_answer(items: Mapping[str, str]) -> dict[str, list[str]]:
    answers: dict[str, list[str]] = {}
    for image_id, answer in items.items():
        answers.setdefault(answer, []).append(image_id)
    return {
        answer: images for answer, images in answers.items() if len(images) >= FEWEST_OF_AN_ANSWER
    }


def is_kept(question: str, images: Mapping[str, Sequence[str]]) -> bool:
    """Whether a question with {answer: image ids} is a task.

    A task has more than 20 examples, two answers or more, and not the word "or", since such a
    question names its answers.
    """
    num_examples = sum(map(len, images.values()))
    return (
        num_examples > MORE_THAN and len(images) >= FEWEST_ANSWERS and "or" not in question.split()
    )


def split_task(images: Mapping[str, Sequence[str]]) -> dict[str, list]:
    """The task of {answer: image ids}: the images of each answer shuffled and divided 70 to 30."""
    task: dict[str, list] = {"train": [], "test": [], "answers": list(images)}
    for answer, of_answer in images.items():
        for part, names in zip(("train", "test"), divide(of_answer), strict=True):
            task[part] += [[name, answer] for name in names]
    return task


def divide(items: Sequence[ITEM]) -> tuple[list[ITEM], list[ITEM]]:
    """(70%, 30%) of the items, shuffled as by the authors."""
    shuffled = list(items)
    random.Random(SEED).shuffle(shuffled)
    first = round(SHARE * len(shuffled))
    return shuffled[:first], shuffled[first:]
