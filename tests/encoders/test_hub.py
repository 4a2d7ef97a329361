"""Encoders by their names on the Hugging Face Hub, served by a small Hub of our own."""

import jax
import numpy as np
import pytest
from huggingface_hub import snapshot_download
from toy_encoder_files import sharded
from toy_hub import NOBODY, Hub, is_large, use_hub
from toy_sentence_encoder import write_sentence_encoder

from hyper_meta.core.types import UserError
from hyper_meta.encoders import hub
from hyper_meta.encoders.folder import load_encoder
from hyper_meta.encoders.hub import SENTENCE_ENCODER, Kind, fetch, is_hub_name
from hyper_meta.encoders.sentence_encoder import load_sentence_encoder, read_folder


@pytest.fixture
def files(saved_folder):
    files = {path.name: path.read_bytes() for path in saved_folder.iterdir()}
    return files | {"pytorch_model.bin": b"a pickle", "README.md": b"# some CLIP"}


def _clip(name):
    return load_encoder(fetch(name)).fingerprint


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """(a Hub's url, name, use) -> what `use` makes of the name there: by default the
    fingerprint of the encoder that is fetched."""

    def fetched(url, name="some/clip", use=_clip):
        use_hub(monkeypatch, url, tmp_path)
        return use(name)

    return fetched


def test_a_sentence_encoder_is_fetched_with_its_modules(tmp_path, fetched):
    """Also where another program has left its weights alone in the cache: without modules.json,
    it would be pooled otherwise."""
    folder = write_sentence_encoder(tmp_path / "toy")
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    hub = Hub({"main": files | {"pytorch_model.bin": b"a pickle", "onnx/config.json": b"{}"}})

    def load(name):
        content = read_folder(fetch(name, SENTENCE_ENCODER))
        return load_sentence_encoder(content, name)

    few = Kind(("config.json", "model.safetensors"), (("config.json",),))
    fetched(hub.url, use=lambda name: fetch(name, few))
    found = fetched(hub.url, use=load)
    assert found.fingerprint == load_sentence_encoder(read_folder(folder), "toy").fingerprint
    assert not any("pytorch_model.bin" in path or "onnx" in path for path in hub.requests)
    hub.requests.clear()
    assert fetched(NOBODY, use=load).fingerprint == found.fingerprint
    assert not hub.requests
    (path,) = tmp_path.rglob("snapshots/*/1_Pooling/config.json")
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(UserError, match=f"1_Pooling/config.json is damaged, .*: delete {blob}"):
        fetched(hub.url, use=load)


def test_names():
    for name in ("openai/clip-vit-large-patch14-336", "some/clip@refs/pr/7", "a/b@v1.0"):
        assert is_hub_name(name)
    for name in ("bundled", "/a/folder", "../up/there", "a/b/c", "a b/c", "a/b@"):
        assert not is_hub_name(name) or name == "../up/there"
    with pytest.raises(UserError, match="'bundled' given, a name such as"):
        fetch("bundled")


def test_only_what_is_needed_is_downloaded_once(files, encoder, fetched):
    hub = Hub({"main": files})
    assert fetched(hub.url) == encoder.fingerprint
    asked = {path.rsplit("/", 1)[1] for path in hub.requests if "/resolve/" in path}
    assert "model.safetensors" in asked
    assert not asked & {"pytorch_model.bin", "README.md"}
    hub.requests.clear()
    assert fetched(hub.url) == encoder.fingerprint
    assert fetched(NOBODY) == encoder.fingerprint
    assert not hub.requests


def test_without_safetensors_the_conversion_of_the_hub_is_taken(files, encoder, fetched):
    main = {name: content for name, content in files.items() if not is_large(name)}
    hub = Hub({"main": main, "refs/pr/7": files})
    assert fetched(hub.url) == encoder.fingerprint
    assert not any("pytorch_model.bin" in path for path in hub.requests)
    hub.requests.clear()
    for name in ("some/clip", "some/clip@refs/pr/7"):
        assert fetched(hub.url, name) == encoder.fingerprint
    assert not hub.requests


def test_a_model_without_any_safetensors_is_refused(files, fetched):
    main = {name: content for name, content in files.items() if not is_large(name)}
    hub = Hub({"main": main, "refs/pr/7": main})
    with pytest.raises(UserError, match="some/clip has no model.safetensors: convert it"):
        fetched(hub.url)
    with pytest.raises(UserError, match="has no model.safetensors in refs/pr/7: choose another"):
        fetched(hub.url, "some/clip@refs/pr/7")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_found(files, encoder, fetched, tmp_path, name):
    hub = Hub({"main": files})
    fetched(hub.url)
    (path,) = tmp_path.rglob(f"snapshots/*/{name}")
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=f"{name} is damaged, .*: delete {blob}"):
        fetched(hub.url)
    blob.unlink()
    assert fetched(hub.url) == encoder.fingerprint


@pytest.mark.parametrize(
    "missing", ["tokenizer.json", "preprocessor_config.json", "model-00002-of-00002.safetensors"]
)
def test_what_the_cache_lacks_is_downloaded(files, encoder, fetched, missing, saved_folder):
    """Where another program has left the rest of the model there, or a download was cut off."""
    files |= sharded(saved_folder)
    del files["model.safetensors"]
    hub = Hub({"main": files})
    rest = [name for name in files if name != missing]
    fetched(hub.url, use=lambda name: snapshot_download(name, allow_patterns=rest))
    found = fetched(hub.url, use=lambda name: load_encoder(fetch(name)))
    jax.tree.map(np.testing.assert_array_equal, found.params, encoder.params)
    hub.requests.clear()
    assert fetched(NOBODY) == found.fingerprint
    assert not hub.requests


def test_what_cannot_be_reached_is_an_error_in_words(fetched):
    with pytest.raises(UserError, match="cannot get some/clip from the Hugging Face"):
        fetched(NOBODY)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (b"---\nlicense: apache-2.0\ntags: [vision]\n---\n# A model\n", "apache-2.0"),
        (b"---\nlicense: [mit, other]\n---\n", None),
        (b"# no metadata\n", None),
        (b"---\nlicense: {\n---\n", None),
        (b"\xff\xfe", None),
        (None, None),
    ],
)
def test_the_licence_that_a_card_names(tmp_path, monkeypatch, card, expected):
    folder = tmp_path / "folder"
    folder.mkdir()
    if card is not None:
        (folder / "README.md").write_bytes(card)
    assert hub.licence_of(str(folder)) == expected
    files = {"config.json": b"{}"} | ({} if card is None else {"README.md": card})
    use_hub(monkeypatch, Hub({"main": files}).url, tmp_path / "cache")
    assert hub.licence_of("some/clip") == expected


def test_the_licence_of_what_cannot_be_reached_is_not_known(tmp_path, monkeypatch):
    use_hub(monkeypatch, NOBODY, tmp_path)
    assert hub.licence_of("some/clip") is None
    assert hub.licence_of("all-MiniLM-L6-v2") is None and hub.licence_of("bundled") is None
