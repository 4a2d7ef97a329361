"""Data and features of a run: built, downloaded or handed in, encoded once, joined in tables."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from hyper_meta.core.locks import in_turn
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import UserError
from hyper_meta.data import datasets, precomputed
from hyper_meta.data.features import Features
from hyper_meta.data.images import decode
from hyper_meta.data.own_tasks.folder import FEATURES, open_folder, read_images
from hyper_meta.data.own_tasks.folder import NAME as OWN_TASKS
from hyper_meta.data.source import Source
from hyper_meta.data.table import DataSet, build_table
from hyper_meta.data.tasks import Task, hold_out, without_images
from hyper_meta.encoders import hub
from hyper_meta.encoders.folder import Encoder, bundled_encoder_path, load_encoder
from hyper_meta.encoders.questions import QuestionEncoder
from hyper_meta.preparation.encoding import (
    encode_sentences,
    images_per_second,
    with_questions,
)
from hyper_meta.preparation.question_encoder import (
    Encoders,
    open_question_encoder,
)
from hyper_meta.preparation.stores import stored_features, tell_alike, tell_of_reading

# Of features that a data set brings: so many are made again, and differ by so much at most.
MOST_COMPARED, LARGEST_DIFFERENCE = 32, 0.02
PRECOMPUTED = "precomputed"  # the data set that brings its own features
VALIDATION_SEED = 0  # of the validation tasks that are split off; the same in every run
SPARE_BYTES = 2**30  # for features, and whatever else is written
GIB = 2**30


class EncoderChoice(NamedTuple):
    """name: "bundled", a folder, or one of the Hugging Face Hub; resize, dtype: see
    `load_encoder`."""

    name: str
    resize: str
    dtype: str


def chosen_encoder(config: RunSettings) -> EncoderChoice:
    """The encoder that a config names; a folder is named in full."""
    choice = EncoderChoice(config.encoder, config.image_resize, config.encoder_dtype)
    path = Path(choice.name).expanduser()
    is_folder = choice.name != "bundled" and (path.exists() or not hub.is_hub_name(choice.name))
    return choice._replace(name=str(path.absolute())) if is_folder else choice


def open_encoder(choice: EncoderChoice) -> Encoder:
    """Loads an encoder, from the Hub if need be. Raises UserError where that cannot be done."""
    if choice.name == "bundled":
        path = bundled_encoder_path()
    elif Path(choice.name).exists() or not hub.is_hub_name(choice.name):
        path = Path(choice.name)
    else:
        path = hub.fetch(choice.name)
    return load_encoder(path, resize=choice.resize, dtype=choice.dtype)


def open_encoders(config: RunSettings) -> Encoders:
    """Those of a config. Raises UserError where one cannot be got."""
    questions = open_question_encoder(config)
    images = open_encoder(chosen_encoder(config))
    return Encoders(images, images if questions is None else questions)


def prepare(config: RunSettings, data_dir: Path, manual_dir: Path | None) -> None:
    """Builds the data set of a config under data_dir and encodes it, going on where it was left.

    manual_dir: holds files that are not to be downloaded. Says first what it will take. Raises
    UserError for a data set that brings its own features, too little space, or files that cannot
    be got.
    """
    if config.dataset == PRECOMPUTED:
        raise UserError(
            "dataset=precomputed brings its own features: there is nothing to prepare, run it"
        )
    if config.dataset == OWN_TASKS:
        data = _open(config, data_dir)  # before an encoder is fetched
        _tell_ready(load_and_encode(config, data_dir, open_encoders(config), data), data_dir)
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    files = datasets.needed(config.dataset, data_dir, manual_dir)
    missing = [file for file in files if file.path is None]
    is_prepared = datasets.is_prepared(config.dataset, data_dir)
    if is_prepared:
        print(f"{config.dataset} is built in {data_dir}")
    else:
        _tell_files(config.dataset, files)
        _check_space(data_dir, _bytes_needed(config.dataset, missing))
    encoders = open_encoders(config)
    if not is_prepared:
        _tell_time(encoders.images, datasets.BUILDERS[config.dataset].num_images)
    try:
        datasets.build(config.dataset, data_dir, manual_dir)
    except UserError as error:
        if not missing:
            raise
        names = ", ".join(file.name for file in missing)
        raise UserError(
            f"{error}. Downloaded elsewhere, from the addresses above, these files can be put into "
            f"{manual_dir or 'a folder'} and given with --manual-dir: {names}"
        ) from error
    _tell_ready(load_and_encode(config, data_dir, encoders), data_dir)


def _tell_ready(
    loaded: tuple[dict[str, list[Task]], Features, dict[str, str]], data_dir: Path
) -> None:
    tasks, features, _ = loaded
    sizes = ", ".join(f"{len(part)} {split}" for split, part in tasks.items())
    num_sentences = len({*features.questions, *features.prompts})
    print(
        f"ready: {sizes} tasks, {len(features.image_ids):,} images and "
        f"{num_sentences:,} sentences encoded in {data_dir}"
    )


def _tell_files(dataset: str, files: list[datasets.File]) -> None:
    if files:
        print(f"{dataset} is made of:")
    for file in files:
        place = f"to download: {file.url}" if file.path is None else str(file.path)
        print(f"  {file.name:<34}{file.size / GIB:7.2f} GiB  {place}")


def _bytes_needed(dataset: str, missing: list[datasets.File]) -> int:
    origin = datasets.BUILDERS[dataset]
    images = origin.num_images * origin.image_bytes
    return sum(file.size for file in missing) + images + SPARE_BYTES


def _check_space(data_dir: Path, needed: int) -> None:
    """Says what is needed and there is; raises UserError where it is too little."""
    free = shutil.disk_usage(data_dir).free
    said = f"{needed / GIB:.1f} GiB are needed in {data_dir}, {free / GIB:.1f} GiB are free"
    if free < needed:
        raise UserError(f"{said}: make room or choose another --data-dir")
    print(f"disk: {said}")


def _tell_time(encoder: Encoder, num_images: int) -> None:
    rate = images_per_second(encoder)
    minutes = num_images / rate / 60
    print(
        f"time: this machine encodes {rate:,.1f} images/s, so {num_images:,} images take about "
        f"{minutes // 60:.0f} h {minutes % 60:.0f} min, beside the download"
    )


def load_data(config: RunSettings) -> DataSet:
    """Builds or reads the data set and its features, and joins them in one table a split, and in
    "evaluation": the validation tasks, then the test tasks."""
    data_dir = Path(config.data_dir).expanduser()
    if config.dataset == PRECOMPUTED:
        tasks, features = precomputed.load(
            data_dir, validation_share=config.validation_share, seed=VALIDATION_SEED
        )
        images = _encoder_of(config, data_dir, features)
        encoder = open_question_encoder(config) or images
        features, reader = _questions_as_asked(config, data_dir, features, encoder)
        source = {
            "dataset": precomputed.folder_fingerprint(data_dir),
            "encoder": PRECOMPUTED if images is None else images.fingerprint,
            "question_encoder": reader,
        }
    else:
        _check_prepared(config.dataset, data_dir)
        data = _open(config, data_dir) if config.dataset == OWN_TASKS else None
        encoders = open_encoders(config)
        encoder = encoders.questions
        tasks, features, source = load_and_encode(config, data_dir, encoders, data)
    parts = {**tasks, "evaluation": [*tasks["validation"], *tasks["test"]]}
    tables = {name: build_table(part, features) for name, part in parts.items()}
    tell_alike(parts["train"] + parts["evaluation"], features)
    encode = None
    if encoder is not None:
        encode = functools.partial(encode_sentences, encoder, with_tokens=config.question_tokens)
    return DataSet(tasks, tables, source, encode)


def _encoder_of(config: RunSettings, data_dir: Path, features: Features) -> Encoder | None:
    """The encoder that made the features of a folder, None where the config names none.

    Raises UserError where it did not: it embeds answers otherwise.
    """
    if not config.encoder:
        return None
    encoder = open_encoder(chosen_encoder(config))
    prompts = features.prompts[:MOST_COMPARED]
    given = features.prompt_features[:MOST_COMPARED]
    remedy = "name the one that did, or none with --config.encoder="
    width = encoder.config.projection_dim
    if given.shape[1] != width:
        raise UserError(
            f"the features in {data_dir} have {given.shape[1]} numbers, encoder "
            f"{config.encoder} gives {width} and has not made them: {remedy}"
        )
    own = np.asarray(encode_sentences(encoder, prompts, with_tokens=False).pooled)
    apart = np.linalg.norm(own - given, axis=1) / np.linalg.norm(own, axis=1)
    if apart.max() > LARGEST_DIFFERENCE:
        raise UserError(
            f"the features of {prompts[apart.argmax()]!r} in {data_dir} are not those of encoder "
            f"{config.encoder} as it gives them, not normalised: {remedy}"
        )
    return encoder


def _questions_as_asked(
    config: RunSettings, data_dir: Path, features: Features, encoder: QuestionEncoder | None
) -> tuple[Features, str]:
    """Features that a data set brings, the questions read anew where their encoder is known or a
    sentence encoder is chosen; and the fingerprint of what read them."""
    if encoder is not None:
        tell_of_reading(config, encoder, features.questions)
        encoded = with_questions(encoder, features, with_tokens=config.question_tokens)
        return encoded, encoder.fingerprint
    if config.question_tokens and features.question_features.tokens is None:
        raise UserError(
            f"question_tokens=True given, {data_dir} has no token states of questions: add "
            f"{precomputed.TOKENS}, or give --config.question_tokens=False"
        )
    return features, PRECOMPUTED


def _check_prepared(name: str, data_dir: Path) -> None:
    """Raises UserError for a data set that would have to be downloaded."""
    downloads = name != OWN_TASKS and datasets.BUILDERS[name].downloads
    if downloads and not datasets.is_prepared(name, data_dir):
        raise UserError(
            f"{name} is not in {data_dir}: run hyper-meta prepare with this configuration first, "
            "or give its folder with --config.data_dir"
        )


def load_and_encode(
    config: RunSettings, data_dir: Path, encoders: Encoders, data: Source | None = None
) -> tuple[dict[str, list[Task]], Features, dict[str, str]]:
    """The tasks of a data set with images, their features, and the hashes they come from. data:
    where it is open already."""
    with in_turn(data_dir / FEATURES):
        data = data or _open(config, data_dir)
        tasks = data.tasks
        if "validation" not in tasks:
            tasks |= hold_out(tasks["train"], config.validation_share, seed=VALIDATION_SEED)
        source = {
            "dataset": data.fingerprint,
            "encoder": encoders.images.fingerprint,
            "question_encoder": encoders.questions.fingerprint,
        }
        folder = data_dir / FEATURES / f"{data.name}-{encoders.images.fingerprint[:12]}"
        features = stored_features(config, encoders, data, source, folder)
    if features.skipped:
        tasks = {
            split: without_images(part, set(features.skipped)) for split, part in tasks.items()
        }
        if empty := [split for split, part in tasks.items() if not part]:
            raise UserError(
                f"without {len(features.skipped):,} corrupt images no {empty[0]} task of "
                f"{data_dir} is left: replace them, the first is {features.skipped[0]}"
            )
    return tasks, features, source


def _open(config: RunSettings, data_dir: Path) -> Source:
    """The data set of a config, built if need be."""
    if config.dataset != OWN_TASKS:
        return datasets.open_data_set(config.dataset, data_dir)
    assert config.own_tasks is not None  # see RunSettings.contradictions
    share = config.validation_share
    return open_folder(data_dir, config.own_tasks, validation_share=share)


def images_of(config: RunSettings, ids: set[str]) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """The images [H, W, 3] uint8 of some ids."""
    data_dir = Path(config.data_dir).expanduser()
    if config.dataset == OWN_TASKS:
        images = read_images(data_dir, sorted(ids))
    else:
        images = datasets.iterate_images(config.dataset, data_dir)
    return {name: np.asarray(decode(name, image)) for name, image in images if name in ids}
