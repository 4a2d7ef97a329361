"""Which encoder of questions a configuration names, and what is said of how it reads."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_folder import write_folder
from toy_sentence_encoder import write_sentence_encoder

from hyper_meta.core.configuration import load_settings
from hyper_meta.core.types import UserError
from hyper_meta.encoders import hub
from hyper_meta.encoders.folder import (
    bundled_encoder_path,
    encode_questions,
    encode_texts,
    load_encoder,
    tokenize,
)
from hyper_meta.encoders.installed import SOURCES, read_installed
from hyper_meta.encoders.sentence_encoder import (
    encode_sentences,
    load_sentence_encoder,
    read_folder,
    tokenize_sentences,
)
from hyper_meta.preparation import question_encoder as chosen
from hyper_meta.preparation.fingerprint import data_fingerprint
from hyper_meta.preparation.prepare import load_data, open_encoders

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits_vqa.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_encoder(tmp_path_factory.mktemp("encoders") / "toy")


def settings(**values):
    given = [f"--config.{name}={value}" for name, value in values.items()]
    return load_settings(CONFIG, Path(), given)


def test_by_default_the_text_tower_of_the_encoder_reads_the_questions():
    assert chosen.open_question_encoder(settings()) is None
    encoders = open_encoders(settings())
    assert encoders.is_one and encoders.questions is encoders.images


def test_a_folder_is_read_with_the_layer_the_prefix_and_the_dtype(folder):
    values = {"question_layer": 2, "question_prefix": "query: ", "encoder_dtype": "bfloat16"}
    encoders = open_encoders(settings(question_encoder=folder, **values))
    found = encoders.questions
    assert (found.layer, found.prefix, found.dtype) == (2, "query: ", "bfloat16")
    assert not encoders.is_one and encoders.images.config.projection_dim == 128


def test_a_name_of_the_hub_is_fetched_with_the_files_of_a_sentence_encoder(folder, monkeypatch):
    asked = []

    def fetch(*arguments):
        asked.append(arguments)
        return folder

    monkeypatch.setattr(hub, "fetch", fetch)
    found = chosen.open_question_encoder(settings(question_encoder="intfloat/e5-small-v2"))
    assert asked == [("intfloat/e5-small-v2", hub.SENTENCE_ENCODER)]
    assert found.fingerprint == load_sentence_encoder(read_folder(folder), "toy").fingerprint


def test_a_name_of_a_package_is_read_where_it_is_installed():
    source = SOURCES["all-MiniLM-L6-v2"]
    if importlib.util.find_spec(source.module) is None:
        pytest.skip(f"{source.package} is not installed: launch/test.sh does it")
    found = chosen.open_question_encoder(settings(question_encoder="all-MiniLM-L6-v2"))
    known = load_sentence_encoder(read_installed("all-MiniLM-L6-v2"), "MiniLM")
    assert found.fingerprint == known.fingerprint and found.config.hidden_size == 384


def test_what_is_none_of_these_is_refused_with_the_known_names():
    with pytest.raises(
        UserError, match="no such folder, .* all-MiniLM-L6-v2 nor a name of the Hub"
    ):
        chosen.open_question_encoder(settings(question_encoder="MiniLM"))


def test_a_layer_or_a_prefix_without_a_sentence_encoder_is_refused():
    for values in ({"question_layer": 2}, {"question_prefix": "query: "}):
        with pytest.raises(UserError, match="are of a sentence encoder: name one"):
            settings(**values)


def test_longer_sentences_are_counted_on_stderr_and_the_longest_shown(folder, capsys):
    encoder = load_sentence_encoder(read_folder(folder), "toy")
    chosen.tell_too_long(encoder, ["how many", "seven " * 22], "questions")
    assert capsys.readouterr().err == ""
    chosen.tell_too_long(encoder, ["seven " * 30, "how", "digit " * 31], "questions")
    error = capsys.readouterr().err
    assert error.startswith("hyper-meta: 2 of 3 questions have more tokens than the 24 that their ")
    assert "the longest has 33: 'digit digit " in error and error.count("\n") == 1


def test_a_folder_that_does_not_say_how_it_pools_is_named(folder, tmp_path, capsys):
    plain = write_sentence_encoder(tmp_path / "plain")
    for path in (folder, plain):
        encoder = load_sentence_encoder(read_folder(path), "toy")
        chosen.tell_assumed(encoder, str(path))
        assert capsys.readouterr().err == ""
    (plain / "modules.json").unlink()
    chosen.tell_assumed(load_sentence_encoder(read_folder(plain), "toy"), "its name")
    assert "its name has no modules.json" in capsys.readouterr().err


def test_questions_of_a_data_set_with_features_are_read_anew(folder, tmp_path):
    """Images and answers stay as they were given."""
    data_dir = write_folder(tmp_path / "data")
    given = {"dataset": "precomputed", "data_dir": data_dir, "encoder": ""}
    before = load_data(settings(**given))
    config = settings(**given, question_encoder=folder, question_tokens=True)
    after = load_data(config)
    for name, table in after.tables.items():
        np.testing.assert_array_equal(table.image_features, before.tables[name].image_features)
        np.testing.assert_array_equal(table.answer_features, before.tables[name].answer_features)
    encoder = load_sentence_encoder(read_folder(folder), "toy")
    asked = [task.sentence for task in after.tasks["train"]]
    expected = encode_sentences(encoder, tokenize_sentences(encoder, asked), with_tokens=True)
    found = after.tables["train"].questions
    np.testing.assert_allclose(found.pooled, expected.pooled, atol=1e-5)
    length = expected.tokens.shape[1]
    np.testing.assert_array_equal(found.mask[:, :length], expected.mask)
    np.testing.assert_allclose(found.tokens[:, :length], expected.tokens, atol=1e-5)
    whole = load_data(settings(**given, question_encoder=folder, question_tokens=False))
    assert whole.tables["train"].questions.tokens is None
    fingerprints = [data_fingerprint(config, data)["question_encoder"] for data in (before, after)]
    assert fingerprints == ["precomputed", encoder.fingerprint]


@pytest.fixture(scope="module")
def made_by(tmp_path_factory):
    """(a folder of features, the encoder of the package, which made them)"""
    data_dir = write_folder(tmp_path_factory.mktemp("made") / "data")
    (data_dir / "question_tokens.npz").unlink()
    with np.load(data_dir / "features.npz") as file:
        arrays = dict(file)
    encoder = load_encoder(bundled_encoder_path())
    for names, features in (
        ("questions", "question_features"),
        ("answer_prompts", "answer_features"),
    ):
        encoded = encode_texts(encoder, tokenize(encoder, arrays[names].tolist()))
        arrays[features] = np.asarray(encoded).astype(np.float16)
    rng = np.random.default_rng(0)
    arrays["image_features"] = rng.normal(size=(40, encoder.config.projection_dim)).astype("f2")
    np.savez(data_dir / "features.npz", **arrays)
    return data_dir, encoder


def test_features_that_name_their_encoder(made_by):
    data_dir, encoder = made_by
    config = settings(dataset="precomputed", data_dir=data_dir, question_tokens=True)
    data = load_data(config)
    assert data.source["encoder"] == data.source["question_encoder"] == encoder.fingerprint
    asked = [task.sentence for task in data.tasks["train"]]
    expected = encode_questions(encoder, tokenize(encoder, asked), with_tokens=True)
    found = data.tables["train"].questions
    np.testing.assert_allclose(found.pooled, expected.pooled, atol=1e-5)
    length = expected.tokens.shape[1]
    np.testing.assert_allclose(found.tokens[:, :length], expected.tokens, atol=1e-5)
    encoded = data.encode(asked[:2])
    np.testing.assert_allclose(encoded.pooled, expected.pooled[:2], atol=1e-5)


@pytest.mark.parametrize("kind", ["normalised", "another", "width"])
def test_features_of_another_encoder_are_refused(made_by, tmp_path, kind):
    data_dir = shutil.copytree(made_by[0], tmp_path / "data")
    with np.load(data_dir / "features.npz") as file:
        arrays = dict(file)
    answers = arrays["answer_features"].astype(np.float32)
    if kind == "normalised":
        answers /= np.linalg.norm(answers, axis=1, keepdims=True)
    answers = {"another": answers[::-1], "width": answers[:, :5]}.get(kind, answers)
    arrays["answer_features"] = answers
    arrays["image_features"] = arrays["image_features"][:, : answers.shape[1]].astype(np.float32)
    np.savez(data_dir / "features.npz", **arrays)
    with pytest.raises(UserError, match="name the one that did, or none with --config.encoder="):
        load_data(settings(dataset="precomputed", data_dir=data_dir))
    data = load_data(
        settings(dataset="precomputed", data_dir=data_dir, encoder="", question_tokens=False)
    )
    assert data.encode is None
