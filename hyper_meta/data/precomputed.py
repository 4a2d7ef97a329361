"""A data set given with the features that an encoder made of it, in a folder.

- meta_train.json, meta_test.json, prompt_meta.json: tasks as Meta-VQA was published, and perhaps
  the concept of each, see `meta_vqa.split_files`.
- features/: a feature store, as `hyper-meta prepare` writes it (see `features`); or
- features.npz, no pickle: image_ids [I], questions [n], answer_prompts [m] strings, and their
  image_features [I, D], question_features [n, Dq], answer_features [m, D], float16 or float32.
  Prompts are found by their text, the template filled with the answer.
- question_tokens.npz, no pickle, may be absent: questions [n] strings, tokens [n, L, W] float16 or
  float32, mask [n, L] bool, False where padded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from hyper_meta.core.files import reason
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.data.features import MANIFEST, Features, check_finite, read_store
from hyper_meta.data.meta_vqa.split_files import read_tasks
from hyper_meta.data.tasks import Task, hold_out

TASK_FILES = ("meta_train.json", "meta_test.json", "prompt_meta.json")
NPZ, STORE, TOKENS = "features.npz", "features", "question_tokens.npz"
FILES = (*TASK_FILES, NPZ)
# Each array of names with that of their features.
ARRAYS = {
    "image_ids": "image_features",
    "questions": "question_features",
    "answer_prompts": "answer_features",
}
TOKEN_ARRAYS = ("questions", "tokens", "mask")
FLOATS = (np.float16, np.float32)
# ||a - b|| / ||a|| of two features of one sentence: above what float16 and batching leave.
TOLERANCE = 1e-2


def load(
    folder: Path, *, validation_share: float, seed: int
) -> tuple[dict[str, list[Task]], Features]:
    """Returns ({"train" | "validation" | "test": tasks}, features of all their images, questions
    and answer prompts), checked to be complete and finite.

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
    features = _select(path, features, everyone)
    if (folder / TOKENS).exists():
        features = _with_tokens(folder / TOKENS, features)
    return tasks, features


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over the files, in hexadecimal. Raises UserError where one is missing."""
    digest = hashlib.sha256()
    for name in _check_files(folder):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {folder / name}: {reason(error)}") from error
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
    return (*files, TOKENS) if (folder / TOKENS).is_file() else files


def _read_npz(path: Path) -> Features:
    """The content of features.npz, of the right shapes and types; images and answers of one D."""
    arrays = _read_arrays(path, [name for pair in ARRAYS.items() for name in pair])
    for pair in ARRAYS.items():
        keys, values = (arrays[name] for name in pair)
        fits = values.ndim == 2 and len(keys) == len(values) and values.dtype in FLOATS
        if not fits or not _are_names(keys):
            raise UserError(
                f"{path} has {_described(arrays, pair)}, strings [n] and float16 or float32 [n, D] "
                "are expected"
            )
    widths = {name: arrays[name].shape[1] for name in ("image_features", "answer_features")}
    if len(set(widths.values())) > 1:
        raise UserError(
            f"{path} has features of unequal width {widths}: use one encoder for images and answers"
        )
    return Features(
        image_ids=tuple(arrays["image_ids"].tolist()),
        image_features=arrays["image_features"],
        questions=tuple(arrays["questions"].tolist()),
        question_features=SentenceFeatures(arrays["question_features"].astype(np.float32)),
        prompts=tuple(arrays["answer_prompts"].tolist()),
        prompt_features=arrays["answer_features"].astype(np.float32),
    )


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            arrays = {} if missing else {name: file[name] for name in names}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged, it is no npz without pickle: {error}") from error
    if missing:
        raise UserError(f"{path} has no arrays {', '.join(missing)}: add them")
    return arrays


def _are_names(keys: np.ndarray) -> bool:
    return keys.ndim == 1 and keys.size > 0 and keys.dtype.kind == "U"


def _described(arrays: dict[str, np.ndarray], names: Sequence[str]) -> str:
    given = (f"{name} {arrays[name].dtype} {list(arrays[name].shape)}" for name in names)
    return " and ".join(given)


def _with_tokens(path: Path, features: Features) -> Features:
    """The features with the token states of their questions, those of question_tokens.npz."""
    arrays = _read_arrays(path, TOKEN_ARRAYS)
    names, tokens, mask = (arrays[name] for name in TOKEN_ARRAYS)
    fits = tokens.ndim == 3 and tokens.dtype in FLOATS and mask.dtype == bool
    fits = fits and len(names) == len(tokens) and mask.shape == tokens.shape[:2]
    if not fits or not _are_names(names):
        raise UserError(
            f"{path} has {_described(arrays, TOKEN_ARRAYS)}, strings [n], float16 or float32 "
            "[n, L, W] and bool [n, L] are expected"
        )
    known = tuple(names.tolist())
    questions, rows = _rows(path, "questions", known, set(features.questions))
    tokens = np.where(mask[..., None], tokens, 0).astype(np.float32)
    _check_tokens(path, questions, tokens[rows], mask[rows])
    _check_repeated(path, known, tokens.reshape(len(known), -1))
    place = {question: row for row, question in enumerate(questions)}
    order = [rows[place[question]] for question in features.questions]
    with_tokens = features.question_features.replace(tokens=tokens[order], mask=mask[order])
    return dataclasses.replace(features, question_features=with_tokens)


def _check_tokens(
    path: Path, questions: Sequence[str], tokens: np.ndarray, mask: np.ndarray
) -> None:
    """tokens: [n, L, W]; mask: [n, L]. Raises UserError for a question without a token, or with one
    that is not finite."""
    for bad, what in (
        (~mask.any(axis=1), "without any token"),
        (~np.isfinite(tokens).all(axis=(1, 2)), "with NaN or infinity in their tokens"),
    ):
        if bad.any():
            raise UserError(
                f"{path} has {bad.sum()} questions {what}, the first "
                f"{questions[int(bad.argmax())]!r}: encode them again"
            )


def _select(path: Path, given: Features, tasks: Sequence[Task]) -> Features:
    """The features of the images, questions and prompts that tasks use, once each, in file
    order."""
    images = {image for task in tasks for image, _ in (*task.support, *task.query)}
    asked = {task.sentence for task in tasks}
    answers = {prompt for task in tasks for prompt in task.prompts()}
    image_ids, image_rows = _rows(path, "images", given.image_ids, images)
    questions, question_rows = _rows(path, "questions", given.questions, asked)
    prompts, prompt_rows = _rows(path, "answer prompts", given.prompts, answers)
    features = Features(
        image_ids=image_ids,
        image_features=given.image_features[image_rows].astype(np.float32),
        questions=questions,
        question_features=jax.tree.map(lambda leaf: leaf[question_rows], given.question_features),
        prompts=prompts,
        prompt_features=given.prompt_features[prompt_rows],
    )
    check_finite(features, str(path))
    _check_repeated(path, given.image_ids, given.image_features)
    _check_repeated(path, given.questions, given.question_features.pooled)
    _check_repeated(path, given.prompts, given.prompt_features)
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
