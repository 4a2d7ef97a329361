"""Features of a whole data set: images are decoded on all cores while the devices encode the last
ones, and what is encoded survives an interruption, part by part."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from hyper_meta.core import parallel
from hyper_meta.core.files import write_bytes
from hyper_meta.core.progress import progress_bar
from hyper_meta.core.tensors import tensor_bytes
from hyper_meta.core.types import Array, SentenceFeatures, UserError
from hyper_meta.data.features import Features
from hyper_meta.data.images import CorruptImage, decode
from hyper_meta.encoders.folder import Encoder, encode_images, encode_texts, preprocess
from hyper_meta.encoders.questions import QuestionEncoder, read_questions, tokenize_questions

MOST_IN_BATCH = 256  # of one device
# Floats of one layer in a batch of images, at most: what keeps an accelerator busy, and what does
# not leave the caches of a CPU.
ACTIVATIONS = {"cpu": 2**20}
MOST_ACTIVATIONS = 2**23
BATCHES_IN_PART = 16


class Images(NamedTuple):
    """count: how many; read: start -> (image id, encoded image), from the start-th on."""

    count: int
    read: Callable[[int], Iterator[tuple[str, bytes]]]


class Sentences(NamedTuple):
    """What is asked, and the answer prompts, each once."""

    questions: tuple[str, ...]
    prompts: tuple[str, ...]


class Part(NamedTuple):
    """ids: of n images; features: [n, D] float32; skipped: ids of images that are corrupt."""

    ids: list[str]
    features: Float[Array, "n D"]
    skipped: list[str]


def encode_data_set(
    encoder: Encoder,
    images: Images,
    sentences: Sentences,
    folder: Path,
    *,
    source: dict[str, str],
    skip_corrupt: bool,
) -> Features:
    """Encodes images, and sentences as a whole, on all local devices.

    folder: where parts are kept until `finished`; those of another source are encoded again.
    skip_corrupt: leaves out images that cannot be decoded, else the first is a UserError.
    """
    run = compile_encoding(encoder, encode_images)
    kept = {"folder": folder, "source": source, "skip_corrupt": skip_corrupt}
    parts = list(encode_parts(encoder, images, run=run, **kept))
    none = np.zeros((0, encoder.config.projection_dim), np.float32)
    texts = sorted({*sentences.questions, *sentences.prompts})
    pooled = _encode_sentences(encoder, texts, encode_texts)
    row = {text: number for number, text in enumerate(texts)}
    question_rows, prompt_rows = ([row[text] for text in part] for part in sentences)
    return Features(
        image_ids=tuple(name for part in parts for name in part.ids),
        image_features=np.concatenate([none, *(part.features for part in parts)]),
        questions=sentences.questions,
        question_features=SentenceFeatures(pooled[question_rows]),
        prompts=sentences.prompts,
        prompt_features=pooled[prompt_rows],
        skipped=tuple(name for part in parts for name in part.skipped),
    )


def encode_sentences(
    encoder: QuestionEncoder, sentences: Sequence[str], *, with_tokens: bool
) -> SentenceFeatures:
    """The features of n sentences, numpy, leading axis n, on the local devices."""
    encode = functools.partial(read_questions, with_tokens=with_tokens)
    return _encode_sentences(encoder, sentences, encode)


def with_questions(encoder: QuestionEncoder, features: Features, *, with_tokens: bool) -> Features:
    """The features with those of their questions by this encoder, all else as it is."""
    encoded = encode_sentences(encoder, features.questions, with_tokens=with_tokens)
    return dataclasses.replace(features, question_features=encoded)


def with_tokens(encoder: QuestionEncoder, features: Features) -> Features:
    """The features with the token states of their questions too, all else as it is."""
    encoded = with_questions(encoder, features, with_tokens=True).question_features
    known = features.question_features
    questions = known.replace(tokens=encoded.tokens, mask=encoded.mask)
    return dataclasses.replace(features, question_features=questions)


def finished(folder: Path) -> None:
    """Removes the parts, once what was made of them is kept elsewhere."""
    shutil.rmtree(folder, ignore_errors=True)


def batch_size(encoder: Encoder) -> int:
    """Images in a batch of one device: fewer of a large model."""
    config = encoder.config
    positions = (config.image_size // config.patch_size) ** 2 + 1
    floats = ACTIVATIONS.get(jax.default_backend(), MOST_ACTIVATIONS)
    fitting = floats // (positions * config.vision.hidden_size)
    return max(1, min(MOST_IN_BATCH, fitting))


def images_per_second(encoder: Encoder) -> float:
    """How many images the devices encode in a second, measured on one batch after compilation."""
    size = batch_size(encoder) * jax.local_device_count()
    run = compile_encoding(encoder, encode_images)
    pixels = np.zeros((size, *[encoder.config.image_size] * 2, 3), np.float32)
    run(pixels, size)
    start = time.perf_counter()
    run(pixels, size)
    return size / (time.perf_counter() - start)


def encode_parts(
    encoder: Encoder,
    images: Images,
    *,
    run: Callable,
    folder: Path,
    source: dict[str, str],
    skip_corrupt: bool,
) -> Iterator[Part]:
    """All parts in order, those that are kept in folder first. run: of `compile_encoding`."""
    size = batch_size(encoder) * jax.local_device_count()
    with progress_bar(total=images.count, desc="encoding images", unit="image") as bar:
        start = 0
        while start < images.count and (part := _read_part(folder, start, source)):
            yield part
            num_images = len(part.ids) + len(part.skipped)  # another number of devices cut them
            bar.update(num_images)
            start += num_images
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = _decoded(encoder, images.read(start), pool, ahead=2 * size)
            while start < images.count:
                num_images = min(size * BATCHES_IN_PART, images.count - start)
                batches = (
                    _next_batch(decoded, min(size, num_images - first), skip_corrupt=skip_corrupt)
                    for first in range(0, num_images, size)
                )
                part = _encode_part(batches, size=size, run=run, bar=bar)
                _write_part(folder, start, source, part)
                yield part
                start += num_images


def _encode_part(batches: Iterable[Part], *, size: int, run: Callable, bar: tqdm) -> Part:
    """The features of batches of pixels, each computed as one of `size`."""
    ids, features, skipped = [], [], []
    for batch in batches:
        features.append(run(batch.features, size))
        ids += batch.ids
        skipped += batch.skipped
        bar.update(len(batch.ids) + len(batch.skipped))
    return Part(ids, np.concatenate(features), skipped)


def _decoded(
    encoder: Encoder, images: Iterable[tuple[str, bytes]], pool: ThreadPoolExecutor, *, ahead: int
) -> Iterator[tuple[str, Future]]:
    """(image id, its pixels to come), with so many others in the making."""
    waiting: collections.deque[tuple[str, Future]] = collections.deque()
    for name, content in images:
        waiting.append((name, pool.submit(_pixels, encoder, name, content)))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _pixels(encoder: Encoder, name: str, content: bytes) -> np.ndarray:
    return preprocess(encoder, [decode(name, content)])[0]


def _next_batch(
    decoded: Iterator[tuple[str, Future]], num_images: int, *, skip_corrupt: bool
) -> Part:
    """The next images, pixels for features."""
    ids, pixels, skipped = [], [], []
    for _ in range(num_images):
        name, future = next(decoded)
        try:
            pixels.append(future.result())
            ids.append(name)
        except CorruptImage as error:
            if not skip_corrupt:
                raise UserError(
                    f"image {error}: replace it, or leave out all such images with "
                    "--config.skip_corrupt_images=True"
                ) from error
            skipped.append(name)
    return Part(ids, pixels, skipped)


def compile_encoding(encoder: QuestionEncoder, encode: Callable) -> Callable:
    """(inputs [n, ...], size) -> what `encode` makes of them, numpy leaves [n, ...], computed as a
    batch of that size on the local devices.

    encode: (encoder, inputs) -> leaves [n, ...]; of no images, features [0, D].
    """
    mapped = parallel.compile_map(lambda encoder, _, batch: encode(encoder, batch), local=True)
    replicated = parallel.replicate(encoder)

    def run(inputs: Sequence[np.ndarray], size: int) -> np.ndarray:
        if not len(inputs):
            return np.zeros((0, encoder.config.projection_dim), np.float32)
        encoded = mapped(replicated, None, parallel.fill_rows(np.stack(inputs), size))
        return jax.tree.map(lambda leaf: leaf[: len(inputs)], encoded)

    return run


def _encode_sentences(encoder: QuestionEncoder, sentences: Sequence[str], encode: Callable) -> Any:
    """What `encode` makes of n sentences, numpy leaves [n, ...]."""
    tokens = tokenize_questions(encoder, sentences)
    size = MOST_IN_BATCH * jax.local_device_count()
    run = compile_encoding(encoder, encode)
    starts = progress_bar(range(0, len(tokens), size), desc="encoding sentences", unit="batch")
    parts = [run(tokens[start : start + size], size) for start in starts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _part_path(folder: Path, start: int) -> Path:
    return folder / f"images_{start:08d}.safetensors"


def _write_part(folder: Path, start: int, source: dict[str, str], part: Part) -> None:
    notes = {"source": source, "ids": part.ids, "skipped": part.skipped}
    metadata = {key: json.dumps(value) for key, value in notes.items()}
    write_bytes(_part_path(folder, start), tensor_bytes({"features": part.features}, metadata))


def _read_part(folder: Path, start: int, source: dict[str, str]) -> Part | None:
    """A part that was kept, None where it is absent, damaged or of another source."""
    try:
        with safe_open(_part_path(folder, start), framework="numpy") as file:
            notes = {key: json.loads(value) for key, value in file.metadata().items()}
            part = Part(notes["ids"], file.get_tensor("features"), notes["skipped"])
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    return part if notes["source"] == source else None
