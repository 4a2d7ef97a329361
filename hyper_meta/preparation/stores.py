"""The feature stores of a data set: what is in one is not encoded again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.data.features import (
    MANIFEST,
    Features,
    cached_features,
    check_finite,
    read_store,
    write_store,
)
from hyper_meta.data.source import Source
from hyper_meta.data.tasks import Task
from hyper_meta.encoders.folder import Encoder
from hyper_meta.encoders.questions import QuestionEncoder
from hyper_meta.preparation.encoding import (
    Images,
    Sentences,
    encode_data_set,
    finished,
    with_questions,
    with_tokens,
)
from hyper_meta.preparation.question_encoder import Encoders, tell_assumed, tell_too_long


def tell_of_reading(
    config: RunSettings, encoder: QuestionEncoder, questions: Sequence[str]
) -> None:
    """What a user must know of how questions are read."""
    tell_assumed(encoder, config.question_encoder)
    tell_too_long(encoder, questions, "questions")


def tell_alike(tasks: Sequence[Task], features: Features) -> None:
    """Says on stderr of how many tasks the encoder cannot tell two answers apart."""
    row = {prompt: number for number, prompt in enumerate(features.prompts)}
    alike = []
    for task in tasks:
        answers = features.prompt_features[[row[prompt] for prompt in task.prompts()]]
        _, first, inverse = np.unique(answers, axis=0, return_index=True, return_inverse=True)
        twins = np.flatnonzero(first[inverse.ravel()] != np.arange(len(answers)))
        if len(twins):
            one = task.answers[first[inverse.ravel()[twins[0]]]]
            alike.append(f"{one!r} and {task.answers[twins[0]]!r} of {task.sentence!r}")
    if alike:
        print(
            f"hyper-meta: {len(alike)} of {len(tasks)} tasks have answers that are the same to the "
            f"encoder in their templates, and cannot be told apart; the first are {alike[0]}",
            file=sys.stderr,
        )


def stored_features(
    config: RunSettings,
    encoders: Encoders,
    data: Source,
    source: dict[str, str],
    folder: Path,
) -> Features:
    """The features in the store in folder, computed unless they are there; with token states where
    those are asked for.

    A store with token states serves runs without, too: all else in it is the same. Where a sentence
    encoder reads the questions, a store beside it has images and answers from this one, so that
    another sentence encoder costs no image.
    """
    own = {name: source[name] for name in ("dataset", "encoder")}
    if encoders.is_one:
        features = _own_features(config, encoders.images, data, own, folder)
        return _tokens_as_asked(config, encoders.images, features, own, folder)
    questions = encoders.questions

    def compute() -> Features:
        features = _own_features(config, encoders.images, data, own, folder)
        tell_of_reading(config, questions, features.questions)
        return with_questions(questions, features, with_tokens=config.question_tokens)

    place = folder.with_name(f"{folder.name}-{questions.fingerprint[:12]}")
    features = _without_corrupt(config, place, cached_features(place, source, compute))
    return _tokens_as_asked(config, questions, features, source, place)


def _own_features(
    config: RunSettings,
    encoder: Encoder,
    data: Source,
    source: dict[str, str],
    folder: Path,
) -> Features:
    """All by the encoder of images and its text tower, in the store in folder."""
    parts = folder.with_name(f"{folder.name}.parts")
    everyone = [task for split in data.tasks.values() for task in split]
    sentences = Sentences(
        tuple(sorted({task.sentence for task in everyone})),
        tuple(sorted({prompt for task in everyone for prompt in task.prompts()})),
    )

    def compute() -> Features:
        tell_too_long(encoder, sentences.prompts, "answers in their templates")
        if not config.question_encoder:
            tell_too_long(encoder, sentences.questions, "questions")
        return _with_known(
            encoder,
            data,
            sentences,
            folder,
            source=source,
            parts=parts,
            skip_corrupt=config.skip_corrupt_images,
        )

    features = cached_features(folder, source, compute)
    finished(parts)
    return _without_corrupt(config, folder, features)


def _with_known(
    encoder: Encoder,
    data: Source,
    sentences: Sentences,
    folder: Path,
    *,
    source: dict[str, str],
    parts: Path,
    skip_corrupt: bool,
) -> Features:
    """All features, computed, but for images whose files the store in folder has read already."""
    names = list(data.image_hashes)
    known = _known_images(folder, source["encoder"]) if names else {}
    new = [name for name in names if data.image_hashes[name] not in known]
    images = Images(data.num_images, data.read_images)
    if len(new) < len(names):
        images = Images(len(new), lambda start: data.read_named(new[start:]))
        source = source | {"images": hashlib.sha256("\n".join(new).encode()).hexdigest()}
    encode = functools.partial(encode_data_set, encoder, images, sentences, parts)
    features = encode(source=source, skip_corrupt=skip_corrupt)
    if not names:
        return features
    rows = dict(zip(features.image_ids, features.image_features, strict=True))
    rows |= {name: known[data.image_hashes[name]] for name in set(names).difference(new)}
    ids = tuple(name for name in names if name in rows)
    return dataclasses.replace(
        features,
        image_ids=ids,
        image_features=np.stack([rows[name] for name in ids]),
        image_hashes=tuple(data.image_hashes[name] for name in ids),
    )


def _known_images(folder: Path, encoder: str) -> dict[str, np.ndarray]:
    """{hash of an image's file: its features [D]} of a store, none where there is no such store or
    another encoder made it."""
    if not (folder / MANIFEST).exists():
        return {}
    try:
        source, features = read_store(folder)
    except UserError:  # damaged
        return {}
    if not isinstance(source, dict) or source.get("encoder") != encoder:
        return {}
    return dict(zip(features.image_hashes, features.image_features, strict=False))


def _without_corrupt(config: RunSettings, folder: Path, features: Features) -> Features:
    """The same; raises UserError where images are left out and may not be."""
    if features.skipped and not config.skip_corrupt_images:
        raise UserError(
            f"{folder} lacks {len(features.skipped)} corrupt images, the first "
            f"{features.skipped[0]}: give --config.skip_corrupt_images=True, or delete it"
        )
    return features


def _tokens_as_asked(
    config: RunSettings,
    encoder: QuestionEncoder,
    features: Features,
    source: dict[str, str],
    folder: Path,
) -> Features:
    """The features with or without token states of questions; added to the store once."""
    questions = features.question_features
    if not config.question_tokens:
        whole = SentenceFeatures(questions.pooled)
        return dataclasses.replace(features, question_features=whole)
    if questions.tokens is None:
        features = with_tokens(encoder, features)
        check_finite(features, "the encoder's output")
        write_store(folder, source, features)
    return features
