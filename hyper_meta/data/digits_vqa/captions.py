"""Sentences about scenes: the text that the bundled encoder is pre-trained on.

Each sentence states one fact. Facts about a concept that is held out for validation or test are
never stated, and no validation or test question occurs.
"""

from __future__ import annotations

import functools

import numpy as np

from hyper_meta.data.digits_vqa.questions import FAMILIES, Family, fill, held_out_split
from hyper_meta.data.digits_vqa.scenes import Scenes

# How a fact is put into words, and how often.
FORMS = {"statement": 0.4, "question and answer": 0.35, "answer": 0.15, "question": 0.1}
# How often a kind of answer is spoken of: what is hard to see is said more often.
WEIGHTS = {
    "the digit is {}": 4.0,
    "the place is {}": 2.5,
    "the number is {}": 1.5,
    "the colour is {}": 1.5,
    "the size is {}": 0.7,
    "the count is {}": 0.6,
    "the background is {}": 0.5,
    "the answer is {}": 0.6,
}
OPENINGS = ("", "", "", "tell me more: ", "the picture shows that ")


@functools.cache
def trained_concepts() -> tuple[tuple[Family, int], ...]:
    """Every (family, referent index) that may be stated: those not held out."""
    return tuple(
        (family, index)
        for family in FAMILIES
        for index, name in enumerate(family.referents)
        if held_out_split(family, name) == "train"
    )


def answer_table(scenes: Scenes) -> np.ndarray:
    """Answers of all trained concepts on all scenes: [n, concepts] int64, -1 for no answer."""
    columns = [family.answer_fn(scenes, index) for family, index in trained_concepts()]
    return np.stack(columns, axis=1)


def make_captions(
    rng: np.random.Generator, scenes: Scenes, *, plain_share: float = 0.0
) -> tuple[list[str], np.ndarray]:
    """Writes a sentence about each of n scenes and says of which other scenes it is true too.

    A scene's family is drawn first and its referent next, so that small families are heard too.
    plain_share: the share of sentences that are an answer and nothing else ("the digit is seven"),
    beyond those of FORMS.
    Returns the n sentences and truth [n scenes, n sentences] bool, True on the diagonal.
    """
    answers = answer_table(scenes)
    family = np.array([FAMILIES.index(family) for family, _ in trained_concepts()])
    spoken = np.array([WEIGHTS[family.template] for family, _ in trained_concepts()])
    weight = spoken * (answers >= 0) / np.bincount(family)[family]
    draws = np.log(rng.random(answers.shape)) / np.maximum(weight, 1e-9)
    concepts = draws.argmax(axis=1)  # one, with these weights (Efraimidis and Spirakis 2006)
    forms = rng.choice(list(FORMS), len(scenes), p=list(FORMS.values()))
    forms = np.where(rng.random(len(scenes)) < plain_share, "answer", forms)
    openings = rng.choice(OPENINGS, len(scenes))
    sentences, truth = [], np.empty((len(scenes), len(scenes)), bool)
    for row, (concept, form) in enumerate(zip(concepts, forms, strict=True)):
        sentence, truth[:, row] = _say(rng, concept, answers[row, concept], form, answers)
        sentences.append(openings[row] + sentence)
    return sentences, truth


def _say(
    rng: np.random.Generator, concept: int, answer: int, form: str, answers: np.ndarray
) -> tuple[str, np.ndarray]:
    """One fact in words, and of which scenes it is true [n] bool."""
    family, referent = trained_concepts()[concept]
    names = {"r": family.referents[referent], "a": family.answers[answer]}
    question = fill(_pick(rng, family.train), **names)
    if form == "question":
        return question, answers[:, concept] >= 0
    prompt = family.template.format(names["a"])
    if form == "answer":
        # "The colour is red" says no more than that something is red.
        alike = [c for c, (f, _) in enumerate(trained_concepts()) if f.template == family.template]
        return prompt, (answers[:, alike] == answer).any(axis=1)
    holds = answers[:, concept] == answer
    if form == "statement":
        return fill(_pick(rng, family.statements), **names), holds
    return f"{question} {prompt}", holds


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]
