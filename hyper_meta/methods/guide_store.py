"""The guides that an evaluation leaves in the folder of a seed: guides/NAME/, one for each language
method, and guides.json, which says which was best on the validation tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyper_meta.core.files import read_json, write_json
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.methods.guides import Guide, GuideMaker
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train import checkpoints

INDEX, FOLDER = "guides.json", "guides"
SCORES = "scores.json"  # with it, an evaluation is finished, and not done again


@dataclasses.dataclass(frozen=True)
class StoredGuide:
    """A guide, the value of its settings that was chosen, and the notes that were saved with it."""

    guide: Guide
    value: Any
    notes: dict[str, Any]


def save_guides(
    folder: Path,
    guides: Sequence[Guide],
    *,
    chosen: Mapping[str, str],
    accuracy: Mapping[str, float],
    notes: Mapping[str, Any],
) -> None:
    """Saves guides that are not there yet, and the index.

    folder: of the seed.
    chosen, accuracy: by name, the setting that is best on validation tasks, and its mean accuracy.
    notes: JSON values that every guide is saved with.
    """
    for guide in guides:
        path = folder / FOLDER / guide.name
        if not path.exists():
            value = guide.settings[chosen[guide.name]]
            checkpoints.save_tree(path, guide.model, notes={**notes, "setting": value})
    names = [guide.name for guide in guides]
    best = max(names, key=lambda name: accuracy[name])
    write_json(folder / INDEX, {"best": best, "accuracy": {name: accuracy[name] for name in names}})


def again(folder: Path) -> str:
    """What to do where the guides in the folder of a seed are damaged."""
    return (
        f"remove {folder / FOLDER} and {folder / SCORES}, and run hyper-meta evaluate --workdir "
        f"{folder.parent}"
    )


def choose_guide(folder: Path, name: str | None) -> str:
    """The name of a guide in the folder of a seed: the one asked for, or the best.

    Raises UserError where there is no index, or no guide of that name in it.
    """
    index = read_json(folder / INDEX)
    try:
        best, known = index["best"], list(index["accuracy"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / INDEX} is damaged, it has no {error}: {again(folder)}"
        ) from error
    if name is not None and name not in known:
        raise UserError(
            f"method {name!r} given, this run has the guides {', '.join(known)}: name one of them, "
            "or run it with a configuration that lists yours in methods"
        )
    return best if name is None else name


def read_notes(folder: Path, name: str) -> dict[str, Any]:
    """The notes that a guide was saved with, before its arrays are read."""
    path = folder / FOLDER / name / "notes.json"
    if not path.is_file():
        raise UserError(f"{path.parent} is damaged, it has no notes.json: {again(folder)}")
    notes = read_json(path)
    if not isinstance(notes, dict):
        raise UserError(f"{path.parent} is damaged, its notes.json is no object: {again(folder)}")
    return notes


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
    shapes = maker.shapes(config, network, sentence)
    model, notes = checkpoints.restore_tree(folder / FOLDER / name, shapes)
    if not isinstance(notes, dict) or "setting" not in notes:
        raise UserError(
            f"{folder / FOLDER / name} is damaged, its notes.json says no setting: {again(folder)}"
        )
    value = notes["setting"]
    return StoredGuide(
        maker.make(config, network, model),
        tuple(value) if isinstance(value, list) else value,
        notes,
    )
