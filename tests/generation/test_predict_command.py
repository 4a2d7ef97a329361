"""What `hyper-meta predict` prints, and of which images."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from hyper_meta.cli.main import main
from hyper_meta.data.digits_vqa.scenes import render, sample_scenes
from hyper_meta.generation import predict as prediction
from hyper_meta.generation.generate import generate
from hyper_meta.generation.model import load_model
from hyper_meta.generation.predict import predict
from hyper_meta.generation.weights_file import save_weights

NUM = 6


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    weights = generate(load_model(), "Colour of the top left digit?")
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, weights)
    return weights, str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    scenes = sample_scenes(np.random.default_rng(0), NUM, handwriting="test")
    for number, image in enumerate(render(scenes)):
        Image.fromarray(image).save(folder / f"{number}.{'png' if number % 2 else 'BMP'}")
    (folder / "notes.txt").write_text("no picture")
    return folder


def _printed(capsys, *arguments):
    assert main(["predict", *map(str, arguments)]) == 0
    return capsys.readouterr()


def test_json_and_csv_say_what_predict_returns(weights, folder, capsys):
    paths = sorted(path for path in folder.iterdir() if path.suffix != ".txt")
    answers = ["red", "green", "blue"]
    expected = predict(weights[0], paths, answers=answers)
    asked = ("--weights", weights[1], "--answers", ",".join(answers), folder)
    found = json.loads(_printed(capsys, "--json", *asked).out)
    assert found["template"] == expected.template and found["warnings"] == []
    rows = list(csv.DictReader(io.StringIO(_printed(capsys, "--csv", *asked).out)))
    assert len(rows) == len(found["images"]) == NUM
    for number, (record, row) in enumerate(zip(found["images"], rows, strict=True)):
        assert record["image"] == row["image"] == str(paths[number])
        assert record["answer"] == row["answer"] == expected.answer[number]
        assert record["agreement"] == float(row["agreement"]) == expected.agreement[number]
        for place, answer in enumerate(answers):
            probability = float(expected.probabilities[number, place])
            assert record["probabilities"][answer] == float(row[answer]) == probability


def test_answers_of_any_characters_are_columns(weights, folder, capsys):
    asked = ("--weights", weights[1], "--answers", "bläu,a;b", "--template", "{}", folder)
    header = next(csv.reader(io.StringIO(_printed(capsys, "--csv", *asked).out)))
    assert header == ["image", "answer", "agreement", "bläu", "a;b"]


def test_files_are_held_a_batch_at_a_time(weights, folder, capsys, monkeypatch):
    opened, most = [], []
    preprocess, open_image = prediction.preprocess, prediction._open

    def opens(image):
        opened.append(image)
        return open_image(image)

    def prepares(encoder, images):
        most.append(len(opened))
        opened.clear()
        return preprocess(encoder, images)

    paths = [folder / "1.png"] * 150
    expected = predict(weights[0], paths[:1], answers=["red", "green"])
    monkeypatch.setattr(prediction, "_open", opens)
    monkeypatch.setattr(prediction, "preprocess", prepares)
    found = predict(weights[0], paths, answers=["red", "green"], progress=True)
    assert most == [150 + 64, 64, 22]  # all are opened once before
    np.testing.assert_allclose(
        found.probabilities, np.repeat(expected.probabilities, 150, axis=0), atol=1e-5
    )
    assert "150/150" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["empty", "missing", "corrupt"])
def test_a_picture_that_cannot_be_read_is_one_line(weights, folder, tmp_path, capsys, what):
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt").write_bytes(b"no picture")
    images = (folder / "1.png", tmp_path / what)
    asked = ["--weights", weights[1], "--answers", "red,green", "--csv", *map(str, images)]
    assert main(["predict", *asked]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and str(tmp_path / what) in said.err and not said.out
