"""How far a guide can be trusted with a sentence: the accuracy to be expected, and warnings. All
that it rests on comes from training and validation tasks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from hyper_meta.core.scores import Scores
from hyper_meta.core.types import UserError
from hyper_meta.data.tasks import concepts_of
from hyper_meta.eval.calibration import Calibration, expected_accuracy, fit_calibration
from hyper_meta.methods.guides import Guide
from hyper_meta.methods.interface import Setup
from hyper_meta.methods.signs import SIGNS, Asked, signs_of

# An expectation is near that of a network without language where it is above that by no more than
# this share of what the guide is above it on average.
SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Trust:
    """What an evaluation leaves of a guide.

    calibration: from SIGNS to accuracy. mean: of the guide, over validation tasks. baseline: of a
    network without language, or what there is in place of it, over the same, and baseline_row: its
    id; both None where no such row was scored. words: of the training and validation sentences,
    see `words_of`; num_sentences: how many these are.
    """

    calibration: Calibration
    mean: float
    baseline: float | None
    baseline_row: str | None
    words: tuple[str, ...]
    num_sentences: int


@dataclasses.dataclass(frozen=True)
class Judgement:
    """expected_accuracy: in [0, 1]; accuracy_deviation: how far accuracies were from what was
    expected of them on validation tasks; baseline_accuracy: see `Trust`; warnings: each a sentence
    for a user."""

    expected_accuracy: float
    accuracy_deviation: float
    baseline_accuracy: float | None
    warnings: tuple[str, ...]


def words_of(sentences: Iterable[str]) -> set[str]:
    """Runs of letters and digits, casefolded."""
    return {word for text in sentences for word in re.findall(r"[^\W_]+", text.casefold())}


def unseen_words(trust: Trust, sentence: str) -> list[str]:
    """The words of a sentence that no training and no validation sentence has, in its order."""
    words = dict.fromkeys(re.findall(r"[^\W_]+", sentence.casefold()))
    known = set(trust.words)
    return [word for word in words if word not in known]


def is_near(trust: Trust, expected: float) -> bool:
    """Whether an expectation is near the accuracy of a network without language, see SHARE."""
    if trust.baseline is None:
        return False
    return expected <= trust.baseline + SHARE * max(0.0, trust.mean - trust.baseline)


def judge(trust: Trust, sentence: str, signs: Float[np.ndarray, "1 S"]) -> Judgement:
    """What is to be expected of the networks of a sentence. signs: SIGNS of it, which say nothing
    of one without a known word: of that no more is expected than of a network without language."""
    (expected,) = expected_accuracy(trust.calibration, signs).tolist()
    if trust.baseline is not None and not words_of([sentence]) & set(trust.words):
        expected = min(expected, trust.baseline)
    warnings = []
    if is_near(trust, expected):
        place = "below" if expected < trust.baseline - 0.005 else "near"
        warnings.append(
            f"the accuracy to be expected ({expected:.0%}) is {place} that of a network without "
            f"language ({trust.baseline:.0%}): the sentence may not have been understood"
        )
    if unseen := unseen_words(trust, sentence):
        listed = " and ".join(filter(None, (", ".join(map(repr, unseen[:-1])), repr(unseen[-1]))))
        told = f"the word {listed} is" if len(unseen) == 1 else f"the words {listed} are"
        warnings.append(
            f"{told} in none of the {trust.num_sentences} sentences that this model was trained "
            "and checked on: the accuracy to be expected is less certain"
        )
    return Judgement(expected, trust.calibration.deviation, trust.baseline, tuple(warnings))


def assess(
    setup: Setup,
    guide: Guide,
    *,
    value: Any,
    scores: Scores,
    baseline: tuple[str, float] | None,
    asked: Mapping[str, Asked],
    images: Float[np.ndarray, "n D"],
) -> tuple[Trust, dict[str, Any]]:
    """(what is left of a guide, its record in trust.json).

    value: of its settings; scores: at it, on the validation tasks; baseline: (id, mean accuracy on
    them) of the row without language; asked: by split; images: see `probe_images`. In the record
    are, by split, "signs"; of the test tasks what is "expected", and whether they are warned of:
    "near" and "unseen"; and the fields of Trust but the words.
    """
    signs = {
        split: signs_of(setup, guide, value=value, split=split, asked=tasks, images=images)
        for split, tasks in asked.items()
    }
    accuracy = np.asarray(scores.accuracy, np.float64)
    concepts = np.array(concepts_of(setup.tasks["validation"]))
    sentences = {task.sentence for split in ("train", "validation") for task in setup.tasks[split]}
    row, without = baseline or (None, None)
    trust = Trust(
        calibration=fit_calibration(signs["validation"], accuracy, concepts),
        mean=float(accuracy.mean()),
        baseline=without,
        baseline_row=row,
        words=tuple(sorted(words_of(sentences))),
        num_sentences=len(sentences),
    )
    expected = expected_accuracy(trust.calibration, signs["test"]).tolist()
    tested = [task.sentence for task in setup.tasks["test"]]
    record = {
        "signs": {
            split: {name: values[:, place].tolist() for place, name in enumerate(SIGNS)}
            for split, values in signs.items()
        },
        "expected": expected,
        "near": [is_near(trust, value) for value in expected],
        "unseen": [bool(unseen_words(trust, sentence)) for sentence in tested],
        **{name: value for name, value in trust_notes(trust).items() if name != "words"},
    }
    return trust, record


def trust_notes(trust: Trust) -> dict[str, Any]:
    """JSON values, of which `trust_from` makes it again."""
    return {"names": list(SIGNS), **dataclasses.asdict(trust)}


def trust_from(notes: Any) -> Trust:
    """Raises UserError for notes that are not of this version's signs."""
    try:
        if list(notes["names"]) != list(SIGNS):
            raise UserError(f"its signs are {notes['names']}, {list(SIGNS)} are expected")
        fields = {field.name: notes[field.name] for field in dataclasses.fields(Trust)}
        parts = {
            name: tuple(map(float, value)) if isinstance(value, list) else float(value)
            for name, value in fields["calibration"].items()
        }
        words = tuple(map(str, fields["words"]))
        return Trust(**fields | {"calibration": Calibration(**parts), "words": words})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"it does not say what it should ({error!r})") from error
