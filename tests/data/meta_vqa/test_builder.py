"""Meta-VQA built by tensorflow-datasets from small official files."""

import json
import shutil
from pathlib import Path

import official_vqa
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, downloader

from hyper_meta.core.types import UserError
from hyper_meta.data import datasets
from hyper_meta.data.meta_vqa import sources

ALL = [
    *sources.QUESTIONS.values(),
    *sources.ANNOTATIONS.values(),
    *sources.IMAGES.values(),
    *sources.PUBLISHED.values(),
]


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = official_vqa.write(tmp_path_factory.mktemp("official"))
    with pytest.MonkeyPatch.context() as patch:
        official_vqa.register(patch, folder)
        yield folder


@pytest.fixture(scope="module")
def built(official, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("built")
    datasets.build("meta_vqa", data_dir, official)
    return data_dir


def test_the_registered_files_are_those_of_the_sources():
    """Names, sizes and hashes are in the form that tensorflow-datasets checks."""
    registered = checksums.load_url_infos(Path(sources.__file__).with_name("checksums.tsv"))
    assert {file.url for file in ALL} == set(registered)
    for file in ALL:
        info = registered[file.url]
        assert info.filename == file.name
        assert len(info.checksum) == 64 and int(info.checksum, 16) and info.size > 1000
    by_tfds = checksums.load_url_infos(tfds.core.tfds_path() / "url_checksums" / "coco.txt")
    for file in sources.IMAGES.values():
        assert registered[file.url] == by_tfds[file.url]


def test_tasks_are_those_of_the_rules(built):
    tasks = datasets.load_tasks("meta_vqa", built)
    assert {split: len(part) for split, part in tasks.items()} == {"train": 8, "test": 4}
    everyone = [*tasks["train"], *tasks["test"]]
    assert {task.sentence for task in everyone} == set(official_vqa.QUESTIONS)
    for task in everyone:
        assert set(task.answers) == set(official_vqa.COLOURS)
        images = [image for image, _ in (*task.support, *task.query)]
        assert len(set(images)) == len(images) == 80
        for image, answer in (*task.support, *task.query):
            number = int(image.rsplit("_", 1)[1])
            assert task.answers[answer] == list(official_vqa.COLOURS)[number % 3]
    bowl = next(task for task in everyone if task.sentence == "What color is the bowl?")
    assert bowl.template == "the bowl is {}"


def test_images_are_the_files_themselves(built):
    made = {}
    for number, subset in enumerate(official_vqa.SUBSETS):
        made |= official_vqa.rows(subset, first=100 * number)[2]
    images = dict(datasets.iterate_images("meta_vqa", built))
    assert {f"{name}.jpg": content for name, content in images.items()} == made
    assert datasets.count_images("meta_vqa", built) == 80


def test_unpacked_files_serve_as_well(official, tmp_path):
    manual = tmp_path / "manual"
    manual.mkdir()
    for file in (*sources.QUESTIONS.values(), *sources.ANNOTATIONS.values()):
        content = sources.read_download(official / file.name)
        (manual / file.unpacked).write_text(json.dumps(content))
    for subset, file in sources.IMAGES.items():
        shutil.unpack_archive(official / file.name, manual)
        assert (manual / subset).is_dir()
    places = datasets.needed("meta_vqa", tmp_path / "data", manual)
    assert {file.path.name for file in places} == {
        file.unpacked for file in ALL if file not in sources.PUBLISHED.values()
    }
    datasets.build("meta_vqa", tmp_path / "data", manual)
    assert len(datasets.load_tasks("meta_vqa", tmp_path / "data")["train"]) == 8


def test_files_are_downloaded_once_and_checked(official, tmp_path, monkeypatch):
    served = official_vqa.serve(monkeypatch, downloader, official)
    assert all(file.path is None for file in datasets.needed("meta_vqa", tmp_path))
    datasets.build("meta_vqa", tmp_path)
    assert sorted(served) == sorted(file.url for file in ALL[:6])
    assert all(file.path.exists() for file in datasets.needed("meta_vqa", tmp_path))
    # What was built may be lost, what was downloaded serves again.
    shutil.rmtree(tmp_path / "meta_vqa")
    datasets.build("meta_vqa", tmp_path)
    assert len(served) == 6


@pytest.mark.parametrize("by", ["download", "hand"])
def test_a_file_of_another_hash_is_refused(official, tmp_path, monkeypatch, by):
    other = shutil.copytree(official, tmp_path / "other")
    name = sources.QUESTIONS["val2014"].name
    (other / name).write_bytes((official / name).read_bytes() + b"more")
    official_vqa.serve(monkeypatch, downloader, other)
    with pytest.raises(UserError, match=f"(?s)cannot build meta_vqa.*{name}.*wrong checksum"):
        datasets.build("meta_vqa", tmp_path / "data", other if by == "hand" else None)
    assert not datasets.is_prepared("meta_vqa", tmp_path / "data")


def test_a_failing_download_is_an_error_in_words(tmp_path, monkeypatch):
    def refuse(url, **kwargs):
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(downloader, "_open_url", refuse)
    with pytest.raises(UserError, match="cannot build meta_vqa in .*no route to"):
        datasets.build("meta_vqa", tmp_path)


def test_an_image_that_is_not_in_coco_is_refused_and_nothing_is_left(official, tmp_path):
    manual = shutil.copytree(official, tmp_path / "manual")
    for file in sources.IMAGES.values():
        shutil.unpack_archive(manual / file.name, manual)
    (manual / "val2014" / "COCO_val2014_000000000120.jpg").unlink()
    with pytest.raises(
        UserError, match="lacks 1 of 40 images, the first COCO_val2014_000000000120"
    ):
        datasets.build("meta_vqa", tmp_path / "data", manual)
    assert not datasets.is_prepared("meta_vqa", tmp_path / "data")


def test_the_published_files_are_imported_as_they_are(official, tmp_path):
    """With their own templates, in their own order."""
    tasks = {
        f"What is {n}?": {
            "train": [[f"COCO_train2014_{i:012d}", "red"] for i in range(n, n + 5)],
            "test": [[f"COCO_val2014_{i:012d}", "blue"] for i in range(100 + n, 103 + n)],
            "answers": ["red", "blue"],
        }
        for n in range(6)
    }
    names = list(tasks)
    manual = shutil.copytree(official, tmp_path / "manual")
    parts = {"meta_train.json": names[:4][::-1], "meta_test.json": names[4:]}
    for name, questions in parts.items():
        (manual / name).write_text(json.dumps({q: tasks[q] for q in questions}))
    (manual / "prompt_meta.json").write_text(json.dumps({q: f"{q[:-1]} {{}}" for q in tasks}))
    with pytest.MonkeyPatch.context() as patch:
        official_vqa.register(patch, manual)
        datasets.build("meta_vqa_published", tmp_path / "data", manual)
    built = datasets.load_tasks("meta_vqa_published", tmp_path / "data")
    assert [task.sentence for task in built["train"]] == parts["meta_train.json"]
    assert built["test"][0].template == "What is 4 {}"
    assert built["test"][0].support == tuple(
        (image, 0) for image, _ in tasks["What is 4?"]["train"]
    )
    images = dict(datasets.iterate_images("meta_vqa_published", tmp_path / "data"))
    assert set(images) == {
        image for task in tasks.values() for image, _ in (*task["train"], *task["test"])
    }
