"""Networks for numpy, PyTorch and ONNX give the logits that they give here."""

import functools
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from hyper_meta.cli.main import main
from hyper_meta.generation.export import FORMS, FORMULAS, export_weights
from hyper_meta.generation.predict import _logits
from hyper_meta.generation.weights_file import Weights, save_weights
from hyper_meta.networks.registry import make_network
from hyper_meta.preparation.prepare import EncoderChoice

WIDTH, IMAGES, ANSWERS, SAMPLES = 24, 7, 5, 3
SETTINGS = {
    "adapter": {"hidden_dim": 6},
    "low_rank": {"rank": 4},
    "two_layers": {"hidden_dim": 6},
}


def weights_of(name, *, votes, blend=0.7):
    network = make_network(name, WIDTH, SETTINGS[name] | {"blend": blend})
    samples = np.random.default_rng(0).normal(size=(SAMPLES, network.num_weights))
    return Weights(
        weights=samples.mean(axis=0).astype(np.float32),
        samples=samples.astype(np.float32),
        network=network,
        task='Which "colour" \\ is it?',
        templates={"it is {}": ["red"]},
        encoder=EncoderChoice("bundled", "crop", "float32"),
        encoder_fingerprint="0" * 64,
        method="toy",
        guidance_scale=None,
        seed=0,
        votes=votes,
    )


@functools.cache
def inputs():
    """Features of images and of answers."""
    rng = np.random.default_rng(1)
    shapes = ((IMAGES, WIDTH), (ANSWERS, WIDTH))
    return [3 * rng.normal(size=shape).astype(np.float32) for shape in shapes]


@functools.cache
def expected(name, votes):
    """As `predict` has them."""
    weights, features = weights_of(name, votes=votes), inputs()
    rows = weights.samples if weights.votes else weights.weights[None]
    logits = np.asarray(_logits(weights.network, rows, *features), np.float64)
    if not weights.votes:
        return logits[0]
    logits -= logits.max(axis=-1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).mean(axis=0)


def logits_of(form, folder, features):
    if form == "onnx":
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(folder / "network.onnx")
        return session.run(["logits"], dict(zip(("features", "answers"), features, strict=True)))[0]
    spec = importlib.util.spec_from_file_location("exported", folder / "network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if form == "torch":
        torch = pytest.importorskip("torch")
        return module.logits(*map(torch.from_numpy, features)).numpy()
    return module.logits(*features)


@pytest.mark.parametrize("votes", [False, True], ids=["one", "votes"])
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_logits(form, name, votes, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnx")
    weights = weights_of(name, votes=votes)
    export_weights(weights, form, tmp_path / "out")
    found = logits_of(form, tmp_path / "out", inputs())
    wanted = expected(name, votes)
    assert found.shape == (IMAGES, ANSWERS)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_formulas_are_of_networks_that_there_are():
    from hyper_meta.networks.registry import NETWORKS

    assert set(FORMULAS) <= set(NETWORKS)


def test_numpy_alone_is_needed(tmp_path):
    save_weights(tmp_path / "w.safetensors", weights_of("adapter", votes=True))
    command = ["export", "--weights", str(tmp_path / "w.safetensors"), "--to", "npz"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"network.npz", "network.py"}
    code = (
        "import sys, numpy as np; import network; "
        f"print(network.logits(np.ones((2, {WIDTH})), np.ones((3, {WIDTH}))).shape); "
        "assert not {'jax', 'hyper_meta', 'torch'} & set(sys.modules)"
    )
    isolated = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'); {code}"]
    done = subprocess.run(isolated, cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.stdout == "(2, 3)\n", done.stderr


def test_what_cannot_be_exported(tmp_path, capsys):
    save_weights(tmp_path / "w.safetensors", weights_of("adapter", votes=False))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    command = ["export", "--weights", str(tmp_path / "w.safetensors"), "--to", "npz", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 2
    assert "exists: remove it or choose another folder" in capsys.readouterr().err
    assert main([*command[:2], str(tmp_path / "none"), *command[3:], str(tmp_path / "new")]) == 2
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "new").exists()
    with pytest.raises(SystemExit):
        main([*command[:4], "tflite", "--out", str(tmp_path / "new")])
