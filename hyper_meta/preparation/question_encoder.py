"""The encoder of questions that a configuration chooses: the image encoder's own text tower, or a
sentence encoder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import UserError
from hyper_meta.encoders import hub
from hyper_meta.encoders.folder import Encoder
from hyper_meta.encoders.installed import SOURCES, read_installed
from hyper_meta.encoders.questions import QuestionEncoder, longest, too_long
from hyper_meta.encoders.sentence_encoder import (
    SentenceEncoder,
    load_sentence_encoder,
    read_folder,
)


class Encoders(NamedTuple):
    """images: also of answer prompts; questions: the same one, or a sentence encoder."""

    images: Encoder
    questions: QuestionEncoder

    @property
    def is_one(self) -> bool:
        """Whether questions are read by the text tower of the encoder of images."""
        return self.questions is self.images


def open_question_encoder(config: RunSettings) -> SentenceEncoder | None:
    """The sentence encoder that a config names, None where it names none.

    Its name is one of `installed.SOURCES`, a folder, or one of the Hugging Face Hub. Raises
    UserError where it cannot be got or is none.
    """
    name = config.question_encoder
    if not name:
        return None
    path = Path(name).expanduser()
    if name in SOURCES:
        files = read_installed(name)
    elif path.exists() or not hub.is_hub_name(name):
        if not path.exists():
            raise UserError(
                f"question_encoder={name!r} given: there is no such folder, and it is neither "
                f"{', '.join(SOURCES)} nor a name of the Hub such as intfloat/e5-small-v2"
            )
        files = read_folder(path)
    else:
        files = read_folder(hub.fetch(name, hub.SENTENCE_ENCODER))
    return load_sentence_encoder(
        files,
        name,
        layer=config.question_layer,
        prefix=config.question_prefix,
        dtype=config.encoder_dtype,
    )


def tell_assumed(encoder: QuestionEncoder, name: str) -> None:
    """Says on stderr where nothing in its folder tells how a sentence encoder pools."""
    if isinstance(encoder, SentenceEncoder) and encoder.layout.is_assumed:
        print(
            f"hyper-meta: {name} has no modules.json, which would say how its tokens become one "
            "vector: their mean is taken",
            file=sys.stderr,
        )


def tell_too_long(encoder: QuestionEncoder, sentences: Sequence[str], what: str) -> None:
    """Says on stderr of how many sentences the tail is not read. what: they are called."""
    tokens = too_long(encoder, sentences)
    if tokens:
        text, count = max(tokens.items(), key=lambda item: item[1])
        print(
            f"hyper-meta: {len(tokens)} of {len(sentences)} {what} have more tokens than the "
            f"{longest(encoder)} that their encoder reads, and their tails are left out; the "
            f"longest has {count}: {text!r}",
            file=sys.stderr,
        )
