"""The training tasks whose sentences are nearest."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from hyper_meta.methods.interface import Setup, split_questions
from hyper_meta.models.sentences import measure_sentences, sentence_cosine


def nearest_tasks(setup: Setup, split: str, number: int = 1) -> Int[np.ndarray, "T n"]:
    """[T, number] int: the training tasks whose questions are nearest to each of the split, nearest
    first, by the cosine of standardised embeddings; all where there are fewer."""
    known = setup.tables["train"].questions
    cosine = sentence_cosine(measure_sentences(known), split_questions(setup, split), known)
    return np.argsort(-np.asarray(cosine), axis=1, stable=True)[:, :number]
