"""What is said of a sentence: what to expect, and what to be warned of."""

import dataclasses
import json

import numpy as np
import pytest

from hyper_meta.core.types import UserError
from hyper_meta.eval.calibration import Calibration
from hyper_meta.methods.signs import SIGNS
from hyper_meta.methods.trust import (
    Trust,
    is_near,
    judge,
    trust_from,
    trust_notes,
    unseen_words,
    words_of,
)

# Nearness counts, and nothing else.
CALIBRATION = Calibration((0.0,) * 5, (1.0,) * 5, (0.5, 0, 0, 0, 0), 0.5, 0.1, 0.07)
SENTENCES = ("Which colour is it?", "Is the ZERO left-most?", "Whose's 2nd?")
TRUST = Trust(CALIBRATION, 0.8, 0.4, "hnet_multitask", tuple(sorted(words_of(SENTENCES))), 3)


def signs(nearness):
    return np.array([[nearness, *[7.0] * (len(SIGNS) - 1)]])


def test_words_are_runs_of_letters_and_digits_whatever_their_case():
    expected = "which colour is it the zero left most whose s 2nd"
    assert words_of(SENTENCES) == set(expected.split())
    assert unseen_words(TRUST, "Is it LEFT, zero?") == []
    assert unseen_words(TRUST, "Is the Dog a left_dog or Straße?") == ["dog", "a", "or", "strasse"]


def test_what_is_expected_is_near_no_language_below_a_quarter_of_the_way():
    assert is_near(TRUST, 0.5) and is_near(TRUST, 0.1) and not is_near(TRUST, 0.51)
    without = dataclasses.replace(TRUST, baseline=None)
    assert not is_near(without, 0.0)
    # A guide that is no better than no language is near where it expects no more than that.
    poor = dataclasses.replace(TRUST, mean=0.3)
    assert is_near(poor, 0.4) and not is_near(poor, 0.41)


def test_a_sentence_is_judged_by_its_signs_and_words():
    fine = judge(TRUST, "Which is the zero?", signs(0.4))
    assert fine.expected_accuracy == pytest.approx(0.7)
    assert (fine.accuracy_deviation, fine.baseline_accuracy) == (0.07, 0.4)
    assert fine.warnings == ()
    far = judge(TRUST, "Which is the zero?", signs(-0.1))
    (warning,) = far.warnings
    assert "(45%) is near that of a network without language (40%)" in warning
    odd = judge(TRUST, "Is the dog it?", signs(0.4))
    told = "in none of the 3 sentences that this model was trained and checked on"
    told += ": the accuracy to be expected is less certain"
    assert odd.warnings == (f"the word 'dog' is {told}",)
    nonsense = judge(TRUST, "Blib dwerf fnoo?", signs(0.4))
    assert nonsense.expected_accuracy == 0.4 and "(40%) is near" in nonsense.warnings[0]
    both = judge(TRUST, "Any cat or dog?", signs(-9.0))
    assert both.expected_accuracy == 0 and len(both.warnings) == 2
    assert both.warnings[1] == f"the words 'any', 'cat', 'or' and 'dog' are {told}"


def test_notes_are_json_of_which_it_is_made_again():
    for trust in (TRUST, dataclasses.replace(TRUST, baseline=None, baseline_row=None)):
        assert trust_from(json.loads(json.dumps(trust_notes(trust)))) == trust


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["nearness"]}, "its signs are .'nearness'., .* are expected"),
        ({"calibration": {"mean": [0.0]}}, "does not say what it should"),
        ({"calibration": []}, "does not say what it should"),
        ({"words": None}, "does not say what it should"),
    ],
)
def test_other_notes_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        trust_from({**trust_notes(TRUST), **changes})
    with pytest.raises(UserError, match="does not say what it should"):
        trust_from([])
