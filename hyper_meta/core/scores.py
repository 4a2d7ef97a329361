"""The score of a method on the query sets of tasks."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scores:
    """Results of one method on T tasks, and of several seeds or samples by their mean.

    correct: [T] float, right answers on the query set (not whole where it is a mean over samples).
    count: [T] float, the size of the query set.
    """

    correct: np.ndarray
    count: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """[T] float in [0, 1], the accuracy on each task."""
        return self.correct / self.count
