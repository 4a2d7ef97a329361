"""A data set given as four files: tasks in JSON, and the features an encoder made of them.

- meta_train.json, meta_test.json: {question: {"train": [[image id, answer], ...], "test": [...],
  "answers": [answer, ...]}}; "train" is the support set, "test" the query set. The format of the
  Meta-VQA split that the paper's authors published.
- prompt_meta.json: {question: template with {} for the answer}; more questions than tasks may be
  there.
- features.npz, no pickle: image_ids [I], questions [n], answer_prompts [m] strings, and their
  image_features [I, D], question_features [n, D], answer_features [m, D], float16 or float32.
  Prompts are found by their text, the template filled with the answer.
"""

from __future__ import annotations

import collections
import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyper_meta.data.features import Features, check_finite
from hyper_meta.data.tasks import Task
from hyper_meta.files import read_json
from hyper_meta.types import UserError

FILES = ("meta_train.json", "meta_test.json", "prompt_meta.json", "features.npz")
# Each array of names with that of their features.
ARRAYS = {
    "image_ids": "image_features",
    "questions": "question_features",
    "answer_prompts": "answer_features",
}
SUBSETS = {"support": "train", "query": "test"}
SMALLEST_FAMILY = 20  # questions
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
    *objects, path = (folder / name for name in FILES)
    train, test, templates = map(_read_object, objects)
    if both := sorted(train.keys() & test.keys()):
        raise UserError(
            f"{folder} has {len(both)} questions among both training and test tasks, the first "
            f"{both[0]!r}: remove them from one"
        )
    family = families([*train, *test])
    groups = [*_divide(len(train), validation_share, seed), *["test"] * len(test)]
    tasks: dict[str, list[Task]] = {"train": [], "validation": [], "test": []}
    for (question, record), group in zip((train | test).items(), groups, strict=True):
        try:
            answers, support, query = _parse(record)
            template = _template(templates, question)
        except ValueError as error:
            raise UserError(f"task {question!r} of {folder} {error}: correct its files") from error
        tasks[group].append(
            Task(question, answers, template, family[question], group, support, query)
        )
    everyone = [task for part in tasks.values() for task in part]
    return tasks, _select(path, _read_arrays(path), everyone)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the four files, in hexadecimal. Raises UserError where one is missing."""
    _check_files(folder)
    digest = hashlib.sha256()
    for name in FILES:
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {folder / name}: {error.strerror or error}") from error
    return digest.hexdigest()


def families(questions: Sequence[str]) -> dict[str, str]:
    """The kind of each question: its first two words in lower case ("how many", "what color").

    Kinds of fewer than SMALLEST_FAMILY questions are "other".
    """
    kinds = {text: " ".join(text.lower().rstrip("? ").split()[:2]) for text in questions}
    sizes = collections.Counter(kinds.values())
    return {
        text: kind if sizes[kind] >= SMALLEST_FAMILY else "other" for text, kind in kinds.items()
    }


def _check_files(folder: Path) -> None:
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(
            f"data folder {folder} has no {', '.join(missing)}: give one that holds "
            f"{', '.join(FILES)}"
        )


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no questions, {{question: ...}} is expected")
    return content


def _divide(num_tasks: int, share: float, seed: int) -> list[str]:
    """For each of the training tasks "train" or "validation"."""
    num_validation = round(share * num_tasks) if 0 < share < 1 else 0
    if not 0 < num_validation < num_tasks:
        raise UserError(
            f"validation_share={share} of {num_tasks} training tasks given, a share in (0, 1) that "
            "leaves tasks for both training and validation is expected"
        )
    chosen = set(np.random.default_rng(seed).permutation(num_tasks)[:num_validation].tolist())
    return ["validation" if row in chosen else "train" for row in range(num_tasks)]


def _parse(record: Any) -> tuple[tuple, tuple, tuple]:
    """Returns (answers, support, query) as Task has them. Raises ValueError that says the fault."""
    keys = (*SUBSETS.values(), "answers")
    if not isinstance(record, dict) or any(not isinstance(record.get(k), list) for k in keys):
        raise ValueError(f"is not an object with the lists {', '.join(keys)}")
    answers = record["answers"]
    if not all(isinstance(answer, str) for answer in answers) or len(set(answers)) < 2:
        raise ValueError(f"has the answers {answers}, two different strings or more are expected")
    if len(set(answers)) < len(answers):
        twice = next(answer for answer in answers if answers.count(answer) > 1)
        raise ValueError(f"lists the answer {twice!r} twice")
    index = {answer: row for row, answer in enumerate(answers)}
    support, query = (_parse_items(record[key], index, subset) for subset, key in SUBSETS.items())
    # METHOD section 8, fault 8: a query image seen in adaptation makes the score worthless.
    if shared := {image for image, _ in support} & {image for image, _ in query}:
        raise ValueError(f"has the image {min(shared)!r} in both support and query set")
    return tuple(answers), support, query


def _parse_items(items: list, index: dict[str, int], subset: str) -> tuple[tuple[str, int], ...]:
    if not items:
        raise ValueError(f"has an empty {subset} set")
    for item in items:
        pair = isinstance(item, list) and len(item) == 2
        if not pair or not all(isinstance(part, str) for part in item):
            raise ValueError(f"has {item!r} in its {subset} set, [image id, answer] is expected")
        if item[1] not in index:
            raise ValueError(f"has {item!r} in its {subset} set, an answer it does not list")
    return tuple((image, index[answer]) for image, answer in items)


def _template(templates: dict[str, Any], question: str) -> str:
    template = templates.get(question)
    if not isinstance(template, str) or "{}" not in template:
        raise ValueError(f"has the template {template!r}, a string with {{}} is expected")
    return template


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of features.npz, of the right shapes and types and of one D."""
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


def _select(path: Path, arrays: dict[str, np.ndarray], tasks: Sequence[Task]) -> Features:
    """The features of the images and sentences that tasks use, once each, in file order."""
    images = {image for task in tasks for image, _ in (*task.support, *task.query)}
    sentences = {text for task in tasks for text in (task.sentence, *task.prompts())}
    image_ids, image_rows = _rows(path, "images", arrays["image_ids"].tolist(), images)
    texts = arrays["questions"].tolist() + arrays["answer_prompts"].tolist()
    text_features = np.concatenate(
        [arrays[name].astype(np.float32) for name in ("question_features", "answer_features")]
    )
    sentence_names, sentence_rows = _rows(path, "sentences", texts, sentences)
    features = Features(
        image_ids=image_ids,
        image_features=arrays["image_features"][image_rows].astype(np.float32),
        sentences=sentence_names,
        sentence_features=text_features[sentence_rows],
    )
    check_finite(features, str(path))
    _check_repeated(path, arrays["image_ids"].tolist(), arrays["image_features"])
    _check_repeated(path, texts, text_features)
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
