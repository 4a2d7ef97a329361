"""Checks of the arguments of `generate` and `predict`, before anything is computed; and what other
arguments set."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from typing import Any

from hyper_meta.core.errors import UserError

QUIET = "HYPER_META_QUIET"  # in the environment, by --quiet: no progress bars
# JAX makes a key from 32 bits of a seed; beyond that, other seeds would give the same numbers.
MAX_SEED = 2**32 - 1


# On the Hugging Face Hub, with a branch, tag, commit or pull request if need be.
HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def check_seed(seed: int) -> None:
    """Raises UserError for a seed that is no whole number of 32 bits."""
    if not _is_whole(seed) or not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed {seed} given, a whole number from 0 to {MAX_SEED} is expected")


def check_num_samples(num_samples: int) -> None:
    """Raises UserError for a number of samples below one."""
    if not _is_whole(num_samples) or num_samples < 1:
        raise UserError(f"{num_samples} samples asked for, 1 or more are expected")


def check_guidance_scale(scale: float) -> None:
    """Raises UserError for a guidance scale that is not a finite number."""
    if not isinstance(scale, numbers.Real) or not math.isfinite(scale):
        raise UserError(f"guidance scale {scale} given, a finite number such as 1.5 is expected")


def check_task(sentence: str) -> None:
    """Raises UserError for a task sentence without a word."""
    if not isinstance(sentence, str) or not sentence.strip():
        raise UserError(
            f"the task sentence is {sentence!r}, a question such as "
            '"Colour of the top left digit?" is expected'
        )


def check_tasks(sentences: Sequence[str]) -> None:
    """Raises UserError for no task sentences, one without a word, or one that is there twice."""
    if not sentences:
        raise UserError("no task sentence given, one or more are expected")
    for sentence in sentences:
        check_task(sentence)
    seen: set[str] = set()
    for sentence in sentences:
        text = " ".join(sentence.split()).casefold()
        if text in seen:
            raise UserError(f"the task {sentence!r} is given twice: leave one out")
        seen.add(text)


def check_template(template: str) -> None:
    """Raises UserError for an answer template without a place for the answer."""
    if not isinstance(template, str) or "{}" not in template:
        raise UserError(
            f"the template is {template!r}, a sentence with {{}} in the answer's place is "
            'expected, such as "the colour is {}"'
        )


def check_answers(answers: Sequence[str]) -> None:
    """Raises UserError for less than two answers, an empty one, or one that is there twice."""
    if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
        raise UserError(f"the answers are {answers!r}, a list of strings is expected")
    if len(answers) < 2:
        raise UserError(f"{len(answers)} answer given, two or more are expected: {list(answers)}")
    # The tokenizer sees neither case nor surrounding space.
    seen = [" ".join(answer.split()).casefold() for answer in answers]
    if "" in seen:
        raise UserError(f"answer {seen.index('') + 1} of {len(answers)} is empty: {list(answers)}")
    for answer, key in zip(answers, seen, strict=True):
        if seen.count(key) > 1:
            raise UserError(f"the answer {answer!r} is given twice: {list(answers)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
