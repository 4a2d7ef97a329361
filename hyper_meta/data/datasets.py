"""Task data sets by name: tensorflow-datasets builders of one schema, read without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hyper_meta.core.files import reason, write_bytes
from hyper_meta.core.types import UserError
from hyper_meta.data.source import Source
from hyper_meta.data.tasks import Task

if TYPE_CHECKING:  # a quarter of a second, which generate and predict do not need
    import tensorflow_datasets as tfds


class Origin(NamedTuple):
    """The source of a data set.

    module: the module of its Builder.
    num_images: how many images it has.
    image_bytes: the approximate size of an image.
    prefix: of the names of its configurations "tasks" and "scenes".
    downloads: whether it is made from published files.
    concepts: the module of its concept_of, sentence -> concept, or nothing where every sentence
      asks for another one.
    """

    module: str
    num_images: int
    image_bytes: int
    prefix: str = ""
    downloads: bool = False
    concepts: str = ""


_DIGITS_VQA = "hyper_meta.data.digits_vqa"
_META_VQA = "hyper_meta.data.meta_vqa.meta_vqa_dataset_builder"
BUILDERS = {
    "digits_vqa": Origin(
        f"{_DIGITS_VQA}.digits_vqa_dataset_builder",
        16_000,
        4_000,
        concepts=f"{_DIGITS_VQA}.questions",
    ),
    "meta_vqa": Origin(_META_VQA, 64_665, 165_000, downloads=True),
    "meta_vqa_published": Origin(_META_VQA, 64_665, 165_000, "published_", downloads=True),
}


_HASH = re.compile(rb"[0-9a-f]{64}")


class File(NamedTuple):
    """A published file.

    name, url: its name and address.
    size: in bytes.
    path: where it is, None for a file that has to be downloaded.
    """

    name: str
    url: str
    size: int
    path: Path | None


def build(name: str, data_dir: Path, manual_dir: Path | None = None) -> None:
    """Builds a data set under data_dir unless it is there.

    Args:
      name: a key of BUILDERS.
      data_dir: the folder of data sets.
      manual_dir: a folder of published files that need not be downloaded.

    Raises:
      UserError: an unknown name, a folder that cannot be written, or files that cannot be
        downloaded or have another hash.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    settings = tfds.download.DownloadConfig(
        manual_dir=None if manual_dir is None else str(manual_dir), force_checksums_validation=True
    )
    _check_known(name)
    # Where nothing is downloaded it takes half a minute, which needs no bars in bars.
    tfds.display_progress_bar(BUILDERS[name].downloads)
    for part in ("tasks", "scenes"):
        with _readable(name, data_dir):
            builder = _builder(name, part, data_dir)
        if builder.is_prepared():
            continue
        print(f"building the {part} of {name} in {data_dir}", file=sys.stderr)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # what tensorflow-datasets says of it
                builder.download_and_prepare(download_config=settings)
        except OSError as error:
            raise UserError(f"cannot build {name} in {data_dir}: {reason(error)}") from error
        except (tfds.download.DownloadError, NonMatchingChecksumError) as error:
            raise UserError(f"cannot build {name} in {data_dir}: {error}") from error


def needed(name: str, data_dir: Path, manual_dir: Path | None = None) -> list[File]:
    """The published files that a data set is made from."""
    if not BUILDERS[name].downloads:
        return []
    builder = _builder(name, "scenes", data_dir)
    return [
        File(source.name, source.url, builder.url_infos[source.url].size, path)
        for source, path in builder.places(manual_dir, data_dir / "downloads")
    ]


def is_prepared(name: str, data_dir: Path) -> bool:
    """Whether a data set was built under data_dir."""
    with _readable(name, data_dir):
        return all(_builder(name, part, data_dir).is_prepared() for part in ("tasks", "scenes"))


def open_data_set(name: str, data_dir: Path) -> Source:
    """A data set, built under data_dir unless it is there. Raises UserError as `build` does."""
    build(name, data_dir)
    return Source(
        name=name,
        tasks=load_tasks(name, data_dir),
        fingerprint=dataset_fingerprint(name, data_dir),
        num_images=count_images(name, data_dir),
        read_images=lambda start: iterate_images(name, data_dir, start),
    )


def load_tasks(name: str, data_dir: Path) -> dict[str, list[Task]]:
    """The tasks of a prepared data set: {"train" | "test" | "validation" if it has one: tasks}."""
    concept_of = _concept_fn(name)
    with _readable(name, data_dir):
        source = _builder(name, "tasks", data_dir).as_data_source()
        return {split: [_task(row, concept_of) for row in rows] for split, rows in source.items()}


def count_images(name: str, data_dir: Path) -> int:
    """How many images a prepared data set has."""
    with _readable(name, data_dir):
        splits = _builder(name, "scenes", data_dir).info.splits.values()
        return sum(split.num_examples for split in splits)


def iterate_images(name: str, data_dir: Path, start: int = 0) -> Iterator[tuple[str, bytes]]:
    """(image id, encoded image) of a prepared data set, from the start-th on."""
    import tensorflow_datasets as tfds

    encoded = {"image": tfds.decode.SkipDecoding()}
    with _readable(name, data_dir):
        source = _builder(name, "scenes", data_dir).as_data_source(decoders=encoded)
    for rows in source.values():
        for position in range(min(start, len(rows)), len(rows)):
            with _readable(name, data_dir):
                row = rows[position]
                image = row["image_id"].decode(), row["image"]
            yield image
        start = max(0, start - len(rows))


def dataset_fingerprint(name: str, data_dir: Path) -> str:
    """The SHA-256 of the tasks and encoded images of a prepared data set, in hexadecimal.

    The files themselves differ from build to build, since protobuf writes the fields of a record in
    any order. The result is stored beside the data set.
    """
    with _readable(name, data_dir):
        place = Path(_builder(name, "scenes", data_dir).data_path) / "sha256.txt"
    if not place.exists() or not _HASH.fullmatch(place.read_bytes()):
        digest = hashlib.sha256(repr(sorted(load_tasks(name, data_dir).items())).encode())
        for image_id, image in iterate_images(name, data_dir):
            digest.update(f"{image_id} {len(image)} ".encode() + image)
        write_bytes(place, digest.hexdigest().encode())
    return place.read_text()


@contextlib.contextmanager
def _readable(name: str, data_dir: Path) -> Iterator[None]:
    """Around what reads the files of tensorflow-datasets, which raises errors of many kinds where
    one is missing or damaged; they become a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise UserError(
            f"the data set {name} in {data_dir} is damaged ({told}): remove "
            f"{data_dir / _folder(name)}, and it is built anew"
        ) from error


def _folder(name: str) -> str:
    """The folder of a data set, as tensorflow-datasets names it after its builder's module."""
    return BUILDERS[name].module.rsplit(".", 1)[-1].removesuffix("_dataset_builder")


def _check_known(name: str) -> None:
    if name not in BUILDERS:
        raise UserError(f"unknown data set {name!r}, expected one of {sorted(BUILDERS)}")


def _builder(name: str, part: str, data_dir: Path) -> tfds.core.DatasetBuilder:
    _check_known(name)
    origin = BUILDERS[name]
    builder = importlib.import_module(origin.module).Builder
    return builder(config=origin.prefix + part, data_dir=str(data_dir), file_format="array_record")


def _concept_fn(name: str) -> Callable[[str], str]:
    concepts = BUILDERS[name].concepts
    return importlib.import_module(concepts).concept_of if concepts else lambda sentence: ""


def _task(row: dict, concept_of: Callable[[str], str]) -> Task:
    """One example of a "tasks" configuration. concept_of: sentence -> `Task.concept`."""
    items = row["items"]
    sentence = row["sentence"].decode()
    names = [image.decode() for image in items["image_id"]]
    examples = list(zip(names, map(int, items["answer"]), strict=True))
    subsets = [subset.decode() for subset in items["subset"]]

    def part(name: str) -> tuple[tuple[str, int], ...]:
        return tuple(e for e, subset in zip(examples, subsets, strict=True) if subset == name)

    return Task(
        sentence=sentence,
        answers=tuple(answer.decode() for answer in row["answers"]),
        template=row["template"].decode(),
        family=row["family"].decode(),
        group=row["group"].decode(),
        support=part("support"),
        query=part("query"),
        concept=concept_of(sentence),
    )
