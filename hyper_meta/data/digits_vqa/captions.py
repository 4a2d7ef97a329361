"""Sentences about scenes: the training text of the bundled encoder.

Each sentence states one fact. No sentence states a fact about a concept that is held out for
validation or test, and none is a validation or test question.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Bool, Int

from hyper_meta.data.digits_vqa.concepts import Family
from hyper_meta.data.digits_vqa.families import FAMILIES
from hyper_meta.data.digits_vqa.questions import fill, held_out_split
from hyper_meta.data.digits_vqa.scenes import Scenes

# The probability of each form of a sentence about a fact.
FORMS = {"statement": 0.45, "question and answer": 0.38, "answer": 0.17}
# The weight of each kind of answer: facts that are hard to see are stated more often.
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
WORD_DROP_RATE = 0.15
OPENINGS = ("", "", "", "tell me more: ", "the picture shows that ")


@functools.cache
def trained_concepts() -> tuple[tuple[Family, int], ...]:
    """The (family, referent index) of every concept that is not held out."""
    return tuple(
        (family, index)
        for family in FAMILIES
        for index, name in enumerate(family.referents)
        if held_out_split(family, name) == "train"
    )


def answer_table(scenes: Scenes) -> Int[np.ndarray, "n concepts"]:
    """The answer to every trained concept in every scene, [n, concepts] int64, -1 for no answer."""
    columns = [family.answer_fn(scenes, index) for family, index in trained_concepts()]
    return np.stack(columns, axis=1)


def make_captions(
    rng: np.random.Generator, scenes: Scenes, *, plain_share: float = 0.0
) -> tuple[list[str], Bool[np.ndarray, "n n"]]:
    """A sentence about each of n scenes, and the scenes that each sentence is true of.

    A family is drawn first and its referent next, so that small families occur too.

    Args:
      rng: generator of all draws.
      scenes: n scenes.
      plain_share: the share of sentences that are an answer alone ("the digit is seven"), besides
        those of FORMS.

    Returns:
      The n sentences, and truth [n scenes, n sentences] bool, True on the diagonal.
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
    """A sentence that states one fact, and the scenes [n] bool that it is true of."""
    family, referent = trained_concepts()[concept]
    names = {"r": family.referents[referent], "a": family.answers[answer]}
    question = fill(_pick(rng, family.train), **names)
    prompt = family.template.format(names["a"])
    if form == "answer":
        # "The colour is red" is true where anything is red.
        alike = [c for c, (f, _) in enumerate(trained_concepts()) if f.template == family.template]
        return prompt, (answers[:, alike] == answer).any(axis=1)
    holds = answers[:, concept] == answer
    if form == "statement":
        return fill(_pick(rng, family.statements), **names), holds
    return f"{question} {prompt}", holds


def make_sentence_pairs(
    rng: np.random.Generator, num_pairs: int
) -> tuple[list[str], list[str], Bool[np.ndarray, "n n"]]:
    """Pairs of a question and another sentence about the same concept.

    Pictures do not show what a question asks; these pairs teach it. The other sentence is a
    question, a question with some answer, or a statement with some answer. Random words are left
    out of questions, so that the encoder does not rely on one wording.

    Returns:
      The n first sentences, the n second sentences, and whether first i and second j are about the
      same concept, [n, n] bool.
    """
    family = rng.integers(len(FAMILIES), size=num_pairs)
    concepts = [
        rng.choice([c for c, (f, _) in enumerate(trained_concepts()) if f is FAMILIES[number]])
        for number in family
    ]
    firsts = [_ask(rng, concept) for concept in concepts]
    seconds = [_tell(rng, concept) for concept in concepts]
    return firsts, seconds, np.equal.outer(concepts, concepts)


def _ask(rng: np.random.Generator, concept: int) -> str:
    """A question with words left out."""
    family, referent = trained_concepts()[concept]
    words = fill(_pick(rng, family.train), r=family.referents[referent]).split()
    kept = [word for word in words if rng.random() >= WORD_DROP_RATE]
    return " ".join(kept or words)


def _tell(rng: np.random.Generator, concept: int) -> str:
    """A question, alone or with some answer, or a statement of some answer."""
    family, referent = trained_concepts()[concept]
    names = {"r": family.referents[referent], "a": _pick(rng, family.answers)}
    form = rng.choice(("question", "question and answer", "statement"))
    if form == "statement":
        return fill(_pick(rng, family.statements), **names)
    question = _ask(rng, concept)
    return question if form == "question" else f"{question} {family.template.format(names['a'])}"


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]
