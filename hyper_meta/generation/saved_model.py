"""A model as a folder that can be handed on: `Model.save_pretrained`, `load_model` reads it.

It is laid out as a work directory of one seed and one guide: config.json, guides.json,
guides/NAME/ (safetensors and JSON), and beside these README.md, a card written by `model_card`. An
encoder that is a folder comes along in encoder/ or question_encoder/; one of the Hub is named with
its revision.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hyper_meta.core.configuration import CONFIG_FILE, write_settings
from hyper_meta.core.files import check_empty, whole_folder
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import UserError
from hyper_meta.encoders import hub
from hyper_meta.encoders.installed import SOURCES
from hyper_meta.methods.guide_store import FOLDER, INDEX, save_guide, write_index

if TYPE_CHECKING:
    from hyper_meta.generation.model import Model

CARD = "README.md"
SCHEME = "hf://"
# The settings that name encoders, the folders where these are in a saved model, and their kinds.
ENCODERS = {"encoder": hub.CLIP, "question_encoder": hub.SENTENCE_ENCODER}
BUILT_IN = ("", "bundled", *SOURCES)
# The settings of a run that say where its files were.
PLACES = {"data_dir": "~/.cache/hyper_meta", "compilation_cache": "~/.cache/hyper_meta/compiled"}
MODEL = hub.Kind(
    (
        *(CONFIG_FILE, INDEX, CARD, f"{FOLDER}/*.safetensors", f"{FOLDER}/*.json"),
        *(f"{name}/{part}" for name, kind in ENCODERS.items() for part in kind.patterns),
    ),
    (
        *((CONFIG_FILE,), (INDEX,), (f"{FOLDER}/*/arrays.safetensors",)),
        *((f"{FOLDER}/*/notes.json",), (f"{FOLDER}/*/checksums.json",)),
    ),
    has_weights=False,
)


def save_model(model: Model, folder: Path) -> None:
    """Writes a model to a folder, completely or not at all. Raises UserError for a folder that
    holds something, and where it cannot be written."""
    from hyper_meta.generation.card import model_card  # draws in all of the report

    folder = folder.absolute()
    check_empty(folder)
    with whole_folder(folder, failure=f"cannot write the model {folder}", is_new=True) as partial:
        stored = _with_encoders(model.config, partial)
        write_settings(stored, partial)
        save_guide(
            partial,
            model.guide,
            value=model.value,
            trust=model.trust,
            images=model.images,
            templates=model.templates,
            sentences=model.sentences,
            notes={
                "encoder": model.encoder.fingerprint,
                "question_encoder": model.question_encoder.fingerprint,
                "answers": model.answers,
            },
        )
        write_index(partial, {model.guide.name: model.trust.mean})
        card = model.place / CARD
        text = card.read_text(encoding="utf-8") if card.exists() else model_card(model, stored)
        (partial / CARD).write_text(text, encoding="utf-8")


def check_repo(repo: str) -> None:
    """Raises UserError for what is no name of a model on the Hub."""
    if not hub.is_hub_name(repo) or "@" in repo:
        raise UserError(f"{repo!r} given, a name such as you/digits-from-sentences is expected")


def push_model(model: Model, repo: str, *, private: bool) -> None:
    """Uploads a model to the Hub, as OWNER/NAME. Raises UserError where the Hub refuses."""
    check_repo(repo)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        save_model(model, folder)
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder)
        except (HfHubHTTPError, OSError) as error:
            raise UserError(f"cannot push {repo} to the Hugging Face Hub: {error}") from error


def bundled_model_path() -> Path:
    """The folder of the model that comes with this package."""
    return Path(__file__).parent / "digits_model"


def find_model(name: str) -> Path:
    """The work directory, or the folder of a saved model, of this name: a path, or OWNER/NAME or
    hf://OWNER/NAME of the Hub, downloaded if it is not in its cache. Raises UserError where it
    cannot be got."""
    if name.startswith(SCHEME):
        return hub.fetch(name.removeprefix(SCHEME), MODEL)
    if Path(name).exists() or not hub.is_hub_name(name):
        return Path(name)
    try:
        return hub.fetch(name, MODEL)
    except UserError as error:
        raise UserError(f"there is no folder {name}, and {error}") from error


def read_place(place: Path, config: RunSettings) -> RunSettings:
    """The settings of a run or a saved model, with encoders that are folders in full."""
    full = {}
    for name in ENCODERS:
        given = getattr(config, name)
        if is_saved(place) and given == name:
            full[name] = str((place / name).absolute())
        elif given not in BUILT_IN and Path(given).expanduser().exists():
            full[name] = str(Path(given).expanduser().absolute())
    return dataclasses.replace(config, **full)


def is_saved(place: Path) -> bool:
    """Whether a folder is that of a saved model, not the work directory of a run."""
    return (place / INDEX).is_file() or (place / FOLDER).is_dir()


def _with_encoders(config: RunSettings, folder: Path) -> RunSettings:
    """The settings as a saved model has them; of an encoder that is a folder, the files that are
    read are copied to `folder`."""
    named = dict(PLACES)
    for name, kind in ENCODERS.items():
        given = getattr(config, name)
        if given in BUILT_IN:
            continue
        if Path(given).exists():
            hub.copy_files(Path(given), folder / name, kind)
            named[name] = name
        elif "@" not in given:
            named[name] = f"{given}@{hub.fetch(given, kind).name}"  # named by its commit
    return dataclasses.replace(config, **named)
