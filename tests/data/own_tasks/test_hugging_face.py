"""Data sets of Hugging Face's `datasets` as folders of tasks, from `save_to_disk` and Parquet."""

import json

import numpy as np
import pytest
from PIL import Image

from hyper_meta.cli.main import main

datasets = pytest.importorskip("datasets")
SIZE = 60


def picture(number):
    return Image.fromarray(np.full((8, 8, 3), number, np.uint8))


def rows_of(number):
    """Two questions on each of 30 pictures, and one rare question."""
    question = ("What colour?", "How many?")[number % 2]
    return {
        "image": picture(number // 2),
        "question": "Rare?" if number >= SIZE - 2 else question,
        "answer": ("red", "blue")[number // 2 % 2],
        "votes": [{"answer": "yes"}, {"answer": "no"}, {"answer": ("no", "yes")[number // 4 % 2]}],
        "label": number // 2 % 2,
    }


@pytest.fixture(scope="module")
def made():
    table = datasets.Dataset.from_list([rows_of(number) for number in range(SIZE)])
    table = table.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    return table.cast_column("image", datasets.Image())


@pytest.fixture(scope="module", params=["disk", "parquet"])
def source(request, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "disk":
        made.save_to_disk(folder)
    else:
        made.to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def imported(source, out, *options):
    assert main(["import-tasks", str(source), "--out", str(out), *options]) == 0
    return [json.loads(line) for line in (out / "tasks.jsonl").read_text().splitlines()]


def test_questions_with_enough_pictures_become_tasks(source, tmp_path, capsys):
    rows = imported(source, tmp_path / "out")
    assert {row["task"] for row in rows} == {"What colour?", "How many?"}
    assert len(rows) == SIZE - 2 and len({row["image"] for row in rows}) == 29
    for number, row in enumerate(rows):
        with Image.open(tmp_path / "out" / row["image"]) as image:
            assert np.asarray(image).flat[0] == number // 2
        assert row["answer"] == ("red", "blue")[number // 2 % 2]
    out = capsys.readouterr().out
    assert (
        "2 tasks with 58 examples of 29 images" in out and "left out: 2 rows of 1 questions" in out
    )
    command = ["check", str(tmp_path / "out")]
    assert main(command) == 2  # too few for three splits
    assert "2 tasks of 2 concepts are left" in capsys.readouterr().out


def test_answers_of_several_people_and_of_classes(source, tmp_path):
    votes = imported(source, tmp_path / "votes", "--answer", "votes")
    assert [row["answer"] for row in votes[:5]] == ["no", "no", "no", "no", "yes"]
    classes = imported(source, tmp_path / "classes", "--answer", "label")
    assert [row["answer"] for row in classes[:3]] == ["cat", "cat", "dog"]


def test_as_many_rows_as_asked_for(source, tmp_path):
    rows = imported(source, tmp_path / "out", "--rows", "20", "--fewest", "5")
    assert len(rows) == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--answer", "none"],
            "image, question, answer, votes, label and no none: name its",
        ),
        (["--image", "question"], "the column question of"),
        (["--fewest", "99"], "has 3 questions, none with 99 pictures and two answers"),
    ],
)
def test_what_cannot_be_read(source, tmp_path, capsys, options, said):
    assert main(["import-tasks", str(source), "--out", str(tmp_path / "out"), *options]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err and not (tmp_path / "out").exists()


def test_a_picture_that_is_damaged_is_left_out(made, tmp_path, capsys):
    encoded = made.cast_column("image", datasets.Image(decode=False))

    def damage(row, number):
        return row | {"image": {"bytes": b"no", "path": None}} if number == 4 else row

    encoded.map(damage, with_indices=True, features=encoded.features).save_to_disk(tmp_path / "in")
    again = datasets.load_from_disk(tmp_path / "in").cast_column("image", datasets.Image())
    again.save_to_disk(tmp_path / "damaged")
    assert len(imported(tmp_path / "damaged", tmp_path / "out")) == SIZE - 3
    assert "left out: 1 rows without a picture that can be read" in capsys.readouterr().out


def test_nothing_of_that_name(tmp_path, capsys, monkeypatch):
    (tmp_path / "one.parquet").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("none", "there is no folder"),
        ("one.parquet", "one.parquet is a file: give the folder that it is in"),
        ("empty", "cannot read the data set"),
    ):
        assert main(["import-tasks", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    assert main(["import-tasks", "a/b", "--out", str(tmp_path / "out")]) == 2
    assert "exists: remove it or choose another folder" in capsys.readouterr().err
    for option in ("--rows", "--fewest"):
        with pytest.raises(SystemExit):
            main(["import-tasks", "a/b", "--out", str(tmp_path / "new"), option, "1"])
        assert "2 or more are expected" in capsys.readouterr().err
