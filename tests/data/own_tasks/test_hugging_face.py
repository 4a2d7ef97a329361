"""Data sets of Hugging Face's `datasets` as folders of tasks, from `save_to_disk` and Parquet."""

import io
import json
import zipfile

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


def test_only_pictures_of_the_data_set_are_read(tmp_path, capsys):
    """A row may name any file: those outside of its folder stay where they are."""
    (tmp_path / "in").mkdir()
    for name in ("secret.png", "in/own.png"):
        picture(len(name)).save(tmp_path / name)
    places = [tmp_path / "secret.png", tmp_path / "in/own.png", tmp_path / "in/../secret.png"]
    rows = [
        {"image": {"bytes": None, "path": str(place)}, "question": f"What {n}?", "answer": answer}
        for place in places
        for n, answer in ((0, "a"), (1, "b"))
    ]
    rows = [row | {"question": "What?"} for row in rows]
    features = datasets.Features(
        image=datasets.Image(decode=False),
        question=datasets.Value("string"),
        answer=datasets.Value("string"),
    )
    table = datasets.Dataset.from_list(rows, features=features)
    table.to_parquet(tmp_path / "in" / "train.parquet")
    found = imported(tmp_path / "in", tmp_path / "out", "--fewest", "2")
    assert len(found) == 1 and len(list((tmp_path / "out").rglob("*.png"))) == 1
    (tmp_path / "in/own.png").unlink()
    command = ["import-tasks", str(tmp_path / "in"), "--out", str(tmp_path / "none")]
    assert main([*command, "--fewest", "2"]) == 2
    assert "has no picture that can be read" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_pictures_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        lines = []
        for number in range(30):
            file = io.BytesIO()
            picture(number).save(file, "png")
            archive.writestr(f"{number:02d}.png", file.getvalue())
            record = {"file_name": f"{number:02d}.png", "question": "What?"}
            lines.append(json.dumps(record | {"answer": ("a", "b")[number % 2]}))
        archive.writestr("metadata.jsonl", "\n".join(lines))
    (tmp_path / "in").mkdir()
    (tmp_path / "data.zip").rename(tmp_path / "in" / "train.zip")
    rows = imported(tmp_path / "in", tmp_path / "out")
    assert len(rows) == 30
    with Image.open(tmp_path / "out" / rows[7]["image"]) as image:
        assert np.asarray(image).flat[0] == 7


def test_splits_of_what_was_saved(made, tmp_path, capsys):
    made.save_to_disk(tmp_path / "one")
    command = ["import-tasks", str(tmp_path / "one"), "--out", str(tmp_path / "out")]
    for option in ("--split", "--subset"):
        assert main([*command, option, "test"]) == 2
        assert "it was saved without splits" in capsys.readouterr().err
    datasets.DatasetDict(test=made).save_to_disk(tmp_path / "two")
    assert len(imported(tmp_path / "two", tmp_path / "out", "--split", "test")) == SIZE - 2


def test_lists_of_classes(made, tmp_path):
    names = datasets.ClassLabel(names=["cat", "dog"])
    listed = made.map(lambda row: {"labels": [row["label"]] * 2})
    listed = listed.cast_column("labels", datasets.Sequence(names))
    listed.save_to_disk(tmp_path / "in")
    rows = imported(tmp_path / "in", tmp_path / "out", "--answer", "labels")
    assert [row["answer"] for row in rows[:3]] == ["cat", "cat", "dog"]


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
