"""Questions of Digits-VQA: families, concepts, wordings, and which of them are held out.

A *concept* is a family with a referent: the colour (family) of the seven (referent). A *task* is a
concept asked in one wording. The answer template names the kind of answer only ("the colour is
{}"), never the referent, so the candidate answers do not give the question away: which seven,
which corner, must come from the question.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from hyper_meta.data.digits_vqa.scenes import BACKGROUNDS, COLOURS, DIGITS, PLACES, SIZES, Scenes

COLOUR_NAMES, BACKGROUND_NAMES, SIZE_NAMES = tuple(COLOURS), tuple(BACKGROUNDS), tuple(SIZES)
PARITIES = ("even", "odd")
COUNTS = ("zero", "one", "two", "three", "four")
YES_NO = ("no", "yes")


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of question.

    referents: what it can be asked about ("" when about the whole scene); answers: all possible
    answers; template: sentence with {} for the answer; answer_fn: (scenes, referent index) -> [n]
    int64 answer index, -1 where the question has no single right answer; statements: sentences
    with {r} and {a}, for the encoder's training text only; train, validation, test: wordings with
    {r}, disjoint; held_out: referents kept for {"validation": ..., "test": ...}.
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
    """[n, 4] attributes of the digit in each corner, -1 where the corner is empty."""
    present = scenes.digit >= 0
    return {
        "digit": scenes.digit,
        "colour": np.where(present, scenes.colour, -1),
        "size": np.where(present, scenes.size, -1),
        "place": np.where(present, np.arange(len(PLACES)), -1),
        "parity": np.where(present, scenes.digit % 2, -1),
    }


def _asked_of(referent_kind: str, answer_kind: str) -> Callable[[Scenes, int], np.ndarray]:
    """The answer_fn of "the <answer_kind> of the digit whose <referent_kind> is r"."""

    def answer(scenes: Scenes, referent: int) -> np.ndarray:
        attributes = _attributes(scenes)
        matches = attributes[referent_kind] == referent
        value = np.where(matches, attributes[answer_kind], 0).sum(axis=1)
        return np.where(matches.sum(axis=1) == 1, value, -1)

    return answer


def _count_of(kind: str) -> Callable[[Scenes, int], np.ndarray]:
    return lambda scenes, referent: (_attributes(scenes)[kind] == referent).sum(axis=1)


def _presence_of(kind: str) -> Callable[[Scenes, int], np.ndarray]:
    return lambda scenes, referent: (_attributes(scenes)[kind] == referent).any(axis=1).astype(int)


FAMILIES = (
    Family(
        name="colour of digit",
        referents=DIGITS,
        answers=COLOUR_NAMES,
        template="the colour is {}",
        answer_fn=_asked_of("digit", "colour"),
        statements=("the {r} is {a}", "the {r} is drawn in {a}", "{a} is the colour of the {r}"),
        train=(
            "What colour is the {r}?",
            "Which colour does the {r} have?",
            "What is the colour of the {r}?",
            "In which colour is the {r} written?",
        ),
        validation=("Tell me the colour of the {r}.",),
        test=("The {r} is drawn in what colour?",),
        held_out={"validation": ("three",), "test": ("seven", "two")},
    ),
    Family(
        name="place of digit",
        referents=DIGITS,
        answers=PLACES,
        template="the place is {}",
        answer_fn=_asked_of("digit", "place"),
        statements=(
            "the {r} is in the {a}",
            "the {r} is found at the {a}",
            "the {a} holds the {r}",
        ),
        train=(
            "Where is the {r}?",
            "In which corner is the {r}?",
            "What is the place of the {r}?",
            "Which corner holds the {r}?",
        ),
        validation=("Tell me the place of the {r}.",),
        test=("The {r} is found in what corner?",),
        held_out={"validation": ("eight",), "test": ("four", "nine")},
    ),
    Family(
        name="size of digit",
        referents=DIGITS,
        answers=SIZE_NAMES,
        template="the size is {}",
        answer_fn=_asked_of("digit", "size"),
        statements=("the {r} is {a}", "the {r} is drawn {a}", "the size of the {r} is {a}"),
        train=(
            "What size is the {r}?",
            "Is the {r} small or large?",
            "What is the size of the {r}?",
            "How large is the {r}?",
        ),
        validation=("Tell me the size of the {r}.",),
        test=("The {r} is drawn in what size?",),
        held_out={"validation": ("zero",), "test": ("five", "one")},
    ),
    Family(
        name="digit of colour",
        referents=COLOUR_NAMES,
        answers=DIGITS,
        template="the digit is {}",
        answer_fn=_asked_of("colour", "digit"),
        statements=("the {r} digit is {a}", "{r} is used for the {a}", "what is {r} is the {a}"),
        train=(
            "Which digit is {r}?",
            "What is the {r} digit?",
            "Which digit has the colour {r}?",
            "What digit is written in {r}?",
        ),
        validation=("Tell me the digit drawn in {r}.",),
        test=("The colour {r} is used for which digit?",),
        held_out={"validation": ("pink",), "test": ("green",)},
    ),
    Family(
        name="place of colour",
        referents=COLOUR_NAMES,
        answers=PLACES,
        template="the place is {}",
        answer_fn=_asked_of("colour", "place"),
        statements=("the {r} digit is in the {a}", "{r} is found at the {a}", "the {a} is {r}"),
        train=(
            "Where is the {r} digit?",
            "In which corner is the {r} digit?",
            "What is the place of the {r} digit?",
            "Which corner holds the {r} digit?",
        ),
        validation=("Tell me the place of the {r} digit.",),
        test=("The colour {r} is found in what corner?",),
        held_out={"validation": ("orange",), "test": ("blue",)},
    ),
    Family(
        name="size of colour",
        referents=COLOUR_NAMES,
        answers=SIZE_NAMES,
        template="the size is {}",
        answer_fn=_asked_of("colour", "size"),
        statements=("the {r} digit is {a}", "the size of the {r} digit is {a}"),
        train=(
            "What size is the {r} digit?",
            "Is the {r} digit small or large?",
            "What is the size of the {r} digit?",
            "How large is the {r} digit?",
        ),
        validation=("Tell me the size of the {r} digit.",),
        test=("The digit in {r} is drawn in what size?",),
        held_out={"validation": ("green",), "test": ("yellow",)},
    ),
    Family(
        name="parity of colour",
        referents=COLOUR_NAMES,
        answers=PARITIES,
        template="the number is {}",
        answer_fn=_asked_of("colour", "parity"),
        statements=("the {r} digit is {a}", "{a} is the digit drawn in {r}"),
        train=(
            "Is the {r} digit odd or even?",
            "Is the {r} number even or odd?",
            "Is the digit written in {r} odd or even?",
            "Which is the {r} digit, odd or even?",
        ),
        validation=("Tell me if the {r} digit is odd or even.",),
        test=("The digit drawn in {r} is even or odd?",),
        held_out={"validation": ("blue",), "test": ("red",)},
    ),
    Family(
        name="digit at place",
        referents=PLACES,
        answers=DIGITS,
        template="the digit is {}",
        answer_fn=_asked_of("place", "digit"),
        statements=("the {r} corner shows the {a}", "at the {r} there is the {a}"),
        train=(
            "Which digit is in the {r}?",
            "What is the digit at the {r}?",
            "Which digit does the {r} corner hold?",
            "What digit is written in the {r} corner?",
        ),
        validation=("Tell me the digit in the {r}.",),
        test=("The {r} corner shows which digit?",),
        held_out={"test": ("bottom right",)},
    ),
    Family(
        name="colour at place",
        referents=PLACES,
        answers=COLOUR_NAMES,
        template="the colour is {}",
        answer_fn=_asked_of("place", "colour"),
        statements=("the {r} corner shows {a}", "the digit in the {r} is {a}"),
        train=(
            "What colour is the digit in the {r}?",
            "Which colour does the {r} corner have?",
            "What is the colour at the {r}?",
            "In which colour is the {r} digit written?",
        ),
        validation=("Tell me the colour in the {r}.",),
        test=("The {r} corner shows what colour?",),
        held_out={"test": ("top right",)},
    ),
    Family(
        name="parity at place",
        referents=PLACES,
        answers=PARITIES,
        template="the number is {}",
        answer_fn=_asked_of("place", "parity"),
        statements=("the {r} corner shows an {a} digit", "the digit in the {r} is {a}"),
        train=(
            "Is the digit in the {r} odd or even?",
            "Is the {r} number even or odd?",
            "Is the digit at the {r} odd or even?",
            "Which is the {r} digit, odd or even?",
        ),
        validation=("Tell me if the {r} digit is odd or even.",),
        test=("The {r} corner shows an even or odd digit?",),
        held_out={"test": ("bottom left",)},
    ),
    Family(
        name="size at place",
        referents=PLACES,
        answers=SIZE_NAMES,
        template="the size is {}",
        answer_fn=_asked_of("place", "size"),
        statements=("the {r} corner shows a {a} digit", "the digit in the {r} is {a}"),
        train=(
            "What size is the digit in the {r}?",
            "Is the {r} digit small or large?",
            "What is the size of the digit at the {r}?",
            "How large is the {r} digit?",
        ),
        validation=("Tell me the size of the digit in the {r}.",),
        test=("The {r} corner shows a digit of what size?",),
        held_out={"test": ("top left",)},
    ),
    Family(
        name="count of digits",
        referents=("",),
        answers=COUNTS,
        template="the count is {}",
        answer_fn=lambda scenes, _: (scenes.digit >= 0).sum(axis=1),
        statements=("the number of digits is {a}", "the picture shows this many digits: {a}"),
        train=(
            "How many digits are there?",
            "How many digits does the picture have?",
            "What is the count of digits?",
            "How many numbers are written?",
        ),
        validation=("Tell me how many digits there are.",),
        test=("The picture shows how many digits?", "Count the digits."),
    ),
    Family(
        name="count of colour",
        referents=COLOUR_NAMES,
        answers=COUNTS,
        template="the count is {}",
        answer_fn=_count_of("colour"),
        statements=("the number of {r} digits is {a}", "this many digits are in {r}: {a}"),
        train=(
            "How many {r} digits are there?",
            "How many digits are {r}?",
            "What is the count of {r} digits?",
            "How many digits are written in {r}?",
        ),
        validation=("Tell me how many {r} digits there are.",),
        test=("The picture shows how many {r} digits?",),
        held_out={"validation": ("red",), "test": ("purple",)},
    ),
    Family(
        name="count of size",
        referents=SIZE_NAMES,
        answers=COUNTS,
        template="the count is {}",
        answer_fn=_count_of("size"),
        statements=("the number of {r} digits is {a}", "this many digits are of {r} size: {a}"),
        train=(
            "How many {r} digits are there?",
            "How many digits are {r}?",
            "What is the count of {r} digits?",
            "How many {r} numbers are written?",
        ),
        validation=("Tell me how many {r} digits there are.",),
        test=("The picture shows how many {r} digits?",),
    ),
    Family(
        name="background",
        referents=("",),
        answers=BACKGROUND_NAMES,
        template="the background is {}",
        answer_fn=lambda scenes, _: scenes.background,
        statements=("the background is {a}", "{a} is behind the digits", "all is drawn on {a}"),
        train=(
            "What colour is the background?",
            "Which colour does the background have?",
            "What is the colour behind the digits?",
            "In which colour is the background?",
        ),
        validation=("Tell me the colour of the background.",),
        test=("The digits are drawn on what background?", "What is behind the digits?"),
    ),
    Family(
        name="presence of digit",
        referents=DIGITS,
        answers=YES_NO,
        template="the answer is {}",
        answer_fn=_presence_of("digit"),
        statements=("is a {r} found in the picture: {a}",),
        train=(
            "Is there a {r}?",
            "Does the picture have a {r}?",
            "Is a {r} in the picture?",
            "Is there a {r} in a corner?",
        ),
        validation=("Tell me if there is a {r}.",),
        test=("The picture shows a {r}, yes or no?",),
        held_out={"validation": ("two",), "test": ("six",)},
    ),
    Family(
        name="presence of colour",
        referents=COLOUR_NAMES,
        answers=YES_NO,
        template="the answer is {}",
        answer_fn=_presence_of("colour"),
        statements=("is a {r} digit found in the picture: {a}",),
        train=(
            "Is there a {r} digit?",
            "Does the picture have a {r} digit?",
            "Is a digit {r}?",
            "Is there a digit written in {r}?",
        ),
        validation=("Tell me if there is a {r} digit.",),
        test=("The picture shows {r}, yes or no?",),
        held_out={"validation": ("white",), "test": ("orange",)},
    ),
)


@dataclasses.dataclass(frozen=True)
class Question:
    """A task before it has scenes: one concept in one wording, with its place in the split."""

    text: str
    family: Family
    referent: int
    split: str  # "train", "validation" or "test"
    group: str  # "train", "paraphrase" or "composition"


def all_questions() -> list[Question]:
    """Every task of the benchmark, in a fixed order, no sentence twice.

    Train: training concepts in training wordings. Paraphrase: training concepts in wordings never
    trained on. Composition: held-out concepts in training wordings.
    """
    questions: list[Question] = []
    for family in FAMILIES:
        for index, name in enumerate(family.referents):
            split = held_out_split(family, name)
            asked = [(split, "composition", family.train)]
            if split == "train":
                asked = [
                    ("train", "train", family.train),
                    ("validation", "paraphrase", family.validation),
                    ("test", "paraphrase", family.test),
                ]
            for part, group, wordings in asked:
                texts = [fill(wording, r=name) for wording in wordings]
                questions += [Question(text, family, index, part, group) for text in texts]
    return questions


def fill(wording: str, **names: str) -> str:
    """Puts names in a wording, in good English: "a eight" becomes "an eight"."""
    return re.sub(r"\b([Aa]) (?=eight|orange|odd|even)", r"\1n ", wording.format(**names))


def held_out_split(family: Family, referent: str) -> str:
    """Says "train", or the split that this concept is held out for."""
    for split, referents in family.held_out.items():
        if referent in referents:
            return split
    return "train"
