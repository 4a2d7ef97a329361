"""The encoder's training text against `english`, which reads one sentence and one scene."""

import re

import numpy as np
import pytest
from english import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    DIGITS,
    PLACES,
    SIZES,
    answer_to,
    concept_of,
    read_scene,
)

from hyper_meta.data.digits_vqa.captions import make_captions, make_sentence_pairs
from hyper_meta.data.digits_vqa.questions import all_questions
from hyper_meta.data.digits_vqa.scenes import sample_scenes

WORDS = {
    "DIGIT": DIGITS,
    "COLOUR": COLOURS,
    "PLACE": PLACES,
    "SIZE": SIZES,
    "PARITY": ["even", "odd"],
    "COUNT": COUNTS,
    "GROUND": BACKGROUNDS,
    "YES": ["no", "yes"],
}
# Statements by what they say: the second word is asked about the first, or about the whole scene.
STATEMENTS = {
    ("DIGIT", "COLOUR"): (
        "the DIGIT is COLOUR",
        "the DIGIT is drawn in COLOUR",
        "COLOUR is the colour of the DIGIT",
    ),
    ("DIGIT", "PLACE"): (
        "the DIGIT is in the PLACE",
        "the DIGIT is found at the PLACE",
        "the PLACE holds the DIGIT",
    ),
    ("DIGIT", "SIZE"): (
        "the DIGIT is SIZE",
        "the DIGIT is drawn SIZE",
        "the size of the DIGIT is SIZE",
    ),
    ("COLOUR", "DIGIT"): (
        "the COLOUR digit is DIGIT",
        "COLOUR is used for the DIGIT",
        "what is COLOUR is the DIGIT",
    ),
    ("COLOUR", "PLACE"): (
        "the COLOUR digit is in the PLACE",
        "COLOUR is found at the PLACE",
        "the PLACE is COLOUR",
    ),
    ("COLOUR", "SIZE"): ("the COLOUR digit is SIZE", "the size of the COLOUR digit is SIZE"),
    ("COLOUR", "PARITY"): ("the COLOUR digit is PARITY", "PARITY is the digit drawn in COLOUR"),
    ("PLACE", "DIGIT"): ("the PLACE corner shows the DIGIT", "at the PLACE there is the DIGIT"),
    ("PLACE", "COLOUR"): ("the PLACE corner shows COLOUR", "the digit in the PLACE is COLOUR"),
    ("PLACE", "PARITY"): (
        "the PLACE corner shows a PARITY digit",
        "the digit in the PLACE is PARITY",
    ),
    ("PLACE", "SIZE"): ("the PLACE corner shows a SIZE digit", "the digit in the PLACE is SIZE"),
    (None, "COUNT"): (
        "the number of digits is COUNT",
        "the picture shows this many digits: COUNT",
    ),
    ("COLOUR", "COUNT"): (
        "the number of COLOUR digits is COUNT",
        "this many digits are in COLOUR: COUNT",
    ),
    ("SIZE", "COUNT"): (
        "the number of SIZE digits is COUNT",
        "this many digits are of SIZE size: COUNT",
    ),
    (None, "GROUND"): ("GROUND is behind the digits", "all is drawn on GROUND"),
    ("DIGIT", "YES"): ("is a DIGIT found in the picture: YES",),
    ("COLOUR", "YES"): ("is a COLOUR digit found in the picture: YES",),
}
ASKED = {"GROUND": "background", "YES": "presence"}
# What a bare answer, such as "the number is odd", may be the answer to.
BARE = {"number": "parity", "answer": "presence"}
OPENING = re.compile("^(tell me more: |the picture shows that )")


def _pattern(text):
    for kind, words in WORDS.items():
        text = text.replace(kind, f"(?P<{kind}>{'|'.join(words)})")
    return re.compile(text)


PATTERNS = {pair: [_pattern(text) for text in texts] for pair, texts in STATEMENTS.items()}
TRAINED = {concept_of(q.text) for q in all_questions() if q.split == "train"}


def read_caption(caption):
    """(concepts, answer): true where any of the concepts has this answer, or any if it is None."""
    text = re.sub(r"\ban\b", "a", OPENING.sub("", caption))
    question, mark, answer = text.partition("?")
    if mark:
        return [concept_of(question)], answer.split(" is ")[1] if answer else None
    bare = re.fullmatch(
        "the (colour|place|size|digit|number|count|background|answer) is (.*)", text
    )
    if bare:
        asked = BARE.get(bare[1], bare[1])
        return [concept for concept in TRAINED if concept[0] == asked], bare[2]
    for (about, answer), patterns in PATTERNS.items():
        for pattern in patterns:
            if match := pattern.fullmatch(text):
                asked = ASKED.get(answer, answer.lower())
                return [(asked, about and (about.lower(), match[about]))], match[answer]
    raise AssertionError(f"what does {caption!r} say?")


def _is_true(caption, scene):
    concepts, expected = read_caption(caption)
    answers = [answer_to(concept, scene) for concept in concepts]
    return any(a is not None if expected is None else a == expected for a in answers)


@pytest.fixture(scope="module")
def captions():
    """5,000 sentences."""
    rng = np.random.default_rng(0)
    sentences = []
    for _ in range(10):
        scenes = sample_scenes(rng, 500, handwriting="train")
        sentences += make_captions(rng, scenes)[0]
    return sentences


def test_the_truth_of_every_sentence_in_every_scene():
    rng = np.random.default_rng(1)
    scenes = sample_scenes(rng, 150, handwriting="train")
    sentences, truth = make_captions(rng, scenes)
    read = [read_scene(scenes, row) for row in range(len(scenes))]
    expected = [[_is_true(sentence, scene) for sentence in sentences] for scene in read]
    np.testing.assert_array_equal(truth, expected)
    assert truth.diagonal().all() and 0.01 < truth.mean() < 0.5


def test_no_held_out_concept_is_ever_stated(captions):
    stated = {concept for caption in captions for concept in read_caption(caption)[0]}
    assert stated == TRAINED
    held_out = {concept_of(q.text) for q in all_questions() if q.group == "composition"}
    assert len(held_out) >= 20 and not stated & held_out


def test_no_validation_or_test_question_occurs(captions):
    questions = [q.text for q in all_questions() if q.split != "train"]
    text = "\n".join(captions)
    assert [question for question in questions if question in text] == []
    # The search would find them: training questions do occur.
    assert sum(q.text in text for q in all_questions() if q.split == "train") > 200


def test_the_article_fits_the_word(captions):
    sentences = [*captions, *(q.text for q in all_questions())]
    wrong = re.compile(r"\ba (?=[aeiou](?!ne\b))|\ban (?![aeiou])", re.IGNORECASE)
    assert [s for s in sentences if wrong.search(s)] == []


def test_captions_depend_on_the_generator_alone():
    scenes = sample_scenes(np.random.default_rng(2), 40, handwriting="train")
    first, second, other = (make_captions(np.random.default_rng(s), scenes)[0] for s in (3, 3, 4))
    assert first == second != other


def test_sentence_pairs_name_no_held_out_question_and_share_what_they_say_they_share():
    asked, told, same = make_sentence_pairs(np.random.default_rng(0), 600)
    assert same.diagonal().all() and not same.all()
    np.testing.assert_array_equal(same, same.T)
    held_out = {question.text for question in all_questions() if question.split != "train"}
    assert held_out.isdisjoint([*asked, *told])
    # Without its referent a question may read like one about the whole scene: leave those out.
    whole = {q.text: q for q in all_questions() if q.family.referents != ("",)}
    concepts = [
        (whole[text].family.name, whole[text].referent) if text in whole else None for text in asked
    ]
    known = [row for row, concept in enumerate(concepts) if concept]
    assert len(known) > 100  # questions with no word left out
    for row in known:
        for column in known:
            assert same[row, column] == (concepts[row] == concepts[column])
