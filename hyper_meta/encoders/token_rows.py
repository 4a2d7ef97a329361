"""From sentences to rows of token ids, alike for every encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from hyper_meta.core.types import UserError

# Sentences are padded to a multiple of this, so that a jitted encoder compiles for few lengths.
LENGTH_STEP = 8


def check_sentences(sentences: Sequence[str]) -> None:
    """Raises UserError for no sentences, and for what is no list of Unicode strings."""
    if isinstance(sentences, str) or not all(isinstance(text, str) for text in sentences):
        raise UserError("sentences must be a list of strings")
    if not sentences:
        raise UserError("no sentences given")
    try:
        "".join(sentences).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"sentences are not valid Unicode: {error}") from error


def pad_rows(
    rows: Sequence[Sequence[int]], *, longest: int, fill: int, shortest: int = 0
) -> Int[np.ndarray, "B L"]:
    """Token ids [B, L] int32: L is the longest row rounded up to a multiple of LENGTH_STEP, at
    least `shortest` and at most `longest`; shorter rows end in `fill`."""
    needed = max(shortest, *(len(ids) for ids in rows))
    length = min(-(-needed // LENGTH_STEP) * LENGTH_STEP, longest)
    token_ids = np.full((len(rows), length), fill, np.int32)
    for row, ids in zip(token_ids, rows, strict=True):
        row[: len(ids)] = ids
    return token_ids
