"""Task data sets by name: tensorflow-datasets builders of one schema, read without TensorFlow."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from hyper_meta.data.tasks import Task
from hyper_meta.types import UserError

# Each module holds a Builder with the configurations "tasks" and "scenes".
BUILDERS = {"digits_vqa": "hyper_meta.data.digits_vqa.digits_vqa_dataset_builder"}


def prepare(name: str, data_dir: Path) -> None:
    """Builds a data set under data_dir unless it is there.

    Raises UserError for an unknown name, or a folder that cannot be written.
    """
    for part in ("tasks", "scenes"):
        try:
            _builder(name, part, data_dir).download_and_prepare()
        except OSError as error:
            raise UserError(f"cannot build {name} in {data_dir}: {error}") from error


def load_tasks(name: str, data_dir: Path) -> dict[str, list[Task]]:
    """The tasks of a prepared data set: {"train" | "validation" | "test": tasks}."""
    source = _builder(name, "tasks", data_dir).as_data_source()
    return {split: [_task(row) for row in rows] for split, rows in source.items()}


def iterate_images(name: str, data_dir: Path) -> Iterator[tuple[str, np.ndarray]]:
    """All (image id, image [H, W, 3] uint8) of a prepared data set."""
    for rows in _builder(name, "scenes", data_dir).as_data_source().values():
        for row in rows:
            yield row["image_id"].decode(), row["image"]


def fingerprint(name: str, data_dir: Path) -> str:
    """SHA-256 over the tasks and images of a prepared data set, in hexadecimal.

    Not over its files: they differ from build to build, since protobuf writes the fields of a
    record in any order.
    """
    tasks = sorted(load_tasks(name, data_dir).items())
    digest = hashlib.sha256(repr(tasks).encode())
    for image_id, image in iterate_images(name, data_dir):
        digest.update(image_id.encode() + image.tobytes())
    return digest.hexdigest()


def _builder(name: str, part: str, data_dir: Path):
    if name not in BUILDERS:
        raise UserError(f"unknown data set {name!r}, expected one of {sorted(BUILDERS)}")
    module: ModuleType = importlib.import_module(BUILDERS[name])
    return module.Builder(config=part, data_dir=str(data_dir), file_format="array_record")


def _task(row: dict) -> Task:
    """One example of a "tasks" configuration."""
    items = row["items"]
    names = [image.decode() for image in items["image_id"]]
    examples = list(zip(names, map(int, items["answer"]), strict=True))
    subsets = [subset.decode() for subset in items["subset"]]

    def part(name: str) -> tuple[tuple[str, int], ...]:
        return tuple(e for e, subset in zip(examples, subsets, strict=True) if subset == name)

    return Task(
        sentence=row["sentence"].decode(),
        answers=tuple(answer.decode() for answer in row["answers"]),
        template=row["template"].decode(),
        family=row["family"].decode(),
        group=row["group"].decode(),
        support=part("support"),
        query=part("query"),
    )
