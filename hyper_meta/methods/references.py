"""What needs no training: the most common answer, and CLIP as base model (method.md section 3)."""

from __future__ import annotations

import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.meta import scoring
from hyper_meta.methods.cache import Program
from hyper_meta.methods.interface import Method, Row, Setup, compile_scores
from hyper_meta.methods.trained import Trained


def _rows(setup: Setup, trained: Trained) -> list[Row]:
    score = compile_scores(setup, Program("clip"), scoring.scores_of(scoring.clip_method))

    def majority(split: str, _: None, shots: int | None) -> Scores:
        return majority_scores(setup.tasks[split])

    def clip(split: str, _: None, shots: int | None) -> Scores:
        return score(parallel.replicate({}), None, split)

    return [
        Row("majority", "most common answer", "reference", majority),
        Row("clip", "CLIP as base model", "reference", clip),
    ]


def majority_scores(tasks: list) -> Scores:
    """Always the most common answer of the support set (the first of equals)."""
    correct = []
    for task in tasks:
        guess = np.bincount([label for _, label in task.support]).argmax()
        correct.append(sum(label == guess for _, label in task.query))
    count = [len(task.query) for task in tasks]
    return Scores(np.array(correct, float), np.array(count, float))


METHOD = Method(rows=_rows, summary="no training: the most common answer, and CLIP zero-shot")
