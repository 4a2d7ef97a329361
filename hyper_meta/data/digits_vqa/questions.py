"""The questions of Digits-VQA: every concept in every wording, and the split that each belongs to.

A *task* is a concept (a family with a referent) asked in one wording.
"""

from __future__ import annotations

import dataclasses
import functools
import re

from hyper_meta.data.digits_vqa.concepts import Family
from hyper_meta.data.digits_vqa.families import FAMILIES


@dataclasses.dataclass(frozen=True)
class Question:
    """A task without its scenes: one concept in one wording, and the split that it belongs to.

    text: the sentence.
    family, referent: the concept; referent is an index into family.referents.
    split: "train", "validation" or "test".
    group: "train", "paraphrase" or "composition", see `all_questions`.
    """

    text: str
    family: Family
    referent: int
    split: str
    group: str

    @property
    def concept(self) -> str:
        """Such as "colour of digit/seven"; the family alone where that asks about one thing."""
        referent = self.family.referents[self.referent]
        return f"{self.family.name}/{referent}" if referent else self.family.name


def all_questions() -> list[Question]:
    """Every task of the benchmark, in a fixed order, no sentence twice.

    train: training concepts in training wordings.
    paraphrase: training concepts in held-out wordings.
    composition: held-out concepts in training wordings.
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


@functools.cache
def _concepts() -> dict[str, str]:
    return {question.text: question.concept for question in all_questions()}


def concept_of(sentence: str) -> str:
    """The concept that a sentence of the benchmark asks for, see `Question.concept`."""
    return _concepts()[sentence]


def fill(wording: str, **names: str) -> str:
    """The wording with the names filled in; "a eight" becomes "an eight"."""
    return re.sub(r"\b([Aa]) (?=eight|orange|odd|even)", r"\1n ", wording.format(**names))


def held_out_split(family: Family, referent: str) -> str:
    """The split that a concept is held out for, or "train"."""
    for split, referents in family.held_out.items():
        if referent in referents:
            return split
    return "train"
