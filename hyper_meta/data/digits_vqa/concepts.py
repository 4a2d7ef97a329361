"""What a question of Digits-VQA asks, and how a scene answers it.

A *concept* is a family with a referent: the colour (family) of the seven (referent).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from hyper_meta.data.digits_vqa.scenes import PLACES, Scenes


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of question, such as the colour of a digit.

    name: unique among the families.
    referents: what the question can be about, "" alone where it is about the whole scene.
    answers: all possible answers.
    template: the answer as a sentence, {} in the place of the answer.
    answer_fn: (scenes, referent index) -> [n] int64 answer index, -1 where the question has no
      single answer.
    statements: sentences with {r} and {a}, for the training text of the encoder only.
    train, validation, test: disjoint wordings of the question, {r} in the place of the referent.
    held_out: {"validation" | "test": referents that no training question is about}.
    """

    name: str
    referents: tuple[str, ...]
    answers: tuple[str, ...]
    template: str
    answer_fn: Callable[[Scenes, int], np.ndarray]
    statements: tuple[str, ...]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    held_out: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def _attributes(scenes: Scenes) -> dict[str, np.ndarray]:
    """{attribute: [n, 4] int64 of the digit in each corner, -1 where the corner is empty}."""
    present = scenes.digit >= 0
    return {
        "digit": scenes.digit,
        "colour": np.where(present, scenes.colour, -1),
        "size": np.where(present, scenes.size, -1),
        "place": np.where(present, np.arange(len(PLACES)), -1),
        "parity": np.where(present, scenes.digit % 2, -1),
    }


def asked_of(referent_kind: str, answer_kind: str) -> Callable[[Scenes, int], np.ndarray]:
    """The answer_fn of "the <answer_kind> of the digit whose <referent_kind> is r".

    -1 unless exactly one digit of the scene matches.
    """

    def answer(scenes: Scenes, referent: int) -> np.ndarray:
        attributes = _attributes(scenes)
        matches = attributes[referent_kind] == referent
        value = np.where(matches, attributes[answer_kind], 0).sum(axis=1)
        return np.where(matches.sum(axis=1) == 1, value, -1)

    return answer


def count_of(kind: str) -> Callable[[Scenes, int], np.ndarray]:
    """The answer_fn of "how many digits have the <kind> r", an index into the numbers from zero."""
    return lambda scenes, referent: (_attributes(scenes)[kind] == referent).sum(axis=1)


def presence_of(kind: str) -> Callable[[Scenes, int], np.ndarray]:
    """The answer_fn of "is there a digit whose <kind> is r": 0 for no, 1 for yes."""
    return lambda scenes, referent: (_attributes(scenes)[kind] == referent).any(axis=1).astype(int)
