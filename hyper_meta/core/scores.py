"""The score of a method on the query sets of tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Scores:
    """Results of one method on T tasks, and of several seeds or samples by their mean.

    correct: right answers on the query set (not whole where it is a mean over samples).
    count: the size of the query set.
    """

    correct: Float[Any, "*T"]
    count: Float[Any, "*T"]

    @property
    def accuracy(self) -> Float[Any, "*T"]:
        """In [0, 1], the accuracy on each task."""
        return self.correct / self.count
