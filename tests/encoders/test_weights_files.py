"""The weights of an encoder's folder: whole or in parts, of every dtype."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from toy_encoder_files import sharded
from toy_sentence_encoder import write_sentence_encoder

from hyper_meta.core.types import UserError
from hyper_meta.encoders.weights_files import INDEX_FILE, WHOLE_FILE, read_weights, weights_names


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_encoder(tmp_path_factory.mktemp("encoder") / "toy")


def read(files):
    return read_weights(files, files.__getitem__)


def of_dtype(name, *, size):
    """A safetensors file of one tensor of four numbers, of any dtype of the format."""
    entry = {"dtype": name, "shape": [4], "data_offsets": [0, 4 * size // 8]}
    header = json.dumps({"layer.weight": entry}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes(4 * size // 8)


def test_parts_are_read_like_the_whole(folder):
    whole, parts = load_file(folder / WHOLE_FILE), sharded(folder, parts=3)
    found = read(parts)
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(found[name], tensor)
    assert weights_names(parts, parts.__getitem__)[0] == INDEX_FILE
    # As in transformers, the whole is taken where both are there.
    both = parts | {WHOLE_FILE: (folder / WHOLE_FILE).read_bytes()}
    assert weights_names(both, both.__getitem__) == [WHOLE_FILE]


def test_transformers_parts_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=40, intermediate_size=24, **sizes))
    model.to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="8KB")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert WHOLE_FILE not in files and len(weights_names(files, files.__getitem__)) > 2
    found = read(files)
    assert found.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert found[name].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_dtypes_of_parameters(dtype, tmp_path):
    values = np.linspace(-2, 2, 6).astype(dtype).reshape(2, 3)
    save_file({"a": values}, tmp_path / WHOLE_FILE)
    found = read({WHOLE_FILE: (tmp_path / WHOLE_FILE).read_bytes()})["a"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


SIZES = {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F4": 4, "C64": 64}


@pytest.mark.parametrize("dtype", SIZES)
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(UserError, match=f"has layer.weight as {dtype}: save it as float32, "):
        read({WHOLE_FILE: of_dtype(dtype, size=SIZES[dtype])})


def change_index(change):
    def changed(files):
        index = json.loads(files[INDEX_FILE])
        files[INDEX_FILE] = json.dumps(change(index)).encode()

    return changed


def renamed(index):
    index["weight_map"][next(iter(index["weight_map"]))] = "../model-00001-of-00002.safetensors"
    return index


def moved(index):
    names = sorted(index["weight_map"])
    index["weight_map"][names[0]] = index["weight_map"][names[1]]
    return index


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda files: files.clear(), "model.safetensors is missing$"),
        (lambda files: files.pop("model-00002-of-00002.safetensors"), "-00002-of-.* is missing"),
        (
            lambda files: files.update({"model-00001-of-00002.safetensors": b"12345678"}),
            "model-00001-of-00002.safetensors is damaged or truncated",
        ),
        (lambda files: files.update({INDEX_FILE: b"\xff{"}), "index.json cannot be read as one"),
        (lambda files: files.update({INDEX_FILE: b"[1]"}), "index.json cannot be read as one"),
        (change_index(lambda index: {"weight_map": {}}), "names no file, files such as"),
        (change_index(lambda index: {"weight_map": 3}), "index.json cannot be read as one"),
        (change_index(renamed), "names ../model-00001-of-00002.safetensors, files such as"),
        (change_index(moved), "has no embeddings.*, which .* says it holds"),
    ],
)
def test_what_is_missing_or_damaged_is_named(folder, damage, told):
    files = sharded(folder)
    damage(files)
    with pytest.raises(UserError, match=told):
        read(files)
