"""The feature store: embeddings of every image and sentence of a data set, computed once.

A folder with features.safetensors and manifest.json. The manifest says what the features were
made from, and carries the SHA-256 of the features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from hyper_meta.core.files import whole_folder
from hyper_meta.core.types import UserError

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Features:
    """image_ids: I names; image_features: [I, D] float32; sentences: n strings;
    sentence_features: [n, D] float32; skipped: names of images that could not be decoded."""

    image_ids: tuple[str, ...]
    image_features: np.ndarray
    sentences: tuple[str, ...]
    sentence_features: np.ndarray
    skipped: tuple[str, ...] = ()


def cached_features(
    folder: Path, source: dict[str, str], compute: Callable[[], Features]
) -> Features:
    """Reads the store in folder, or computes and writes it where it is absent or stale.

    source: what the features are made from (hashes of data and encoder, settings); a store made
    from anything else is stale. Raises UserError where the store is damaged, or holds features
    that are not finite numbers.
    """
    if (folder / MANIFEST).exists():
        stored_source, features = read_store(folder)
        if stored_source == source:
            return features
    features = compute()
    check_finite(features, "the encoder's output")
    write_store(folder, source, features)
    return features


def read_store(folder: Path) -> tuple[dict[str, str], Features]:
    """Returns (source, features). Raises UserError where the store is damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        content = (folder / "features.safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise ValueError("its features are not those that were written")
        tensors = load(content)
        features = Features(
            image_ids=tuple(manifest["image_ids"]),
            image_features=tensors["image_features"],
            sentences=tuple(manifest["sentences"]),
            sentence_features=tensors["sentence_features"],
            skipped=tuple(manifest.get("skipped", ())),
        )
        source = manifest["source"]
        counts = len(features.image_ids), len(features.sentences)
        if counts != (len(features.image_features), len(features.sentence_features)):
            raise ValueError("its names are not those of its features")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"feature store {folder} is damaged ({error}): delete it and run again"
        ) from error
    check_finite(features, f"feature store {folder}")
    return source, features


def write_store(folder: Path, source: dict[str, str], features: Features) -> None:
    """Writes a store in place of any other in that folder; all of it or nothing."""
    content = save(
        {
            "image_features": features.image_features,
            "sentence_features": features.sentence_features,
        }
    )
    manifest = {
        "source": source,
        "sha256": hashlib.sha256(content).hexdigest(),
        "image_ids": features.image_ids,
        "sentences": features.sentences,
        "skipped": features.skipped,
    }
    with whole_folder(folder, failure=f"cannot write the feature store {folder}") as partial:
        (partial / "features.safetensors").write_bytes(content)
        (partial / MANIFEST).write_text(json.dumps(manifest))


def check_finite(features: Features, origin: str) -> None:
    """Raises UserError that names the first image or sentence whose features are not finite."""
    for names, values in (
        (features.image_ids, features.image_features),
        (features.sentences, features.sentence_features),
    ):
        bad = ~np.isfinite(values).all(axis=-1)
        if bad.any():
            raise UserError(
                f"{origin} has {bad.sum()} feature vectors with NaN or infinity, the first of "
                f"{names[int(bad.argmax())]!r}: check that input and the encoder"
            )
