"""VQA v2 and COCO files in their official formats, whole and damaged."""

import json

import official_vqa
import pytest

from hyper_meta.core.types import UserError
from hyper_meta.data.meta_vqa import sources

SUBSET = "train2014"


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """All archives as published, small."""
    return official_vqa.write(tmp_path_factory.mktemp("official"))


def _files(folder, *, questions=None, annotations=None):
    """The unpacked JSON files of a subset with changed rows."""
    asked, answered, _ = official_vqa.rows(SUBSET, num_images=2)
    paths = folder / "questions.json", folder / "annotations.json"
    paths[0].write_text(
        json.dumps(official_vqa.questions_json(SUBSET, asked if questions is None else questions))
    )
    paths[1].write_text(
        json.dumps(
            official_vqa.annotations_json(SUBSET, answered if annotations is None else annotations)
        )
    )
    return paths


def test_annotations_are_read_zipped_and_not(official, tmp_path):
    zipped = (
        official / sources.QUESTIONS[SUBSET].name,
        official / sources.ANNOTATIONS[SUBSET].name,
    )
    asked, answered, _ = official_vqa.rows(SUBSET)
    plain = _files(tmp_path, questions=asked, annotations=answered)
    rows = list(sources.read_annotations(*zipped, SUBSET))
    assert rows == list(sources.read_annotations(*plain, SUBSET))
    assert len(rows) == len(asked)
    assert rows[-1] == (
        "COCO_train2014_000000000039",
        official_vqa.QUESTIONS[-1],
        "red",
        "other",
    )


def test_unicode_braces_and_long_questions_are_read_as_they_are(tmp_path):
    asked, answered, _ = official_vqa.rows(SUBSET, num_images=1)
    texts = ("¿Qué hay? 犬 \N{DOG FACE}", "What is {} in {0}?", "why " * 300)
    for row, text in zip(asked, texts, strict=False):
        row["question"] = text
    answered[0]["multiple_choice_answer"] = "a {brace}"
    rows = list(
        sources.read_annotations(*_files(tmp_path, questions=asked, annotations=answered), SUBSET)
    )
    assert [row.question for row in rows[:3]] == list(texts)
    assert rows[0].answer == "a {brace}"


@pytest.mark.parametrize("length", [0, 1, 1000, -1])
@pytest.mark.parametrize("which", [0, 1])
def test_truncated_json_is_refused(tmp_path, length, which):
    paths = _files(tmp_path)
    paths[which].write_bytes(paths[which].read_bytes()[:length])
    with pytest.raises(UserError, match=f"{paths[which].name} is damaged or truncated"):
        list(sources.read_annotations(*paths, SUBSET))


def test_a_truncated_archive_is_refused(official, tmp_path):
    path = tmp_path / "questions.zip"
    content = (official / sources.QUESTIONS[SUBSET].name).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="questions.zip is damaged or truncated"):
        sources.read_download(path)


def test_a_question_without_annotation_is_refused(tmp_path):
    asked, answered, _ = official_vqa.rows(SUBSET, num_images=2)
    with pytest.raises(UserError, match="2 questions without an annotation, .* question_id 0"):
        list(sources.read_annotations(*_files(tmp_path, annotations=answered[2:]), SUBSET))
    with pytest.raises(UserError, match="1 annotations without a question, .* question_id 1011"):
        list(sources.read_annotations(*_files(tmp_path, questions=asked[:-1]), SUBSET))


def test_files_of_another_release_are_refused(tmp_path):
    asked, answered, _ = official_vqa.rows(SUBSET, num_images=2)
    answered[3]["image_id"] = 77
    with pytest.raises(UserError, match="question_id 3 is about image 77, in .* about 0"):
        list(sources.read_annotations(*_files(tmp_path, annotations=answered), SUBSET))
    with pytest.raises(UserError, match="is of 'train2014', 'val2014' is expected"):
        list(sources.read_annotations(*_files(tmp_path), "val2014"))


@pytest.mark.parametrize("key, value", [("question", "other?"), ("multiple_choice_answer", "no")])
def test_a_question_id_twice_is_refused_where_the_two_differ(tmp_path, key, value):
    asked, answered, _ = official_vqa.rows(SUBSET, num_images=2)
    files = {"questions": asked, "annotations": answered}
    rows = asked if key == "question" else answered
    rows.append(dict(rows[3]))
    assert len(list(sources.read_annotations(*_files(tmp_path, **files), SUBSET))) == len(rows) - 1
    rows[-1][key] = value
    with pytest.raises(UserError, match="has question_id 3 twice, with different content"):
        list(sources.read_annotations(*_files(tmp_path, **files), SUBSET))


@pytest.mark.parametrize(
    "changes", [{"question": 3}, {"image_id": "9"}, {"question_id": None}, {"image_id": True}]
)
def test_rows_of_another_form_are_refused(tmp_path, changes):
    asked, _, _ = official_vqa.rows(SUBSET, num_images=1)
    asked[2] |= changes
    name = next(iter(changes))
    with pytest.raises(UserError, match=rf"questions.json: {name} .* is expected"):
        list(sources.read_annotations(*_files(tmp_path, questions=asked), SUBSET))


@pytest.mark.parametrize("content", ["[]", "{}", '{"questions": []}', '{"questions": {}}'])
def test_json_of_something_else_is_refused(tmp_path, content):
    questions, annotations = _files(tmp_path)
    questions.write_text(content)
    with pytest.raises(UserError, match="questions.json has no list 'questions'"):
        list(sources.read_annotations(questions, annotations, SUBSET))


@pytest.mark.parametrize(
    "member", ["../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "C:\\e.json"]
)
def test_an_archive_with_an_unsafe_path_is_refused(tmp_path, member):
    path = tmp_path / "bad.zip"
    official_vqa.write_zip(path, {member: b"{}", "train2014/COCO_train2014_000000000001.jpg": b""})
    with pytest.raises(UserError, match="unsafe path"):
        sources.read_download(path)
    with pytest.raises(UserError, match="unsafe path"):
        list(sources.read_jpegs({SUBSET: path}, ["COCO_train2014_000000000001"]))
    assert list(tmp_path.iterdir()) == [path]


def test_an_archive_of_two_json_files_is_refused(tmp_path):
    official_vqa.write_zip(tmp_path / "two.zip", {"a.json": b"{}", "b.json": b"{}"})
    with pytest.raises(UserError, match="holds 2 JSON files"):
        sources.read_download(tmp_path / "two.zip")


def test_images_come_as_they_are_from_archive_and_folder(official, tmp_path):
    _, _, made = official_vqa.rows(SUBSET)
    ids = ["COCO_train2014_000000000007", "COCO_train2014_000000000002"]
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, content in made.items():
        (folder / name).write_bytes(content)
    for place in (official / "train2014.zip", folder):
        images = list(sources.read_jpegs({SUBSET: place}, ids))
        assert images == [(name, made[f"{name}.jpg"]) for name in ids]


def test_unknown_image_ids_are_refused(official, tmp_path):
    places = {SUBSET: official / "train2014.zip", "val2014": official / "val2014.zip"}
    with pytest.raises(UserError, match=r"lacks 1 of 2 images, the first COCO_val2014_0+9.jpg"):
        list(sources.read_jpegs(places, [f"COCO_val2014_{n:012d}" for n in (100, 9)]))
    for name in ("COCO_train2014_1", "COCO_test2015_000000000001", "../COCO_val2014_000000000001"):
        with pytest.raises(UserError, match="image id .* is expected"):
            list(sources.read_jpegs(places, [name]))
    damaged = tmp_path / "train2014.zip"
    damaged.write_bytes(places[SUBSET].read_bytes()[:200])
    with pytest.raises(UserError, match="train2014.zip is damaged"):
        list(sources.read_jpegs({SUBSET: damaged}, ["COCO_train2014_000000000001"]))
