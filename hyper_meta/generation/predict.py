"""From generated weights to answers about images."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image

from hyper_meta.core import parallel
from hyper_meta.core.arguments import check_answers, check_template
from hyper_meta.core.files import reason
from hyper_meta.core.numerics import own_numerics
from hyper_meta.core.progress import progress_bar
from hyper_meta.core.types import UserError
from hyper_meta.data.images import CorruptImage, decode
from hyper_meta.encoders.folder import (
    Encoder,
    encode_images,
    encode_texts,
    preprocess,
    tokenize,
)
from hyper_meta.encoders.questions import too_long
from hyper_meta.generation.weights_file import Weights
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.preparation.prepare import EncoderChoice, open_encoder

MOST_BYTES = 1 << 29  # of an image file
IMAGE_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Predictions:
    """answer: the most probable answer to each of N images, of the mean sample or of all together;
    probabilities: [N, A] float32, a row sums to 1; agreement: [N] float32 in [0, 1], the share of
    samples that give the same answer; template: the sentence that the answers were put in."""

    answer: tuple[str, ...]
    probabilities: Float[np.ndarray, "N A"]
    agreement: Float[np.ndarray, " N"]
    template: str


@own_numerics()
def predict(
    weights: Weights,
    images: Sequence[str | os.PathLike | Image.Image | np.ndarray],
    *,
    answers: Sequence[str],
    template: str | None = None,
    progress: bool = False,
) -> Predictions:
    """Answers the task of the weights for images of any size.

    images: N files, PIL images or uint8 arrays [H, W, 3]; answers: A of them; template: None for
    the one of the weights that fits the answers best; progress: whether a bar counts the images.
    Files are held IMAGE_BATCH at a time, and all are opened before anything is computed: UserError
    is raised where one cannot be read. The probabilities are not calibrated.
    """
    check_answers(answers)
    template = choose_template(weights.templates, answers) if template is None else template
    check_template(template)
    check_images(images, progress)
    encoder = fetch_encoder(weights.encoder, weights.encoder_fingerprint)
    network = weights.network
    if network.embed_dim != encoder.config.projection_dim:
        raise UserError(
            f"the weights are of a network of {network.embed_dim} features, "
            f"the encoder {weights.encoder.name} has {encoder.config.projection_dim}"
        )
    prompts = _embed_answers(encoder, template, answers)
    networks = np.concatenate([weights.weights[None], weights.samples])
    features = _encode(encoder, images, progress)
    logits = np.array(jax.jit(functools.partial(_logits, network))(networks, features, prompts))
    if not np.isfinite(logits).all():
        raise UserError(
            f"the networks of these weights give no finite answers, their largest weight is "
            f"{np.abs(networks).max():.3g}: generate them again"
        )
    if weights.votes:
        logits[0] = jax.nn.log_softmax(logits[1:], axis=-1).mean(axis=0)
    chosen = logits.argmax(axis=-1)
    return Predictions(
        answer=tuple(answers[row] for row in chosen[0]),
        probabilities=np.asarray(jax.nn.softmax(logits[0], axis=-1)),
        agreement=(chosen[1:] == chosen[0]).mean(axis=0, dtype=np.float32),
        template=template,
    )


def choose_template(templates: Mapping[str, Sequence[str]], answers: Sequence[str]) -> str:
    """The template that was trained with most of the answers, the first of equals."""
    given = {" ".join(answer.split()).casefold() for answer in answers}
    return max(
        templates, key=lambda name: len(given.intersection(map(str.casefold, templates[name])))
    )


def check_images(images: Sequence[Any], progress: bool) -> None:
    """Raises UserError for what is no list of images, and for files that cannot be read."""
    if isinstance(images, np.ndarray) and images.ndim < 4:
        raise UserError(
            f"the images are one array {images.shape}: a list of arrays [H, W, 3] is expected, or "
            "an array [N, H, W, 3]"
        )
    if isinstance(images, (str, os.PathLike, Image.Image)) or not len(images):
        raise UserError(f"the images are {images!r}, a list of one or more is expected")
    files = [image for image in images if isinstance(image, (str, os.PathLike))]
    for file in files:
        _check_file(Path(file))
    for file in progress_bar(files, desc="open", unit="image", disable=not progress):
        _open(file)


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read image {path}: {reason(error)}") from error
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"cannot read image {path}: it is a device, a pipe or a socket")
    if path.is_file() and size > MOST_BYTES:
        raise UserError(
            f"cannot read image {path}: it has {size:,} bytes, at most {MOST_BYTES:,} are read"
        )


def _open(image: Any) -> Image.Image | np.ndarray:
    if not isinstance(image, (str, os.PathLike)):
        return image
    try:
        return decode(str(image), Path(image).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read image {image}: {reason(error)}") from error
    except CorruptImage as error:
        raise UserError(f"cannot read image: {error}") from error


@functools.lru_cache(maxsize=2)
def fetch_encoder(choice: EncoderChoice, fingerprint: str) -> Encoder:
    """An encoder of this fingerprint, opened once for all calls that use it. Raises UserError where
    the encoder of that name has another."""
    encoder = open_encoder(choice)
    if encoder.fingerprint != fingerprint:
        raise UserError(
            f"made with another encoder ({fingerprint[:12]}) than {choice.name} "
            f"({encoder.fingerprint[:12]}): put that one back, or train and generate with this one"
        )
    return encoder


def _embed_answers(encoder: Encoder, template: str, answers: Sequence[str]) -> np.ndarray:
    """[A, D] float32; raises UserError where two answers are the same to the encoder, or it does
    not read one to its end."""
    prompts = [template.replace("{}", answer) for answer in answers]
    token_ids = tokenize(encoder, prompts)
    _, first, inverse = np.unique(token_ids, axis=0, return_index=True, return_inverse=True)
    for row, same in enumerate(first[inverse.ravel()]):
        if row != same:
            raise UserError(
                f"the encoder cannot tell {answers[same]!r} from {answers[row]!r}: it reads the "
                f"first {encoder.config.max_position_embeddings} tokens of {prompts[row]!r}"
            )
    for prompt, count in too_long(encoder, prompts).items():
        raise UserError(
            f"{prompt!r} has {count} tokens, the encoder reads "
            f"{encoder.config.max_position_embeddings}: shorten the answer or its template"
        )
    return np.asarray(jax.jit(encode_texts)(encoder, token_ids))


def _encode(encoder: Encoder, images: Sequence[Any], progress: bool) -> np.ndarray:
    """[N, D] float32, in batches of one size."""
    size = min(IMAGE_BATCH, len(images))
    run = jax.jit(encode_images)
    parts = []
    with progress_bar(total=len(images), desc="predict", unit="image", disable=not progress) as bar:
        for start in range(0, len(images), size):
            pixels = preprocess(encoder, [_open(image) for image in images[start : start + size]])
            filled = parallel.fill_rows(pixels, size)
            parts.append(np.asarray(run(encoder, filled))[: len(pixels)])
            bar.update(len(pixels))
    return np.concatenate(parts)


def _logits(
    network: BaseNetwork, networks: jax.Array, features: jax.Array, answers: jax.Array
) -> jax.Array:
    """Weights [n, P], images [N, D], prompts [A, D] float32 -> [n, N, A] float32."""
    mask = jnp.ones(len(answers), bool)
    return jax.vmap(lambda weights: network.logits(weights, features, answers, mask))(networks)
