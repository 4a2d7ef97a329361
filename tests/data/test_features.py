import dataclasses
import errno
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.data.features import Features, cached_features, read_store, write_store

SOURCE = {"dataset": "abc", "encoder": "def"}


def _features(seed=0, with_tokens=False):
    """Images and prompts of four dimensions, questions of five with tokens of three, or without."""
    rng = np.random.default_rng(seed)
    pooled = rng.normal(size=(2, 5)).astype(np.float32)
    tokens = rng.normal(size=(2, 6, 3)).astype(np.float32)
    mask = np.arange(6) < np.array([[4], [6]])
    return Features(
        image_ids=("train/1", "train/2", "test/1"),
        image_features=rng.normal(size=(3, 4)).astype(np.float32),
        questions=("What ist that?", "é {} \n"),
        question_features=SentenceFeatures(pooled, *(tokens, mask) if with_tokens else ()),
        prompts=("it is {}",),
        prompt_features=rng.normal(size=(1, 4)).astype(np.float32),
    )


def _refuse():
    raise AssertionError("computed again")


def _assert_same(one, other):
    for name in ("image_ids", "questions", "prompts", "skipped"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("image_features", "question_features", "prompt_features"):
        pair = getattr(one, name), getattr(other, name)
        jax.tree.map(np.testing.assert_array_equal, *pair)
        assert len({jax.tree.structure(tree) for tree in pair}) == 1


@pytest.fixture
def folder(tmp_path):
    """A written store."""
    path = tmp_path / "deep" / "store"
    cached_features(path, SOURCE, _features)
    return path


def test_a_fresh_store_is_read_and_not_computed_again(folder):
    _assert_same(cached_features(folder, SOURCE, _refuse), _features())
    assert sorted(path.name for path in folder.parent.iterdir()) == ["store"]


def test_token_states_are_kept_with_their_mask(tmp_path):
    features = _features(with_tokens=True)
    write_store(tmp_path / "store", SOURCE, features)
    source, again = read_store(tmp_path / "store")
    assert source == SOURCE
    _assert_same(again, features)
    assert again.question_features.mask.dtype == bool


@pytest.mark.parametrize("source", [SOURCE | {"encoder": "new"}, SOURCE | {"size": "2"}, {}])
def test_a_stale_store_is_replaced(folder, source):
    _assert_same(cached_features(folder, source, lambda: _features(1)), _features(1))
    _assert_same(cached_features(folder, source, _refuse), _features(1))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def _without(key):
    def damage(path):
        manifest = json.loads(path.read_text())
        del manifest[key]
        path.write_text(json.dumps(manifest))

    return damage


def _without_one_of(key):
    def damage(path):
        manifest = json.loads(path.read_text())
        manifest[key].pop()
        path.write_text(json.dumps(manifest))

    return damage


DAMAGE = {
    "features cut": ("features.safetensors", _truncate),
    "features changed": ("features.safetensors", _flip_a_bit),
    "features missing": ("features.safetensors", Path.unlink),
    "manifest cut": ("manifest.json", _truncate),
    "manifest no object": ("manifest.json", lambda path: path.write_text("[]")),
    "manifest empty": ("manifest.json", lambda path: path.write_text("")),
    "no hash": ("manifest.json", _without("sha256")),
    "no source": ("manifest.json", _without("source")),
    "no questions": ("manifest.json", _without("questions")),
    "no prompts": ("manifest.json", _without("prompts")),
    "an image too few": ("manifest.json", _without_one_of("image_ids")),
    "a question too few": ("manifest.json", _without_one_of("questions")),
    "a prompt too few": ("manifest.json", _without_one_of("prompts")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_refused_and_left_alone(folder, damage):
    name, apply = DAMAGE[damage]
    apply(folder / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="store is damaged .*: delete it and run again"):
        cached_features(folder, SOURCE, _refuse)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "field, name",
    [("image", "train/2"), ("question", "é"), ("prompt", "it is {}"), ("tokens", "é")],
)
def test_features_that_are_not_finite_are_refused_by_name(tmp_path, bad, field, name):
    features = _features(with_tokens=True)
    values = {
        "image": features.image_features,
        "question": features.question_features.pooled,
        "prompt": features.prompt_features,
        "tokens": features.question_features.tokens,
    }[field]
    values[-1 if field == "prompt" else 1, 2] = bad
    folder = tmp_path / "store"
    with pytest.raises(UserError, match=f"the encoder's output has 1 .*'{name}"):
        cached_features(folder, SOURCE, lambda: features)
    assert not folder.exists()
    write_store(folder, SOURCE, features)
    with pytest.raises(UserError, match=f"store has 1 .*'{name}"):
        read_store(folder)


@pytest.mark.parametrize("call", ["mkdir", "write_bytes", "write_text"])
def test_a_write_that_fails_leaves_the_old_store(folder, call, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, call, full_disk)
    with pytest.raises(UserError, match="cannot write the feature store .*No space left"):
        cached_features(folder, SOURCE | {"encoder": "new"}, lambda: _features(1))
    monkeypatch.undo()
    _assert_same(cached_features(folder, SOURCE, _refuse), _features())
    assert list(folder.parent.iterdir()) == [folder]


def _of_the_former_format(folder):
    """As the store was written before questions and prompts were kept apart."""
    _without("format")(folder / "manifest.json")


def test_a_store_of_the_former_format_is_computed_again_or_refused_in_one_line(folder):
    _of_the_former_format(folder)
    with pytest.raises(UserError, match="has format 1, 2 is expected: make it again") as caught:
        read_store(folder)
    assert "\n" not in str(caught.value)
    _assert_same(cached_features(folder, SOURCE, lambda: _features(1)), _features(1))
    _assert_same(cached_features(folder, SOURCE, _refuse), _features(1))


def test_what_a_killed_run_leaves_is_no_store(folder):
    """A folder without a manifest, or beside the place of the store, counts for nothing."""
    (folder / "manifest.json").unlink()
    _assert_same(cached_features(folder, SOURCE, lambda: _features(1)), _features(1))


def test_features_are_a_frozen_record():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _features().questions = ()
