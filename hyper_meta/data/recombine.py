"""New sentences from the words of known ones: one word is replaced by another that stands in the
same place of some other sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

WORD = re.compile(r"\w+")


def recombined(
    sentences: Sequence[str], *, most: int, seed: int
) -> list[tuple[str, tuple[int, ...]]]:
    """New sentences, none of the known ones, each with the rows of those that it differs from in
    one word.

    Two words may replace each other where two known sentences differ in nothing else. ("Where is
    the one?" and "Where is the seven?" make "What colour is the seven?" of "What colour is the
    one?".) Whether the result makes sense is not known. At most `most` new sentences are made of
    each known one, drawn by the seed.
    """
    likes = _exchangeable(sentences)
    known, rng = set(sentences), np.random.default_rng(seed)
    made: dict[str, set[int]] = {}
    for row, sentence in enumerate(sentences):
        new = sorted(
            {
                before + other + after
                for before, word, after in _places(sentence)
                for other in likes.get(word, ())
            }
            - known
        )
        for place in rng.permutation(len(new))[:most]:
            made.setdefault(new[place], set()).add(row)
    return [(sentence, tuple(sorted(rows))) for sentence, rows in sorted(made.items())]


def _places(sentence: str) -> list[tuple[str, str, str]]:
    """(what is before, a word, what is after) for each word of a sentence."""
    return [
        (sentence[: found.start()], found.group(), sentence[found.end() :])
        for found in WORD.finditer(sentence)
    ]


def _exchangeable(sentences: Sequence[str]) -> dict[str, set[str]]:
    """Word -> the words that stand in its place in a sentence that is the same else."""
    frames: dict[tuple[str, str], set[str]] = {}
    for sentence in sentences:
        for before, word, after in _places(sentence):
            frames.setdefault((before, after), set()).add(word)
    likes: dict[str, set[str]] = {}
    for words in frames.values():
        for word in words:
            likes.setdefault(word, set()).update(words - {word})
    return likes
