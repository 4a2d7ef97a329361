import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hyper_meta.core.types import UserError
from hyper_meta.data import datasets
from hyper_meta.data.digits_vqa import digits_vqa_dataset_builder as builder
from hyper_meta.data.digits_vqa.questions import all_questions
from hyper_meta.data.digits_vqa.scenes import render
from hyper_meta.data.images import decode


def _built(data_dir, part):
    return builder.Builder(config=part, data_dir=str(data_dir), file_format="array_record")


def test_the_schema_is_the_one_that_task_data_sets_share(digits_vqa_dir):
    tasks, scenes = (_built(digits_vqa_dir, part) for part in ("tasks", "scenes"))
    assert set(tasks.info.features) == {
        "sentence",
        "answers",
        "template",
        "family",
        "group",
        "items",
    }
    assert set(tasks.info.features["items"].feature) == {"image_id", "answer", "subset"}
    assert set(scenes.info.features) == {"image_id", "image"}
    splits = {"train", "validation", "test"}
    assert set(tasks.info.splits) == set(scenes.info.splits) == splits
    sizes = {split: info.num_examples for split, info in scenes.info.splits.items()}
    assert sizes == builder.NUM_SCENES


def test_it_is_built_and_read_without_tensorflow(digits_vqa_dir, digits_vqa):
    records = [path for path in digits_vqa_dir.rglob("*record*") if path.is_file()]
    assert len(records) == 6 and all(".array_record" in path.name for path in records)
    assert "tensorflow" not in sys.modules


def test_tasks_are_read_as_they_were_made(digits_vqa, digits_scenes):
    made = {"train": {}, "validation": {}, "test": {}}
    for number, question in enumerate(all_questions()):
        if number % 7 == 0:
            task = builder.make_task(number, question, digits_scenes)
            made[question.split][question.text] = task
    for split, tasks in made.items():
        read = {task.sentence: task for task in digits_vqa[split]}
        for sentence, task in tasks.items():
            for name in ("template", "family", "group"):
                assert getattr(read[sentence], name) == task[name]
            assert list(read[sentence].answers) == task["answers"]
            for subset in ("support", "query"):
                items = [i for i in task["items"] if i["subset"] == subset]
                expected = tuple((i["image_id"], i["answer"]) for i in items)
                assert getattr(read[sentence], subset) == expected


def test_images_are_read_as_they_were_painted(digits_vqa_dir, digits_scenes):
    """Every image is there, and every tenth is the same pixel by pixel."""
    painted = {
        builder.image_id(split, row): image if row % 10 == 0 else None
        for split, scenes in digits_scenes.items()
        for row, image in enumerate(render(scenes))
    }
    names = []
    for name, content in datasets.iterate_images("digits_vqa", digits_vqa_dir):
        names.append(name)
        if painted[name] is not None:
            np.testing.assert_array_equal(np.asarray(decode(name, content)), painted[name])
    assert sorted(names) == sorted(painted)
    assert len(names) == datasets.count_images("digits_vqa", digits_vqa_dir)


@pytest.fixture(scope="module")
def everyone(digits_vqa_dir):
    """The names of all images, in order."""
    return [name for name, _ in datasets.iterate_images("digits_vqa", digits_vqa_dir)]


@pytest.mark.parametrize("start", [0, 1, 11_999, 12_000, 15_999, 16_000])
def test_images_are_read_from_any_on(digits_vqa_dir, everyone, start):
    rest = [name for name, _ in datasets.iterate_images("digits_vqa", digits_vqa_dir, start)]
    assert rest == everyone[start:]


def test_preparing_again_changes_nothing(digits_vqa_dir):
    files = {path: path.stat().st_mtime_ns for path in digits_vqa_dir.rglob("*record*")}
    fingerprint = datasets.dataset_fingerprint("digits_vqa", digits_vqa_dir)
    datasets.build("digits_vqa", digits_vqa_dir)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert datasets.dataset_fingerprint("digits_vqa", digits_vqa_dir) == fingerprint
    assert len(fingerprint) == 64


def _build_small(folder):
    """A tenth of the tasks, of few scenes. Returns the fingerprint."""
    questions = all_questions()[::10]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "NUM_SCENES", {"train": 600, "validation": 90, "test": 90})
        patch.setattr(builder, "all_questions", lambda: questions)
        patch.setattr(builder, "LARGEST", 40)
        datasets.build("digits_vqa", folder)
        return datasets.dataset_fingerprint("digits_vqa", folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(folder of a small build, its fingerprint)"""
    folder = tmp_path_factory.mktemp("small")
    return folder, _build_small(folder)


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(byte ^ 255 for byte in content[middle : middle + 40])
    path.write_bytes(content)


DAMAGES = {
    "no records": ("*-train.array_record*", Path.unlink),
    "empty records": ("*-train.array_record*", lambda path: path.write_bytes(b"")),
    "cut records": ("*-train.array_record*", _cut),
    "changed records": ("*-train.array_record*", _flip),
    "other records": ("*-train.array_record*", lambda path: path.write_bytes(b"no records" * 999)),
    "empty description": ("dataset_info.json", lambda path: path.write_bytes(b"")),
    "cut description": ("dataset_info.json", _cut),
}


@pytest.mark.parametrize("part", ["tasks", "scenes"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_set_is_refused_with_what_to_remove(small, part, damage, tmp_path):
    folder = shutil.copytree(small[0], tmp_path / "data")
    pattern, change = DAMAGES[damage]
    (path,) = (folder / "digits_vqa" / part).rglob(pattern)
    change(path)
    with pytest.raises(UserError) as caught:
        assert datasets.is_prepared("digits_vqa", folder)
        datasets.build("digits_vqa", folder)
        datasets.load_tasks("digits_vqa", folder)
        list(datasets.iterate_images("digits_vqa", folder))
    told = str(caught.value)
    assert told.startswith(f"the data set digits_vqa in {folder} is damaged (") and "\n" not in told
    assert told.endswith(f"remove {folder / 'digits_vqa'}, and it is built anew")


@pytest.mark.parametrize("content", [b"", b"0" * 63, b"\xff" * 64])
def test_a_damaged_fingerprint_is_computed_anew(small, content, tmp_path):
    folder = shutil.copytree(small[0], tmp_path / "data")
    (path,) = folder.rglob("sha256.txt")
    path.write_bytes(content)
    assert datasets.dataset_fingerprint("digits_vqa", folder) == small[1]


def test_the_fingerprint_is_that_of_the_data_whoever_builds_them(small, tmp_path):
    """Another process writes other bytes."""
    folder, fingerprint = small
    command = [sys.executable, __file__, str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == fingerprint
    one, other = (sorted(place.rglob("*.array_record*")) for place in (folder, tmp_path / "other"))
    assert len(one) == len(other) == 6
    assert [path.read_bytes() for path in one] != [path.read_bytes() for path in other]


def test_the_fingerprint_does_not_see_concepts(digits_vqa):
    """They follow from the sentences, and data sets and runs from before tasks had them stay."""
    task = digits_vqa["test"][0]
    assert task.concept and task.concept not in repr(task)


def test_an_unknown_data_set_is_refused_with_the_known_names(tmp_path):
    with pytest.raises(UserError, match=r"unknown data set 'mnist'.*digits_vqa"):
        datasets.build("mnist", tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot build digits_vqa in"):
        datasets.build("digits_vqa", tmp_path / "file" / "data")


if __name__ == "__main__":
    print(_build_small(Path(sys.argv[1])))
