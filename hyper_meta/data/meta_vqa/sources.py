"""The official files of Meta-VQA: their addresses, and readers of their formats.

JSON and images are read from the published zip archives without unpacking them, or from files that
the user has unpacked.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hyper_meta.core.types import UserError
from hyper_meta.data.meta_vqa.construct import Annotation

VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/"
COCO = "http://images.cocodataset.org/zips/"
AUTHORS = "https://raw.githubusercontent.com/elvisnava/hyperclip/"
SUBSETS = {"train2014": "Train", "val2014": "Val"}  # as COCO and as VQA v2 call them
IMAGE_ID = re.compile(r"COCO_(train2014|val2014)_\d{12}")


@dataclasses.dataclass(frozen=True)
class Source:
    """A published file.

    url: its address; checksums.tsv has its size and hash.
    unpacked: the name of its content, a file or, for images, a folder.
    """

    url: str
    unpacked: str

    @property
    def name(self) -> str:
        """The published file's name."""
        return self.url.rsplit("/", 1)[1]


# {subset of VQA v2: file} of the questions, the annotations, and COCO's images.
QUESTIONS = {
    subset: Source(
        f"{VQA}v2_Questions_{name}_mscoco.zip", f"v2_OpenEnded_mscoco_{subset}_questions.json"
    )
    for subset, name in SUBSETS.items()
}
ANNOTATIONS = {
    subset: Source(f"{VQA}v2_Annotations_{name}_mscoco.zip", f"v2_mscoco_{subset}_annotations.json")
    for subset, name in SUBSETS.items()
}
IMAGES = {subset: Source(f"{COCO}{subset}.zip", subset) for subset in SUBSETS}
# The split that the authors published.
PUBLISHED = {
    name: Source(f"{AUTHORS}{commit}/data/VQA/{path}", path.rsplit("/", 1)[1])
    for name, commit, path in (
        ("train", "5421171454117af9b226096758c374078426121f", "Meta/meta_train.json"),
        ("test", "5421171454117af9b226096758c374078426121f", "Meta/meta_test.json"),
        (
            "templates",
            "e4edb66618ef8557dc64637924d1b2f4c2d65a4b",
            "Annotations/prompt_meta.json",
        ),
    )
}


def read_download(path: Path) -> Any:
    """The content of a JSON file, or of the only JSON file in a zip archive.

    Raises:
      UserError: the file is truncated, not JSON, or an archive with an unsafe path.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [name for name in _members(path, archive) if name.endswith(".json")]
                if len(members) != 1:
                    raise UserError(f"{path} holds {len(members)} JSON files, one is expected")
                content = archive.read(members[0])
        else:
            content = path.read_bytes()
        return json.loads(content.decode("utf-8"))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{path} is damaged or truncated, it is not JSON ({error}): download it again"
        ) from error


def read_annotations(questions: Path, annotations: Path, subset: str) -> Iterator[Annotation]:
    """The annotations of one subset of VQA v2, in the order of the annotations file.

    Args:
      questions, annotations: the official files, zipped or not.
      subset: "train2014" or "val2014".

    Raises:
      UserError: a file of another format or subset, a question without an annotation, an
        annotation without a question, or two of one question that contradict each other.
    """
    asked = {
        number: (_field(row, "question", str, questions), _field(row, "image_id", int, questions))
        for number, row in _by_question(questions, "questions", subset).items()
    }
    answered = _by_question(annotations, "annotations", subset)
    for path, ids, kind in (
        (annotations, asked.keys() - answered.keys(), "questions without an annotation"),
        (questions, answered.keys() - asked.keys(), "annotations without a question"),
    ):
        if ids:
            raise UserError(
                f"{path}: {len(ids)} {kind}, the first of question_id {min(ids)}: questions and "
                "annotations must be of one release of VQA v2"
            )
    for number, row in answered.items():
        question, image = asked[number]
        if _field(row, "image_id", int, annotations) != image:
            raise UserError(
                f"{annotations}: question_id {number} is about image {row['image_id']}, in "
                f"{questions} about {image}"
            )
        yield Annotation(
            f"COCO_{subset}_{image:012d}",
            question,
            _field(row, "multiple_choice_answer", str, annotations),
            _field(row, "answer_type", str, annotations),
        )


def _by_question(path: Path, key: str, subset: str) -> dict[int, Any]:
    """{question_id: row} in the order of the file."""
    rows: dict[int, Any] = {}
    for row in _rows(path, key, subset):
        number = _field(row, "question_id", int, path)
        if rows.setdefault(number, row) != row:
            raise UserError(
                f"{path} has question_id {number} twice, with different content: the official file "
                "of VQA v2 is expected"
            )
    return rows


def _rows(path: Path, key: str, subset: str) -> list[Any]:
    content = read_download(path)
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} has no list {key!r}: the official file of VQA v2 is expected")
    if content.get("data_subtype") != subset:
        raise UserError(f"{path} is of {content.get('data_subtype')!r}, {subset!r} is expected")
    return rows


def _field(row: Any, key: str, kind: type, path: Path) -> Any:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(
            f"{path}: {key} {value!r} in {str(row)[:80]}, a {kind.__name__} is expected"
        )
    return value


def read_jpegs(places: dict[str, Path], image_ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """(image id, JPEG file as bytes) of images, subset by subset in the order of the ids.

    Args:
      places: {subset: COCO's zip archive, or its unpacked folder}.
      image_ids: such as "COCO_train2014_000000000009".

    Raises:
      UserError: images are missing, which the message counts, or an archive has an unsafe path.
    """
    by_subset: dict[str, list[str]] = {subset: [] for subset in SUBSETS}
    for image_id in image_ids:
        match = IMAGE_ID.fullmatch(image_id)
        if not match:
            raise UserError(f"image id {image_id!r} given, COCO_train2014_000000000009 is expected")
        by_subset[match[1]].append(image_id)
    for subset, ids in by_subset.items():
        if ids:
            reader = _from_folder if places[subset].is_dir() else _from_zip
            yield from reader(places[subset], ids)


def _from_folder(folder: Path, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    _check_known(folder, ids, {path.name for path in folder.iterdir()})
    for image_id in ids:
        yield image_id, (folder / f"{image_id}.jpg").read_bytes()


def _from_zip(path: Path, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {PurePosixPath(name).name: name for name in _members(path, archive)}
            _check_known(path, ids, members)
            for image_id in ids:
                yield image_id, archive.read(members[f"{image_id}.jpg"])
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): download it again") from error


def _members(path: Path, archive: zipfile.ZipFile) -> list[str]:
    """The names in an archive. Raises UserError where one points out of the archive's folder."""
    names = archive.namelist()
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise UserError(f"{path} has a member with the unsafe path {name!r}: do not use it")
    return names


def _check_known(place: Path, ids: Sequence[str], known: Iterable[str]) -> None:
    if missing := sorted({f"{image_id}.jpg" for image_id in ids}.difference(known)):
        raise UserError(
            f"{place} lacks {len(missing)} of {len(ids)} images, the first {missing[0]}: it is not "
            "the complete set of COCO 2014"
        )
