"""Weights files of every network, and of the format before networks had names."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from hyper_meta.core.types import UserError
from hyper_meta.generation.weights_file import Weights, load_weights, save_weights
from hyper_meta.networks import registry
from hyper_meta.networks.low_rank import low_rank
from hyper_meta.networks.registry import NETWORKS, make_network
from hyper_meta.preparation.prepare import EncoderChoice

SETTINGS = {"hidden_dim": 4, "rank": 2, "blend": 0.7}


def make_weights(name, scale=1.5):
    network, rng = make_network(name, 6, SETTINGS), np.random.default_rng(0)
    weights, samples = (
        rng.normal(size=(*lead, network.num_weights)).astype(np.float32) for lead in ((), (3,))
    )
    return Weights(
        weights=weights,
        samples=samples,
        network=network,
        task="Which colour does the seven have?",
        templates={"the seven is {}": ["red", "blue"]},
        encoder=EncoderChoice("bundled", "crop", "float32"),
        encoder_fingerprint="0" * 64,
        method="hnet_hyperldm",
        guidance_scale=scale,
        seed=7,
        votes=scale is None,
        expected_accuracy=0.71,
        accuracy_deviation=0.1,
        baseline_accuracy=None if scale is None else 0.5,
        warnings=() if scale is None else ("the word 'dog' is in none", "near"),
    )


@pytest.mark.parametrize("scale", [1.5, None])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_is_saved_is_loaded(name, scale, tmp_path):
    weights = make_weights(name, scale)
    save_weights(tmp_path / "w.safetensors", weights)
    loaded = load_weights(tmp_path / "w.safetensors")
    for field in dataclasses.fields(weights):
        np.testing.assert_equal(getattr(loaded, field.name), getattr(weights, field.name))
    features = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.network.adapt(loaded.weights, features),
        weights.network.adapt(weights.weights, features),
    )


def test_the_file_names_its_network_and_holds_no_code(tmp_path):
    save_weights(tmp_path / "w.safetensors", make_weights("low_rank"))
    with safe_open(tmp_path / "w.safetensors", framework="numpy") as file:
        described = json.loads(file.metadata()["network"])
    assert described == {
        "name": "low_rank",
        "embed_dim": 6,
        "settings": {"rank": 2, "blend": 0.7},
    }


@pytest.mark.parametrize("version", ["5", "6"])
def test_files_of_formats_5_and_6_still_load(version, tmp_path):
    """As former versions wrote them: 5 knew no networks that vote, 6 no expected accuracy."""
    path = tmp_path / "old.safetensors"
    weights = make_weights("low_rank", None)
    save_weights(path, weights)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() | {"format": version}
        arrays = {name: file.get_tensor(name) for name in ("weights", "samples")}
    for name in ("expected_accuracy", "accuracy_deviation", "baseline_accuracy", "warnings"):
        del metadata[name]
    if version == "5":
        del metadata["votes"]
    save_file(arrays, path, metadata=metadata)
    loaded = load_weights(path)
    assert loaded.votes == (version == "6")
    assert loaded.expected_accuracy is None and loaded.warnings == ()
    for name in ("weights", "samples", "task", "method", "guidance_scale", "seed"):
        np.testing.assert_equal(getattr(loaded, name), getattr(weights, name))


def test_files_of_format_4_still_load(tmp_path):
    """As the former version wrote them: adapters, with their sizes in fields of their own."""
    weights = make_weights("adapter")
    metadata = {
        "format": "4",
        "task": weights.task,
        "templates": json.dumps(weights.templates),
        "encoder": json.dumps(weights.encoder),
        "encoder_fingerprint": weights.encoder_fingerprint,
        "embed_dim": "6",
        "hidden_dim": "4",
        "blend": "0.7",
        "guidance_scale": "1.5",
        "seed": "7",
    }
    arrays = {"weights": weights.weights, "samples": weights.samples}
    save_file(arrays, tmp_path / "old.safetensors", metadata=metadata)
    loaded = load_weights(tmp_path / "old.safetensors")
    assert loaded.network == weights.network and loaded.method == ""
    for name in ("weights", "samples", "task", "templates", "encoder", "guidance_scale", "seed"):
        np.testing.assert_equal(getattr(loaded, name), getattr(weights, name))


def _with_metadata(path, weights, **changes):
    """The file of these weights, with other metadata; a value of None is left out."""
    save_weights(path, weights)
    with safe_open(path, framework="numpy") as file:
        metadata = {**file.metadata(), **changes}
    arrays = {"weights": weights.weights, "samples": weights.samples}
    save_file(arrays, path, metadata={k: v for k, v in metadata.items() if v is not None})


def test_a_file_says_whether_its_networks_vote_and_one_of_format_5_does_not(tmp_path):
    path, weights = tmp_path / "w.safetensors", make_weights("adapter")
    save_weights(path, dataclasses.replace(weights, votes=True))
    assert load_weights(path).votes is True
    _with_metadata(path, weights, format="5", votes=None)
    assert load_weights(path).votes is False
    _with_metadata(path, weights, votes='"yes"')
    with pytest.raises(UserError, match="its votes is"):
        load_weights(path)


def test_settings_of_a_registered_network_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "NETWORKS", dict(NETWORKS))
    own = {"widths": (4, 3), "gate": False, "act": "gelu", "floor": 0.0, "shift": -1, "blend": 0.7}

    def mine(embed_dim, *, widths, gate, act, floor, shift, blend):
        return low_rank(embed_dim, rank=widths[0], blend=blend)

    registry.register("mine", mine)
    network = make_network("mine", 6, own)
    given = make_weights("low_rank")
    rows = np.zeros((4, network.num_weights), np.float32)
    weights = dataclasses.replace(given, network=network, weights=rows[0], samples=rows[1:])
    save_weights(tmp_path / "w.safetensors", weights)
    loaded = load_weights(tmp_path / "w.safetensors").network
    assert loaded == network and loaded.name == "mine"
    assert loaded.settings == {**own, "rank": 4}


def test_a_weights_file_is_replaced_and_through_a_link_too(tmp_path):
    """From Python nothing else is replaced either."""
    weights = make_weights("adapter")
    save_weights(tmp_path / "a", weights)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a").chmod(0o644)
    save_weights(tmp_path / "link", dataclasses.replace(weights, task="Another?"))
    assert (tmp_path / "link").is_symlink() and load_weights(tmp_path / "a").task == "Another?"
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(UserError, match="is not a weights file of hyper-meta: remove it"):
        save_weights(tmp_path / "notes", weights)
    assert (tmp_path / "notes").read_text() == "precious"


def test_equal_weights_are_equal_bytes_that_safetensors_reads(tmp_path):
    """Its own `save` orders the metadata anew each time."""
    weights = dataclasses.replace(make_weights("low_rank"), task="Wie heißt „das“ \\ 图?")
    for name in "abcd":
        save_weights(tmp_path / name, weights)
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata()["task"] == weights.task
        np.testing.assert_array_equal(file.get_tensor("samples"), weights.samples)
