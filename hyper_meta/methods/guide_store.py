"""The guides that an evaluation leaves in the folder of a seed: guides/NAME/, one for each language
method, and guides.json, which says which was best on the validation tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from hyper_meta.core.configuration import CONFIG_FILE
from hyper_meta.core.files import read_json, write_json
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.methods.guides import Guide, GuideMaker
from hyper_meta.methods.trust import Trust, trust_from, trust_notes
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train import checkpoints

INDEX, FOLDER = "guides.json", "guides"
SCORES = "scores.json"  # with it, all rows are scored


@dataclasses.dataclass(frozen=True)
class StoredGuide:
    """A guide, the value of its settings that was chosen, how far it can be trusted, the features
    of the images that this is judged on, {training sentence: answer template} and the pooled
    features of those sentences, and the notes that were saved with it."""

    guide: Guide
    value: Any
    trust: Trust
    images: Float[np.ndarray, "n D"]
    templates: dict[str, str]
    sentences: Float[np.ndarray, "m Dq"]
    notes: dict[str, Any]


def save_guides(
    folder: Path,
    guides: Sequence[Guide],
    *,
    chosen: Mapping[str, str],
    trusts: Mapping[str, Trust],
    images: Float[np.ndarray, "n D"],
    templates: Mapping[str, str],
    sentences: Float[np.ndarray, "m Dq"],
    notes: Mapping[str, Any],
) -> None:
    """Saves guides that are not there yet, and the index.

    folder: of the seed.
    chosen, trusts: by name, the setting that is best on validation tasks, and what is known of it
    at that setting. images: features of those that sentences are judged on. templates, sentences:
    see StoredGuide.
    notes: JSON values that every guide is saved with.
    """
    for guide in guides:
        if not (folder / FOLDER / guide.name).exists():
            save_guide(
                folder,
                guide,
                value=guide.settings[chosen[guide.name]],
                trust=trusts[guide.name],
                images=images,
                templates=templates,
                sentences=sentences,
                notes=notes,
            )
    write_index(folder, {guide.name: trusts[guide.name].mean for guide in guides})


def save_guide(
    folder: Path,
    guide: Guide,
    *,
    value: Any,
    trust: Trust,
    images: Float[np.ndarray, "n D"],
    templates: Mapping[str, str],
    sentences: Float[np.ndarray, "m Dq"],
    notes: Mapping[str, Any],
) -> None:
    """Saves a guide at one value of its settings; the rest as `save_guides`."""
    own = {
        "setting": value,
        "images": len(images),
        "templates": dict(templates),
        "trust": trust_notes(trust),
    }
    tree = {"guide": guide.model, "images": images, "sentences": sentences}
    checkpoints.save_tree(folder / FOLDER / guide.name, tree, notes={**notes, **own})


def write_index(folder: Path, accuracy: Mapping[str, float]) -> None:
    """Writes which guides there are, with their accuracies on validation tasks, and the best."""
    best = max(accuracy, key=lambda name: accuracy[name])
    write_json(folder / INDEX, {"best": best, "accuracy": dict(accuracy)})


def again(folder: Path) -> str:
    """What to do where something is wrong with what a folder of a seed, or of a model that was
    exported, should hold."""
    if (folder / CONFIG_FILE).exists():
        return "get this model again from where it was exported"
    return f"run hyper-meta evaluate --workdir {folder.parent}"


def _of_no_use(folder: Path, name: str, problem: str) -> UserError:
    """An error for what was left in a folder under this name."""
    path = folder / name
    removed = "remove it, and " if path.exists() else ""
    return UserError(f"{path} {problem}: {removed}{again(folder)}")


def choose_guide(folder: Path, name: str | None) -> str:
    """The name of a guide in the folder of a seed: the one asked for, or the best.

    Raises UserError where there is no index, or no guide of that name in it.
    """
    index = read_json(folder / INDEX)
    try:
        best, known = index["best"], list(index["accuracy"])
    except (KeyError, TypeError) as error:
        raise _of_no_use(folder, INDEX, f"is damaged, it has no {error}") from error
    if name is not None and name not in known:
        raise UserError(
            f"method {name!r} given, this run has the guides {', '.join(known)}: name one of them, "
            "or run it with a configuration that lists yours in methods"
        )
    return best if name is None else name


def read_notes(folder: Path, name: str) -> dict[str, Any]:
    """The notes that a guide was saved with, before its arrays are read."""
    guide = f"{FOLDER}/{name}"
    path = folder / guide / "notes.json"
    if not path.parent.exists():
        raise _of_no_use(folder, guide, "is missing")
    if not path.is_file():
        raise _of_no_use(folder, guide, "is damaged, it has no notes.json")
    notes = read_json(path)
    if not isinstance(notes, dict):
        raise _of_no_use(folder, guide, "is damaged, its notes.json is no object")
    return notes


def noted(folder: Path, name: str, what: str) -> Any:
    """One of the notes that a guide was saved with."""
    notes = read_notes(folder, name)
    if what not in notes:
        raise _of_no_use(folder, f"{FOLDER}/{name}", f"is damaged, its notes.json says no {what}")
    return notes[what]


def load_guide(
    folder: Path,
    name: str,
    maker: GuideMaker,
    *,
    config: RunSettings,
    network: BaseNetwork,
    sentence: SentenceFeatures,
) -> StoredGuide:
    """Reads a guide that was saved.

    sentence: features of any sentence, for their widths. Raises UserError where it is missing,
    damaged, or of another configuration.
    """
    num_images = noted(folder, name, "images")
    if not isinstance(num_images, int):
        problem = f"is damaged, its notes.json has {num_images!r} images"
        raise _of_no_use(folder, f"{FOLDER}/{name}", problem)
    templates = noted(folder, name, "templates")
    shapes = {
        "guide": maker.shapes(config, network, sentence),
        "images": jax.ShapeDtypeStruct((num_images, network.embed_dim), np.float32),
        "sentences": jax.ShapeDtypeStruct((len(templates), *sentence.pooled.shape), np.float32),
    }
    path = folder / FOLDER / name
    advice = f"remove it, and {again(folder)}"
    tree, notes = checkpoints.restore_tree(path, shapes, advice=advice)
    try:
        trust = trust_from(notes["trust"])
    except (KeyError, UserError) as error:
        problem = f"is of another version of hyper-meta ({error})"
        raise _of_no_use(folder, f"{FOLDER}/{name}", problem) from error
    value = noted(folder, name, "setting")
    value = tuple(value) if isinstance(value, list) else value
    guide = maker.make(config, network, tree["guide"])
    arrays = {what: tree[what] for what in ("images", "sentences")}
    return StoredGuide(guide, value, trust, **arrays, templates=templates, notes=notes)
