"""What reads questions: the text tower of the image encoder, or a sentence encoder, used alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from hyper_meta.core.types import Array, SentenceFeatures, UserError
from hyper_meta.encoders import folder, sentence_encoder
from hyper_meta.encoders.folder import Encoder
from hyper_meta.encoders.sentence_encoder import SentenceEncoder

QuestionEncoder = Encoder | SentenceEncoder


class _Uses(NamedTuple):
    tokenize: Callable
    encode: Callable
    count: Callable
    longest: Callable


_USES = {
    Encoder: _Uses(
        folder.tokenize,
        folder.encode_questions,
        folder.num_tokens,
        lambda encoder: encoder.config.max_position_embeddings,
    ),
    SentenceEncoder: _Uses(
        sentence_encoder.tokenize_sentences,
        sentence_encoder.encode_sentences,
        sentence_encoder.num_tokens,
        lambda encoder: encoder.longest,
    ),
}


def tokenize_questions(
    encoder: QuestionEncoder, sentences: Sequence[str]
) -> Int[np.ndarray, "B L"]:
    """Token ids [B, L] int32 for `read_questions`, at most `longest` of a sentence: the tail of one
    that has more is cut (see `too_long`)."""
    return _USES[type(encoder)].tokenize(encoder, sentences)


def read_questions(
    encoder: QuestionEncoder, token_ids: Int[Array, "B L"], *, with_tokens: bool
) -> SentenceFeatures:
    """The features of B sentences, float32: pooled [B, Dq], and with_tokens the states [B, L, W] of
    their tokens with a mask. Pure: the encoder is a pytree and may be an argument."""
    return _USES[type(encoder)].encode(encoder, token_ids, with_tokens=with_tokens)


def num_tokens(encoder: QuestionEncoder, sentences: Sequence[str]) -> Int[np.ndarray, " B"]:
    """How many tokens each sentence has, [B] int, those that the encoder adds included."""
    return _USES[type(encoder)].count(encoder, sentences)


def longest(encoder: QuestionEncoder) -> int:
    """The most tokens of a sentence that the encoder reads."""
    return _USES[type(encoder)].longest(encoder)


def check_length(encoder: QuestionEncoder, sentence: str) -> None:
    """Raises UserError for a sentence whose tail the encoder does not read."""
    for count in too_long(encoder, [sentence]).values():
        raise UserError(
            f"the sentence has {count} tokens, its encoder reads {longest(encoder)}, and would not "
            "know the rest: shorten it"
        )


def too_long(encoder: QuestionEncoder, sentences: Sequence[str]) -> dict[str, int]:
    """{sentence: number of its tokens} of those whose tail the encoder does not read."""
    counts = num_tokens(encoder, sentences).tolist()
    most = longest(encoder)
    return {text: count for text, count in zip(sentences, counts, strict=True) if count > most}
