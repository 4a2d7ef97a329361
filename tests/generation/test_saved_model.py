"""Models that are handed on: saved, loaded elsewhere, and from the Hub."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from toy_hub import NOBODY, Hub, use_hub
from toy_run import make_images, make_run
from toy_sentence_encoder import write_sentence_encoder

from hyper_meta.cli.main import main
from hyper_meta.core.types import UserError
from hyper_meta.data.digits_vqa.scenes import COLOURS, render, sample_scenes
from hyper_meta.generation import card, saved_model
from hyper_meta.generation.generate import generate
from hyper_meta.generation.model import load_model
from hyper_meta.generation.predict import predict
from hyper_meta.generation.weights_file import load_weights

TASK = "Which colour does the seven have?"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def saved(workdir, tmp_path_factory):
    """A model in a folder, whose run and encoder are gone."""
    parent = tmp_path_factory.mktemp("saved")
    shutil.copytree(workdir.parent, parent / "there")
    there = parent / "there" / workdir.name
    config = json.loads((there / "config.json").read_text())
    config["encoder"] = config["encoder"].replace(str(workdir.parent), str(there.parent))
    (there / "config.json").write_text(json.dumps(config))
    (Path(config["encoder"]) / "pytorch_model.bin").write_bytes(b"a pickle")  # of no use
    load_model(there).save_pretrained(parent / "model")
    shutil.rmtree(parent / "there")
    return parent / "model"


def test_what_is_saved_answers_alike_in_another_process(workdir, saved, tmp_path):
    script = (
        "import sys; from hyper_meta import generate, load_model, save_weights\n"
        "save_weights(sys.argv[2], generate(load_model(sys.argv[1]), sys.argv[3]))"
    )
    out = tmp_path / "w.safetensors"
    subprocess.run([sys.executable, "-c", script, saved, out, TASK], check=True)
    ours, theirs = generate(load_model(workdir), TASK), load_weights(out)
    np.testing.assert_array_equal(theirs.samples, ours.samples)
    assert theirs.expected_accuracy == ours.expected_accuracy
    assert theirs.encoder.name == str(saved / "encoder")
    images = make_images(tmp_path, 3)
    found = [predict(weights, images, answers=["red", "green"]) for weights in (ours, theirs)]
    np.testing.assert_array_equal(found[0].probabilities, found[1].probabilities)


def test_it_holds_safetensors_json_and_a_card_alone(saved, workdir):
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".md", ".txt"}
    text = "".join(path.read_text() for path in saved.glob("*.*"))
    # Where it was is nobody else's business.
    assert str(workdir.parent) not in text and str(saved.parent) not in text
    card = (saved / "README.md").read_text()
    assert "Image encoder in `encoder/`, whose own licence holds" in card
    model = load_model(saved)
    assert f"`{model.guide.name}`" in card and model.encoder.fingerprint[:12] in card
    assert f"{model.guide.network.num_weights:,} weights" in card
    assert f"right in {model.trust.mean:.0%}" in card


def test_the_card_has_the_table_of_the_run(finished_quickstart, tmp_path):
    model = load_model(finished_quickstart)
    model.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    results = json.loads((finished_quickstart / "results.json").read_text())
    for row in results["rows"]:
        mean = results["summaries"]["test"][row["id"]]["all"]["all"]["mean"]
        assert f"| {row['title']} | {mean:.1f} [" in card
        if row["id"] == model.guide.name:
            assert f"with 95% intervals: {mean:.1f} [" in card and f"row *{row['title']}*" in card
    # Saved from there again, it is the same.
    load_model(tmp_path / "model").save_pretrained(tmp_path / "again")
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(files) == 6
    for path in files:
        again = tmp_path / "again" / path.relative_to(tmp_path / "model")
        assert again.read_bytes() == path.read_bytes()


def test_every_guide_of_a_run_is_saved(finished_quickstart, tmp_path):
    known = json.loads((finished_quickstart / "seed_0" / "guides.json").read_text())["accuracy"]
    assert len(known) >= 5
    for method in known:
        model = load_model(finished_quickstart, method)
        model.save_pretrained(tmp_path / method)
        again = generate(load_model(tmp_path / method), TASK)
        np.testing.assert_array_equal(again.samples, generate(model, TASK).samples)


def test_a_sentence_encoder_comes_along(tmp_path):
    encoder = write_sentence_encoder(tmp_path / "sentences")
    workdir = make_run(tmp_path / "run", encoder)
    expected = generate(load_model(workdir), TASK)
    load_model(workdir).save_pretrained(tmp_path / "model")
    shutil.rmtree(encoder)
    found = generate(load_model(tmp_path / "model"), TASK)
    np.testing.assert_array_equal(found.samples, expected.samples)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_nothing_is_replaced(workdir, tmp_path, what):
    place = tmp_path / "there"
    if what == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "mine").touch()
    with pytest.raises(UserError, match="there exists: remove it or choose another folder"):
        load_model(workdir).save_pretrained(place)
    assert main(["export-model", "--workdir", str(workdir), "--out", str(place)]) == 2


@pytest.mark.parametrize(
    "name",
    ["guides.json", *(f"guides/hnet_hyperldm/{name}" for name in ("notes.json", "checksums.json"))]
    + ["guides/hnet_hyperldm/arrays.safetensors", "guides"],
)
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_model_is_told_of(saved, name, damage, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_text("{}")
    with pytest.raises(UserError, match="get this model again from where it was exported"):
        load_model(folder)


def test_an_encoder_is_looked_for_in_the_model(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "encoder")
    with pytest.raises(UserError, match=f"encoder folder {tmp_path}/model/encoder does not exist"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "report"])
def test_a_saved_model_is_no_work_directory(saved, command, capsys):
    before = {path: path.stat().st_mtime_ns for path in saved.rglob("*")}
    arguments = ["--method", "hnet_hyperldm"] if command == "train" else []
    assert main([command, "--workdir", str(saved), *arguments]) == 2
    assert "holds a model that was exported, no run" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in saved.rglob("*")} == before


def test_a_name_that_the_hub_cannot_have_is_told_before_anything_is_written(
    workdir, tmp_path, capsys
):
    out = tmp_path / "model"
    asked = ["--workdir", str(workdir), "--out", str(out), "--push-to-hub", "me"]
    assert main(["export-model", *asked]) == 2
    assert "'me' given, a name such as you/" in capsys.readouterr().err and not out.exists()


def test_an_encoder_of_the_hub_is_named_with_its_revision(workdir, tmp_path, monkeypatch):
    model = load_model(workdir)
    commit = tmp_path / ("a" * 40)
    monkeypatch.setattr(saved_model.hub, "fetch", lambda name, kind: commit)
    monkeypatch.setattr(card, "licence_of", lambda name: "mit")
    config = dataclasses.replace(model.config, encoder="some/clip")
    dataclasses.replace(model, config=config).save_pretrained(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "config.json").read_text())
    assert stored["encoder"] == f"some/clip@{'a' * 40}"
    assert not (tmp_path / "model" / "encoder").exists()
    assert f"`some/clip@{'a' * 40}`, licence mit" in (tmp_path / "model" / "README.md").read_text()


@pytest.fixture
def served(saved):
    """A Hub that has the model."""
    files = {
        path.relative_to(saved).as_posix(): path.read_bytes()
        for path in saved.rglob("*")
        if path.is_file()
    }
    return Hub({"main": files | {"pytorch_model.bin": b"a pickle"}})


def test_a_model_is_loaded_from_the_hub(served, workdir, tmp_path, monkeypatch):
    expected = generate(load_model(workdir), TASK)
    for url, name in ((served.url, "some/clip"), (NOBODY, "hf://some/clip")):
        use_hub(monkeypatch, url, tmp_path)
        found = generate(load_model(name), TASK)
        np.testing.assert_array_equal(found.samples, expected.samples)
    assert not any("pytorch_model.bin" in path for path in served.requests)
    (path,) = tmp_path.rglob("snapshots/*/guides/*/arrays.safetensors")
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=f"is damaged, .*: delete {blob}"):
        load_model("some/clip")


def test_what_is_no_model_of_the_hub_is_refused(saved, tmp_path, monkeypatch):
    hub = Hub({"main": {"config.json": (saved / "config.json").read_bytes()}})
    use_hub(monkeypatch, hub.url, tmp_path)
    with pytest.raises(UserError, match="some/clip holds no model of hyper-meta"):
        load_model("some/clip")
    use_hub(monkeypatch, NOBODY, tmp_path / "empty")
    with pytest.raises(UserError, match="there is no folder runs/quikstart, and cannot get"):
        load_model("runs/quikstart")


def test_it_is_pushed_as_it_is_saved(workdir, saved, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo, *, private, exist_ok):
            calls.append((repo, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path):
            names = {path.relative_to(folder_path) for path in folder_path.rglob("*")}
            assert names == {path.relative_to(saved) for path in saved.rglob("*")}
            calls.append(repo_id)

    monkeypatch.setattr(saved_model, "HfApi", Api)
    model = load_model(workdir)
    model.push_to_hub("me/model", private=True)
    assert calls == [("me/model", True, True), "me/model"]
    with pytest.raises(UserError, match="'model' given, a name such as you/"):
        model.push_to_hub("model")


def _share_right(weights, *, seed):
    """On 300 scenes in unseen handwriting: of those with a digit at the top left, its colour."""
    scenes = sample_scenes(np.random.default_rng(seed), 300, handwriting="test")
    rows = np.flatnonzero(scenes.digit[:, 0] >= 0)
    images = render(scenes)
    answers = predict(weights, [images[row] for row in rows], answers=list(COLOURS)).answer
    right = np.array(list(COLOURS))[scenes.colour[rows, 0]]
    return np.mean(np.array(answers) == right)


def test_the_model_that_comes_along_understands_its_first_example():
    folder = saved_model.bundled_model_path()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= 12e6
    model = load_model()
    assert _share_right(generate(model, "Colour of the top left digit?"), seed=5) > 0.9
    assert _share_right(generate(model, "Blib the dwerf of fnoo?"), seed=5) < 0.6


def test_without_a_run_the_command_takes_it(tmp_path, capsys):
    out = tmp_path / "colour.safetensors"
    asked = ["--task", "Colour of the top left digit?", "--out", str(out)]
    assert main(["generate", *asked]) == 0
    weights = load_weights(out)
    expected = generate(load_model(), "Colour of the top left digit?")
    np.testing.assert_array_equal(weights.samples, expected.samples)
    assert weights.encoder.name == "bundled"
    # Short, for whoever looks at them at a prompt.
    assert repr(load_model()).startswith("Model('distilled', of digits_vqa, from '")
    assert "16,576 weights of 'adapter', 1 samples by 'distilled'" in repr(weights)
    # Nonsense is told from sentences by its words alone.
    nonsense = generate(load_model(), "Blorp zzz qux")
    assert nonsense.expected_accuracy <= nonsense.baseline_accuracy
    assert any("may not have been understood" in warning for warning in nonsense.warnings)


def test_the_commands(workdir, tmp_path, capsys):
    out, one, two = (str(tmp_path / name) for name in ("model", "1.safetensors", "2.safetensors"))
    assert main(["export-model", "--workdir", str(workdir), "--out", out]) == 0
    assert f"wrote {out}: hnet_hyperldm, with its card in README.md" in capsys.readouterr().out
    assert main(["generate", "--model", out, "--task", TASK, "--out", one]) == 0
    assert main(["generate", "--workdir", str(workdir), "--task", TASK, "--out", two]) == 0
    for name, array in load_file(one).items():
        np.testing.assert_array_equal(array, load_file(two)[name])
