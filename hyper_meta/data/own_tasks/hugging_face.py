"""A visual question answering data set of Hugging Face's `datasets`, read row by row, as a folder
of tasks: every question that has enough pictures is a task.

No code of a data set is run. It is read twice: once for its questions, once for their pictures.
"""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from hyper_meta.core.arguments import HUB_NAME
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import check_empty, whole_folder
from hyper_meta.core.progress import progress_bar
from hyper_meta.data.images import CorruptImage, decode

MISSING = "the package `datasets` is not installed: pip install 'hyper_meta[datasets]'"


class Origin(NamedTuple):
    """source: OWNER/NAME or OWNER/NAME@REVISION of the Hub, or a folder; subset: the configuration,
    None for the only one; split: None for "train"; image, question, answer: names of columns; most:
    rows that are read, None for all."""

    source: str
    subset: str | None
    split: str | None
    image: str
    question: str
    answer: str
    most: int | None


class Written(NamedTuple):
    """How many tasks, examples and images are in the new folder; and how many rows are not, by the
    reason."""

    tasks: int
    examples: int
    images: int
    left_out: dict[str, int]


def write_tasks(origin: Origin, out: Path, *, fewest: int) -> Written:
    """Writes a folder of tasks, all of it or nothing.

    out: new, or empty; fewest: examples of a question that becomes a task, which has two answers or
    more. Raises UserError where the data set cannot be had, lacks a column, or has no such
    question.
    """
    check_empty(out)
    kept, left_out = _questions(origin, fewest)
    with whole_folder(out, failure=f"cannot write {out}", is_new=True) as folder:
        images: set[str] = set()
        seen: set[tuple[str, str]] = set()
        with (folder / "tasks.jsonl").open("w", encoding="utf-8") as table:
            for row in _rows(origin, "images", with_images=True):
                question, answer = _asked(origin, row)
                if question not in kept or not answer:
                    continue
                content = _content(origin, row[origin.image])
                name = content and _write_image(folder, content, images)
                if name is None:
                    left_out["without a picture that can be read"] += 1
                elif (question, name) in seen:
                    left_out["a picture asked the same again"] += 1
                else:
                    seen.add((question, name))
                    record = {"task": question, "image": name, "answer": answer}
                    table.write(json.dumps(record, ensure_ascii=False) + "\n")
        if not seen:
            raise UserError(f"{origin.source} has no picture that can be read in {origin.image}")
    return Written(len({task for task, _ in seen}), len(seen), len(images), dict(left_out))


def _questions(origin: Origin, fewest: int) -> tuple[set[str], collections.Counter]:
    """(the questions that become tasks, rows that are left out by the reason)."""
    answers: dict[str, collections.Counter] = {}
    left_out: collections.Counter = collections.Counter()
    for row in _rows(origin, "questions", with_images=False):
        question, answer = _asked(origin, row)
        if not question or not answer:
            left_out["without a question or an answer"] += 1
        else:
            answers.setdefault(question, collections.Counter())[answer] += 1
    kept = {q for q, counts in answers.items() if counts.total() >= fewest and len(counts) > 1}
    dropped = len(answers) - len(kept)
    left_out[f"of {dropped:,} questions with few pictures or one answer"] += sum(
        counts.total() for question, counts in answers.items() if question not in kept
    )
    if not kept:
        raise UserError(
            f"{origin.source} has {len(answers):,} questions, none with {fewest} pictures and two "
            "answers: give a lower --fewest, or other columns"
        )
    return kept, left_out


def _rows(origin: Origin, told: str, *, with_images: bool) -> Iterator[Mapping[str, Any]]:
    """The rows of a data set, images as encoded bytes; without them, only what is asked."""
    rows, names = _open(origin), (origin.image, origin.question, origin.answer)
    if missing := [name for name in names if name not in (rows.features or ())]:
        raise UserError(
            f"{origin.source} has the columns {', '.join(rows.features or ())} and no "
            f"{', '.join(missing)}: name its columns with --image, --question and --answer"
        )
    from datasets import Image as ImageFeature

    if not isinstance(rows.features[origin.image], ImageFeature):
        raise UserError(
            f"the column {origin.image} of {origin.source} holds no images but "
            f"{rows.features[origin.image]}: name another one with --image"
        )
    name_of = _namer(rows.features[origin.answer])
    rows = rows.select_columns(names if with_images else names[1:])
    if with_images:
        rows = rows.cast_column(origin.image, ImageFeature(decode=False))
    taken = itertools.islice(rows, origin.most)
    try:
        for row in progress_bar(taken, desc=told, unit="row", total=origin.most):
            yield {**row, origin.answer: name_of(row[origin.answer])}
    except (OSError, ValueError) as error:
        raise UserError(f"{origin.source} cannot be read to its end: {error}") from error


def _namer(feature: Any) -> Callable[[Any], Any]:
    """From a value of a column to what is read of it: of classes, or lists of them, their names."""
    from datasets import ClassLabel

    element = getattr(feature, "feature", None)
    if isinstance(feature, ClassLabel):
        return feature.int2str
    if isinstance(element, ClassLabel):
        return lambda values: [element.int2str(value) for value in values]
    return lambda value: value


def _open(origin: Origin) -> Any:
    """The data set as an iterable with features."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(MISSING) from error
    path = Path(origin.source).expanduser()
    if path.is_file():
        raise UserError(f"{path} is a file: give the folder that it is in")
    if not path.exists() and not HUB_NAME.fullmatch(origin.source):
        raise UserError(f"there is no folder {path}, and OWNER/NAME of the Hub is expected else")
    try:
        if (path / "dataset_dict.json").is_file():  # of save_to_disk
            return datasets.load_from_disk(str(path))[origin.split or "train"].to_iterable_dataset()
        if (path / "state.json").is_file():
            if origin.split or origin.subset:
                raise ValueError("it was saved without splits: leave out --split and --subset")
            return datasets.load_from_disk(str(path)).to_iterable_dataset()
        name, _, revision = (str(path), "", "") if path.exists() else origin.source.partition("@")
        rows = datasets.load_dataset(
            name,
            origin.subset,
            split=origin.split or "train",
            streaming=True,
            revision=revision or None,
        )
        return rows._resolve_features()
    except Exception as error:  # the library raises errors of many kinds
        told = " ".join(f"{type(error).__name__} {error}".split())[:300]
        raise UserError(f"cannot read the data set {origin.source}: {told}") from error


def _asked(origin: Origin, row: Mapping[str, Any]) -> tuple[str, str]:
    """(question, answer), "" for none: of several answers the most common, the first of equals."""
    question, answer = row[origin.question], row[origin.answer]
    several = answer if isinstance(answer, list) else [answer]
    texts = [_text(part.get("answer") if isinstance(part, dict) else part) for part in several]
    counts = collections.Counter(text for text in texts if text)
    return _text(question), counts.most_common(1)[0][0] if counts else ""


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value.strip() if isinstance(value, str) else ""


def _content(origin: Origin, image: dict[str, Any] | None) -> bytes | None:
    """The encoded picture of a row, None where it has none. A file is read only where it lies in
    the folder of the data set."""
    if not image:
        return None
    if image.get("bytes"):
        return image["bytes"]
    place = image.get("path") or ""
    try:
        if "://" in place:  # in an archive, or on the Hub
            from datasets import Image as ImageFeature

            file = io.BytesIO()
            ImageFeature().decode_example(dict(image)).save(file, "png")
            return file.getvalue()
        path, folder = Path(place).resolve(), Path(origin.source).expanduser().resolve()
        return path.read_bytes() if path.is_relative_to(folder) and path.is_file() else None
    except Exception:  # of the disk, an archive or an image
        return None


def _write_image(folder: Path, content: bytes, written: set[str]) -> str | None:
    """The path of an image in the folder, where each is written once, under the hash of its bytes;
    None for one that cannot be decoded."""
    try:
        decode("", content)
        with Image.open(io.BytesIO(content)) as opened:
            ending = (opened.format or "").lower()
    except CorruptImage:
        return None
    digest = hashlib.sha256(content).hexdigest()[:24]
    name = f"images/{digest[:2]}/{digest}.{ending.replace('jpeg', 'jpg')}"
    if name not in written:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        written.add(name)
    return name
