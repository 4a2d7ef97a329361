"""The feature store: embeddings of all images, questions and answer prompts of a data set, computed
once.

A folder with features.safetensors and manifest.json. The manifest says what the features were
made from, and carries the SHA-256 of the features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from safetensors.numpy import load, save

from hyper_meta.core.files import whole_folder
from hyper_meta.core.types import SentenceFeatures, UserError

MANIFEST = "manifest.json"
FORMAT = 2  # of a store; the first one knew no difference between questions and prompts


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a data set, numpy arrays.

    image_ids: I names; image_features: [I, D] float32; questions: n strings; question_features: of
    each, leading axis n; prompts: m answer prompts; prompt_features: [m, D] float32; skipped: names
    of images that could not be decoded; image_hashes: of the I files, () where they are not known.
    """

    image_ids: tuple[str, ...]
    image_features: Float[np.ndarray, "I D"]
    questions: tuple[str, ...]
    question_features: SentenceFeatures
    prompts: tuple[str, ...]
    prompt_features: Float[np.ndarray, "m D"]
    skipped: tuple[str, ...] = ()
    image_hashes: tuple[str, ...] = ()


def cached_features(
    folder: Path, source: dict[str, str], compute: Callable[[], Features]
) -> Features:
    """Reads the store in folder, or computes and writes it where it is absent or stale.

    source: what the features are made from (hashes of data and encoder, settings); a store made
    from anything else, or of another format, is stale. Raises UserError where the store is damaged,
    or holds features that are not finite numbers.
    """
    if (folder / MANIFEST).exists() and _read_manifest(folder).get("format") == FORMAT:
        stored_source, features = read_store(folder)
        if stored_source == source:
            return features
    features = compute()
    check_finite(features, "the encoder's output")
    write_store(folder, source, features)
    return features


def read_store(folder: Path) -> tuple[dict[str, str], Features]:
    """Returns (source, features). Raises UserError where the store is damaged, or of another
    format."""
    manifest = _read_manifest(folder)
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"feature store {folder} has format {manifest.get('format', 1)}, {FORMAT} is expected: "
            "make it again with hyper-meta prepare"
        )
    try:
        content = (folder / "features.safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise ValueError("its features are not those that were written")
        features = _features_from(manifest, load(content))
        source = manifest["source"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error
    check_finite(features, f"feature store {folder}")
    return source, features


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if not isinstance(manifest, dict):
            raise ValueError("its manifest is no object")
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    return manifest


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"feature store {folder} is damaged ({error}): delete it and run again")


def _features_from(manifest: dict[str, Any], tensors: dict[str, np.ndarray]) -> Features:
    """Raises KeyError, TypeError or ValueError where something is missing or does not fit."""
    features = Features(
        image_ids=tuple(manifest["image_ids"]),
        image_features=tensors["image_features"],
        questions=tuple(manifest["questions"]),
        question_features=SentenceFeatures(
            pooled=tensors["question_features"],
            tokens=tensors.get("question_tokens"),
            mask=tensors.get("question_mask"),
        ),
        prompts=tuple(manifest["prompts"]),
        prompt_features=tensors["prompt_features"],
        skipped=tuple(manifest["skipped"]),
        image_hashes=tuple(manifest.get("image_hashes", ())),
    )
    counts = [
        (len(features.image_ids), features.image_features),
        *((len(features.questions), leaf) for leaf in jax.tree.leaves(features.question_features)),
        (len(features.prompts), features.prompt_features),
    ]
    if any(count != len(values) for count, values in counts):
        raise ValueError("its names are not those of its features")
    return features


def write_store(folder: Path, source: dict[str, str], features: Features) -> None:
    """Writes a store in place of any other in that folder; all of it or nothing."""
    questions = features.question_features
    tensors = {
        "image_features": features.image_features,
        "question_features": questions.pooled,
        "prompt_features": features.prompt_features,
    }
    if questions.tokens is not None:
        tensors |= {"question_tokens": questions.tokens, "question_mask": questions.mask}
    content = save(tensors)
    manifest = {
        "format": FORMAT,
        "source": source,
        "sha256": hashlib.sha256(content).hexdigest(),
        "image_ids": features.image_ids,
        "questions": features.questions,
        "prompts": features.prompts,
        "skipped": features.skipped,
        "image_hashes": features.image_hashes,
    }
    with whole_folder(folder, failure=f"cannot write the feature store {folder}") as partial:
        (partial / "features.safetensors").write_bytes(content)
        (partial / MANIFEST).write_text(json.dumps(manifest))


def check_finite(features: Features, origin: str) -> None:
    """Raises UserError that names the first image or sentence whose features are not finite."""
    parts = [
        (features.image_ids, features.image_features),
        (features.questions, features.question_features.pooled),
        (features.prompts, features.prompt_features),
    ]
    if features.question_features.tokens is not None:
        parts.append((features.questions, features.question_features.tokens))
    for names, values in parts:
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=-1)
        if bad.any():
            raise UserError(
                f"{origin} has {bad.sum()} feature vectors with NaN or infinity, the first of "
                f"{names[int(bad.argmax())]!r}: check that input and the encoder"
            )
