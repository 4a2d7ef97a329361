"""A data set given with the features that an encoder made of it, in a folder.

- meta_train.json, meta_test.json, prompt_meta.json: tasks as Meta-VQA was published, see
  `meta_vqa.split_files`.
- features/: a feature store, as `hyper-meta prepare` writes it (see `features`); or
- features.npz, no pickle: image_ids [I], questions [n], answer_prompts [m] strings, and their
  image_features [I, D], question_features [n, D], answer_features [m, D], float16 or float32.
  Prompts are found by their text, the template filled with the answer.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyper_meta.core.types import UserError
from hyper_meta.data.features import MANIFEST, Features, check_finite, read_store
from hyper_meta.data.meta_vqa.split_files import read_tasks
from hyper_meta.data.tasks import Task, hold_out

TASK_FILES = ("meta_train.json", "meta_test.json", "prompt_meta.json")
NPZ, STORE = "features.npz", "features"
FILES = (*TASK_FILES, NPZ)
# Each array of names with that of their features.
ARRAYS = {
    "image_ids": "image_features",
    "questions": "question_features",
    "answer_prompts": "answer_features",
}
# ||a - b|| / ||a|| of two features of one sentence: above what float16 and batching leave.
TOLERANCE = 1e-2


def load(
    folder: Path, *, validation_share: float, seed: int
) -> tuple[dict[str, list[Task]], Features]:
    """Returns ({"train" | "validation" | "test": tasks}, features of all their images and
    sentences), checked to be complete and finite.

    validation_share: of the tasks of meta_train.json, in (0, 1), drawn by the seed alone. The group
    of a task is its split; its family the first two words of its question. Raises UserError for
    whatever is missing, malformed or does not fit together.
    """
    _check_files(folder)
    tasks = read_tasks(*(folder / name for name in TASK_FILES))
    tasks |= hold_out(tasks["train"], validation_share, seed=seed)
    everyone = [task for part in tasks.values() for task in part]
    if (folder / NPZ).exists():
        path, features = folder / NPZ, _read_npz(folder / NPZ)
    else:
        path, features = folder / STORE, read_store(folder / STORE)[1]
    return tasks, _select(path, features, everyone)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the files, in hexadecimal. Raises UserError where one is missing."""
    digest = hashlib.sha256()
    for name in _check_files(folder):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {folder / name}: {error.strerror or error}") from error
    return digest.hexdigest()


def _check_files(folder: Path) -> tuple[str, ...]:
    """The names of the files that a data set is read from, all of them there."""
    manifest = f"{STORE}/{MANIFEST}"
    has_store = (folder / manifest).is_file() and not (folder / NPZ).is_file()
    # The manifest carries the hash of the features.
    files = (*TASK_FILES, manifest) if has_store else FILES
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise UserError(
            f"data folder {folder} has no {', '.join(missing)}: give one that holds "
            f"{', '.join(FILES)}"
        )
    return files


def _read_npz(path: Path) -> Features:
    """The content of features.npz, of the right shapes and types and of one D; questions, then
    answer prompts."""
    arrays = _read_arrays(path)
    texts = ("questions", "answer_prompts")
    return Features(
        image_ids=tuple(arrays["image_ids"].tolist()),
        image_features=arrays["image_features"],
        sentences=tuple(name for kind in texts for name in arrays[kind].tolist()),
        sentence_features=np.concatenate(
            [arrays[ARRAYS[kind]].astype(np.float32) for kind in texts]
        ),
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    names = [name for pair in ARRAYS.items() for name in pair]
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            arrays = {} if missing else {name: file[name] for name in names}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged, it is no npz without pickle: {error}") from error
    if missing:
        raise UserError(f"{path} has no arrays {', '.join(missing)}: add them")
    for pair in ARRAYS.items():
        keys, values = (arrays[name] for name in pair)
        fit = keys.ndim == 1 and values.ndim == 2 and len(keys) == len(values) and keys.size
        if not fit or keys.dtype.kind != "U" or values.dtype not in (np.float16, np.float32):
            given = (f"{name} {arrays[name].dtype} {list(arrays[name].shape)}" for name in pair)
            raise UserError(
                f"{path} has {' and '.join(given)}, strings [n] and float16 or float32 [n, D] are "
                "expected"
            )
    widths = {name: arrays[name].shape[1] for name in ARRAYS.values()}
    if len(set(widths.values())) > 1:
        raise UserError(f"{path} has features of unequal width {widths}: use one encoder for all")
    return arrays


def _select(path: Path, given: Features, tasks: Sequence[Task]) -> Features:
    """The features of the images and sentences that tasks use, once each, in file order."""
    images = {image for task in tasks for image, _ in (*task.support, *task.query)}
    sentences = {text for task in tasks for text in (task.sentence, *task.prompts())}
    image_ids, image_rows = _rows(path, "images", given.image_ids, images)
    sentence_names, sentence_rows = _rows(path, "sentences", given.sentences, sentences)
    features = Features(
        image_ids=image_ids,
        image_features=given.image_features[image_rows].astype(np.float32),
        sentences=sentence_names,
        sentence_features=given.sentence_features[sentence_rows],
    )
    check_finite(features, str(path))
    _check_repeated(path, given.image_ids, given.image_features)
    _check_repeated(path, given.sentences, given.sentence_features)
    return features


def _rows(
    path: Path, kind: str, names: Sequence[str], used: set[str]
) -> tuple[tuple[str, ...], list[int]]:
    """The used names in file order and the first row of each."""
    if missing := sorted(used.difference(names)):
        raise UserError(
            f"{path} has no features for {len(missing)} {kind} of the tasks, the first "
            f"{missing[0]!r}: add them"
        )
    row = {}
    for position, name in enumerate(names):
        if name in used:
            row.setdefault(name, position)
    return tuple(row), list(row.values())


def _check_repeated(path: Path, names: Sequence[str], features: np.ndarray) -> None:
    """Raises UserError where a name that comes again has other features, [n, D]."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(name, row), row) for row, name in enumerate(names)]
    pairs = np.array([pair for pair in pairs if pair[0] != pair[1]], int).reshape(-1, 2)
    one, other = (features[rows].astype(np.float32) for rows in pairs.T)
    apart = np.linalg.norm(one - other, axis=1) > TOLERANCE * np.linalg.norm(one, axis=1)
    if apart.any():
        raise UserError(
            f"{path} has {apart.sum()} names that come again with other features, the first "
            f"{names[pairs[apart.argmax(), 1]]!r}: name each image and sentence once"
        )
