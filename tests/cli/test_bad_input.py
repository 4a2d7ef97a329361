"""What a user may get wrong: each is one line, before anything is computed or overwritten."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from adapters import make_adapter, num_weights
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from toy_run import EMBED_DIM, HIDDEN_DIM, SIZE, make_encoder, make_images, make_run

from hyper_meta.cli.main import main
from hyper_meta.core.arguments import check_answers, check_num_samples, check_task
from hyper_meta.core.configuration import stored_settings
from hyper_meta.core.locks import held
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.data.features import Features, cached_features, write_store
from hyper_meta.generation import generate as generating
from hyper_meta.generation import predict as predicting
from hyper_meta.generation.predict import predict
from hyper_meta.generation.weights_file import Weights, load_weights, save_weights
from hyper_meta.inspect.opened import open_run
from hyper_meta.methods import hyperclip, hyperldm
from hyper_meta.preparation.prepare import EncoderChoice, open_encoder
from hyper_meta.workflows import run as pipeline

CONFIGS = Path(__file__).parents[2] / "configs"
QUICKSTART = str(CONFIGS / "quickstart.py")
BENCHMARK = str(CONFIGS / "benchmark.py")
TASK = "Which colour does the seven have?"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of a finished run, its encoder beside it. Tests that damage it copy it."""
    return make_run(tmp_path_factory.mktemp("bad_input"))


@pytest.fixture
def workdir(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def choice(folder):
    return EncoderChoice(str(folder), "crop", "float32")


@pytest.fixture(scope="module")
def weights(finished):
    encoder = finished.parent / "encoder"
    rng = np.random.default_rng(0)
    return Weights(
        weights=rng.normal(size=SIZE).astype(np.float32),
        samples=rng.normal(size=(3, SIZE)).astype(np.float32),
        task=TASK,
        templates={"the seven is {}": ["red"]},
        encoder=choice(encoder),
        encoder_fingerprint=open_encoder(choice(encoder)).fingerprint,
        network=make_adapter(EMBED_DIM, HIDDEN_DIM),
        method="hnet_hyperldm",
        guidance_scale=1.5,
        seed=0,
    )


@pytest.fixture
def file(weights, tmp_path):
    save_weights(tmp_path / "seven.safetensors", weights)
    return tmp_path / "seven.safetensors"


@pytest.fixture
def image(tmp_path):
    return make_images(tmp_path, 1)[0]


@pytest.fixture
def no_compute(monkeypatch):
    """Fails a test that starts to compute."""

    def refuse(*args, **kwargs):
        raise AssertionError("computed something")

    monkeypatch.setattr(generating, "_read", refuse)
    for module, name in ((hyperldm, "sample_tasks"), (hyperclip, "guide_tasks")):
        monkeypatch.setattr(module, name, refuse)
    for name in ("_embed_answers", "_encode"):
        monkeypatch.setattr(predicting, name, refuse)
    monkeypatch.setattr(pipeline, "load_data", refuse)


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(tmp_path, capsys, no_compute):
    """Runs a command that must be refused; returns the line that it prints."""

    def run(*argv: object) -> str:
        before = files_below(tmp_path)
        assert main([str(argument) for argument in argv]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("hyper-meta: ") and err.count("\n") == 1
        assert err.endswith("\n") and len(err) < 600
        assert files_below(tmp_path) == before
        return err

    return run


def generate_command(workdir: Path, out: Path, *options: str, task: str = TASK) -> list:
    return ["generate", "--workdir", workdir, "--task", task, "--out", out, *options]


def predict_command(file: Path, *images: Path, answers: str = "red,green") -> list:
    return ["predict", "--weights", file, "--answers", answers, *images]


# Configurations and work directories.


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.hyperldm.gidance_scale=2", "did you mean --config.hyperldm.guidance_scale?"),
        ("--config.hnet.num_steps=many", "a whole number such as"),
        ("--config.seed=-1", "seed=-1 is too small"),
    ],
)
def test_configuration(override, message, refused, tmp_path):
    line = refused("run", "--config", QUICKSTART, "--workdir", tmp_path / "w", override)
    assert message in line and not (tmp_path / "w").exists()


def test_missing_config_file(refused, tmp_path):
    line = refused("run", "--config", tmp_path / "quikstart.py", "--workdir", tmp_path / "w")
    assert "quikstart.py does not exist" in line


def test_neither_config_nor_run(refused, tmp_path):
    assert "--config" in refused("run", "--workdir", tmp_path / "w")


@pytest.mark.parametrize("content", ["{", "[1, 2]"])
def test_damaged_stored_config(content, refused, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert "config.json is damaged" in refused("run", "--workdir", tmp_path)


def test_workdir_of_another_config(refused, tmp_path):
    pipeline.claim(pipeline_config(), tmp_path / "w")
    trained = tmp_path / "w/seed_0/conditional/00000055"
    trained.mkdir(parents=True)
    (trained / "notes.json").write_text("{}")
    line = refused(
        "run", "--config", QUICKSTART, "--workdir", tmp_path / "w", "--config.latents.repeats=9"
    )
    assert "latents.repeats=4, this command has latents.repeats=9" in line
    line = refused("run", "--workdir", tmp_path / "w", "--config.latents.repeats=9")
    assert "choose another --workdir" in line


def test_a_workdir_where_nothing_was_trained_takes_the_corrected_command(tmp_path):
    first, second = pipeline_config(), pipeline_config()
    second = dataclasses.replace(second, encoder="another")
    pipeline.claim(first, tmp_path / "w")
    read = tmp_path / "w/seed_0/reads/conditional.json"
    read.parent.mkdir(parents=True)
    read.write_text("{}")
    pipeline.claim(second, tmp_path / "w")
    assert stored_settings(tmp_path / "w").encoder == "another" and not read.exists()


def test_a_mistyped_encoder_leaves_no_workdir(capsys, tmp_path):
    command = ("run", "--config", QUICKSTART, "--workdir", tmp_path / "w")
    assert main([*map(str, command), f"--config.encoder={tmp_path}/none"]) == 2
    assert "none does not exist" in capsys.readouterr().err
    assert not (tmp_path / "w/config.json").exists()


def test_a_workdir_that_another_process_has(tmp_path, capsys):
    command = ["run", "--config", QUICKSTART, "--workdir", str(tmp_path / "w")]
    with held(tmp_path / "w"):
        assert main(command) == 2
    told = capsys.readouterr().err
    assert f"is in use by process {os.getpid()} of " in told and told.count("\n") == 1
    with held(tmp_path / "w"):
        pass


def pipeline_config():
    from hyper_meta.core.configuration import load_settings

    return load_settings(QUICKSTART, Path("w"), [])


def test_workdir_that_holds_something_else(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    line = refused("run", "--config", QUICKSTART, "--workdir", tmp_path)
    assert "is not empty and holds no run" in line


def test_work_directory_of_the_former_version(refused, workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    del config["format"], config["network"], config["question_tokens"]
    (workdir / "config.json").write_text(json.dumps(config | {"adapter": {"hidden_dim": 64}}))
    (workdir / "results.json").write_text("{}")
    for command in (
        ["run", "--workdir", workdir],
        ["run", "--workdir", workdir, "--config", QUICKSTART],
        ["report", "--workdir", workdir],
        generate_command(workdir, tmp_path / "o"),
        ["compare", workdir, workdir],
    ):
        line = refused(*command)
        assert f"{workdir} holds a run of another version of hyper-meta (config.json has no" in line
    with pytest.raises(UserError, match="holds a run of another version"):
        open_run(workdir)


def test_config_of_an_encoder_given_to_run(refused, tmp_path):
    line = refused("run", "--config", CONFIGS / "encoder.py", "--workdir", tmp_path / "w")
    assert "this configuration names no methods" in line


# Models.


def test_no_model_yet(refused, workdir, tmp_path):
    (workdir / "seed_3" / "guides.json").unlink()
    line = refused(*generate_command(workdir, tmp_path / "o"))
    assert "holds no finished model: run hyper-meta evaluate" in line
    seed, again = workdir / "seed_3", f"run hyper-meta evaluate --workdir {workdir}"
    (seed / "guides.json").write_text('{"best": "ridge", "accuracy": {"ridge": 1}}')
    (seed / "guides" / "ridge" / "notes.json").unlink()
    line = refused(*generate_command(workdir, tmp_path / "o"))
    assert f"guides/ridge is damaged, it has no notes.json: remove it, and {again}" in line
    shutil.rmtree(seed / "guides")
    line = refused(*generate_command(workdir, tmp_path / "o"))
    assert f"guides/ridge is missing: {again}" in line
    (seed / "guides.json").unlink()
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"methods": ["references"]}))
    line = refused(*generate_command(workdir, tmp_path / "o"))
    assert "of its methods (references) none generates networks from a sentence" in line
    assert "holds no run" in refused(*generate_command(tmp_path / "none", tmp_path / "o"))


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_damaged_model(damage, refused, workdir, tmp_path):
    victim = largest_file(workdir / "seed_3" / "guides" / "hnet_hyperldm")
    content = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        half = len(content) // 2
        changed = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        victim.write_bytes(content[:half] if damage == "cut" else changed)
    assert "guides/hnet_hyperldm is damaged" in refused(*generate_command(workdir, tmp_path / "o"))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_damaged_notes_of_a_model(content, refused, workdir, tmp_path):
    notes = workdir / "seed_3" / "guides" / "hnet_hyperldm" / "notes.json"
    notes.unlink()
    if content is not None:
        notes.write_text(content)
    assert "notes.json" in refused(*generate_command(workdir, tmp_path / "o"))


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ("images", None, "its notes.json says no images"),
        ("images", "many", "its notes.json has 'many' images"),
        ("trust", None, "of another version of hyper-meta ('trust')"),
        ("trust", {"names": ["nearness"]}, "its signs are ['nearness'], "),
        ("trust", [], "does not say what it should"),
    ],
)
def test_notes_of_another_version(what, value, message, refused, workdir, tmp_path):
    """Whole, but not as this version writes them."""
    folder = workdir / "seed_3" / "guides" / "hnet_hyperldm"
    notes = json.loads((folder / "notes.json").read_text())
    notes |= {what: value}
    if value is None:
        del notes[what]
    (folder / "notes.json").write_text(json.dumps(notes))
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums["notes.json"] = zlib.crc32((folder / "notes.json").read_bytes())
    (folder / "checksums.json").write_text(json.dumps(checksums))
    line = refused(*generate_command(workdir, tmp_path / "o"))
    assert message in line and "run hyper-meta evaluate" in line


def test_model_of_another_config(refused, workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    config["network"]["hidden_dim"] = HIDDEN_DIM + 1
    (workdir / "config.json").write_text(json.dumps(config))
    assert "guides/hnet_hyperldm holds another model" in refused(
        *generate_command(workdir, tmp_path / "o")
    )


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("other") / "encoder", seed=1)


def test_model_of_another_encoder(refused, workdir, other_encoder, tmp_path):
    config = json.loads((workdir / "config.json").read_text()) | {"encoder": str(other_encoder)}
    (workdir / "config.json").write_text(json.dumps(config))
    line = refused(*generate_command(workdir, tmp_path / "o"))
    assert "made with another encoder" in line and str(other_encoder) in line
    config["encoder"] = str(tmp_path / "nowhere")
    (workdir / "config.json").write_text(json.dumps(config))
    assert "nowhere does not exist" in refused(*generate_command(workdir, tmp_path / "o"))


# Arguments of generate.


@pytest.mark.parametrize("task", ["", " \t\n "])
def test_empty_task(task, refused, workdir, tmp_path):
    assert "the task sentence is" in refused(*generate_command(workdir, tmp_path / "o", task=task))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples", "0"), "0 samples asked for"),
        (("--samples", "-3"), "-3 samples asked for"),
        (("--seed", "-1"), "seed -1 given"),
        (("--seed", "4294967296"), "from 0 to 4294967295"),
        (("--guidance-scale", "nan"), "guidance scale nan given"),
        (("--guidance-scale", "inf"), "guidance scale inf given"),
        (("--template", "the colour is"), "with {} in the answer's place"),
        (("--template", ""), "with {} in the answer's place"),
    ],
)
def test_options_of_generate(options, message, refused, workdir, tmp_path):
    (tmp_path / "old").write_bytes(b"precious")
    assert message in refused(*generate_command(workdir, tmp_path / "old", *options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "no task sentence given"),
        (b"\n \n", "no task sentence given"),
        (b"\xff\xfe", "is no text in UTF-8"),
        (b"Which?\nwhere?\n which? \n", "the task 'which?' is given twice"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
    ],
    ids=str,
)
def test_a_file_of_tasks(content, message, refused, workdir, tmp_path):
    path = tmp_path / "tasks.txt"
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    command = ["generate", "--workdir", workdir, "--tasks", path, "--out", tmp_path / "o"]
    assert message in refused(*command)


def test_where_several_networks_go(refused, workdir, tmp_path):
    command = ["generate", "--workdir", workdir, "--task", "Which?", "--task", "Where?", "--out"]
    (tmp_path / "file").write_bytes(b"precious")
    assert "is a file, the networks of several tasks go into a folder" in refused(
        *command, tmp_path / "file"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "2_where.safetensors").write_bytes(b"precious")
    assert "2_where.safetensors" in refused(*command, tmp_path / "out")


def test_a_scale_at_which_weights_overflow(workdir, tmp_path, capsys, monkeypatch):
    latents = np.full((1, 2, 6), np.inf, np.float32)
    monkeypatch.setattr(hyperldm, "sample_tasks", lambda *args, **kwargs: latents)
    command = generate_command(workdir, tmp_path / "o", "--guidance-scale", "1e30")
    assert main([str(argument) for argument in command]) == 2
    assert "guidance scale 1e+30 makes weights overflow" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (check_num_samples, 2.0),
        (check_num_samples, True),
        (check_task, None),
        (check_answers, "red,green"),
        (check_answers, ["red", 3]),
    ],
)
def test_wrong_types_from_python(check, value):
    with pytest.raises(UserError):
        check(value)


# Arguments of predict.


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("red", "1 answer given, two or more are expected"),
        ("", "1 answer given"),
        ("red,green,red", "'red' is given twice"),
        ("red,green, Red ", "'red' is given twice"),
        ("red,,green", "answer 2 of 3 is empty"),
    ],
)
def test_answers(answers, message, refused, file, image):
    assert message in refused(*predict_command(file, image, answers=answers))


def test_template_of_predict(refused, file, image):
    line = refused(*predict_command(file, image), "--template", "the colour")
    assert "with {} in the answer's place" in line


def test_answers_beyond_what_the_encoder_reads(weights, image):
    template = "very " * 20 + "{}"
    with pytest.raises(UserError, match="cannot tell 'red' from 'green'.* first 32 tokens"):
        predict(weights, [image], answers=["red", "green"], template=template)


def damaged_image(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    if kind == "text":
        path.write_text("no picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut":
        Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "cut_jpeg":
        path = path.with_suffix(".jpg")
        Image.fromarray(
            np.random.default_rng(0).integers(256, size=(50, 50, 3), dtype=np.uint8)
        ).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    return path


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder", "cut", "cut_jpeg"])
def test_unreadable_image(kind, refused, file, image, tmp_path):
    bad = damaged_image(tmp_path, kind)
    line = refused(*predict_command(file, image, bad))
    expected = "holds no images" if kind == "folder" else "cannot read image"
    assert expected in line and str(bad) in line


def test_images_that_are_no_list(weights):
    for images in ("scene.png", [], Path("scene.png")):
        with pytest.raises(UserError, match="a list of one or more"):
            predict(weights, images, answers=["red", "green"])


# Weights files.


def test_no_weights_file(refused, image, tmp_path):
    assert "does not exist" in refused(*predict_command(tmp_path / "none", image))
    assert "is a folder, a file is expected" in refused(*predict_command(tmp_path, image))


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_cut_weights_file(length, refused, file, image):
    file.write_bytes(file.read_bytes()[:length])
    assert "is damaged or no weights file" in refused(*predict_command(file, image))


def test_file_of_something_else(refused, file, image):
    shutil.copy(image, file)
    assert "is damaged or no weights file" in refused(*predict_command(file, image))


def test_safetensors_of_something_else(refused, file, image):
    save_file({"weights": np.zeros(3, np.float32)}, file)
    assert "it has no 'format'" in refused(*predict_command(file, image))


def network_named(name, **settings):
    """The metadata of another network."""
    return {"network": json.dumps({"name": name, "embed_dim": EMBED_DIM, "settings": settings})}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "2"}, "it has format 2, 4 to 7 is expected"),
        ({"encoder": '["bundled"]'}, "name, resizing and dtype are expected"),
        ({"encoder": '["bundled", "crop", 32]'}, "name, resizing and dtype are expected"),
        ({"encoder": "bundled"}, "is no weights file of this hyper-meta"),
        ({"format": "4", "embed_dim": "many"}, "'many'"),
        ({"format": "4", "blend": "some"}, "'some'"),
        ({"format": "4", "blend": "nan"}, "its blend is nan, a finite number is expected"),
        (
            {"format": "4", "hidden_dim": str(HIDDEN_DIM + 1)},
            "does not fit the adapter that it names",
        ),
        ({"format": "4", "hidden_dim": "0"}, "its hidden_dim is 0, a number above 0 is expected"),
        ({"network": "no JSON"}, "Expecting value"),
        ({"network": "[]"}, "is no weights file of this hyper-meta"),
        ({"network": '{"name": "adapter", "embed_dim": 12}'}, "it has no 'settings'"),
        (network_named("a stranger"), "network 'a stranger' given, one of ['adapter'"),
        (network_named("adapter", blend=1.0), "has no setting 'hidden_dim'"),
        (network_named("adapter", hidden_dim=4, blend=[1.0]), "its blend is [1.0], a finite num"),
        (network_named("adapter", hidden_dim=[4], blend=1.0), "its hidden_dim is [4], a number"),
        (network_named("adapter", hidden_dim=4, blend=1.0, x={}), "its x is {}, a number, a text"),
        (network_named("adapter", hidden_dim="5", blend=1.0), "its hidden_dim is '5'"),
        (network_named("adapter", hidden_dim=10**12, blend=1.0), "does not fit the adapter"),
        ({"guidance_scale": "NaN"}, "its guidance_scale is NaN, a finite number or null"),
        ({"guidance_scale": "true"}, "its guidance_scale is true, a finite number or null"),
        ({"expected_accuracy": "NaN"}, "its expected_accuracy is NaN, a finite number or null"),
        ({"baseline_accuracy": '"half"'}, 'its baseline_accuracy is "half", a finite number'),
        ({"warnings": "[1]"}, "its warnings are [1], a list of strings is expected"),
        ({"warnings": '"all"'}, 'its warnings are "all", a list of strings is expected'),
        ({"templates": "no JSON"}, "Expecting value"),
        ({"templates": "{}"}, "an object with one or more is expected"),
        ({"templates": '{"no place": []}'}, "with {} in the answer's place"),
        ({"templates": '{"it is {}": [1]}'}, "no list of strings"),
    ],
)
def test_changed_metadata(changes, message, refused, weights, file, image):
    fields = dict(safe_open(file, framework="numpy").metadata())
    # Those of format 4 that format 5 keeps with the network.
    fields |= {"embed_dim": str(EMBED_DIM), "hidden_dim": str(HIDDEN_DIM), "blend": "1.0"}
    save_file(load_file(file), file, metadata={**fields, **changes})
    assert message in refused(*predict_command(file, image))


@pytest.mark.parametrize("name", ["weights", "samples"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(name, value, refused, weights, file, image):
    array = getattr(weights, name).copy()
    array[..., 3] = value
    save_weights(file, dataclasses.replace(weights, **{name: array}))
    assert f"NaN or infinity in its {name}" in refused(*predict_command(file, image))


@pytest.mark.parametrize(
    "samples", [np.zeros((0, SIZE), np.float32), np.zeros((2, SIZE)), np.zeros(SIZE, np.float32)]
)
def test_samples_of_another_shape(samples, refused, weights, file, image):
    metadata = safe_open(file, framework="numpy").metadata()
    save_file({"weights": weights.weights, "samples": samples}, file, metadata=metadata)
    assert "does not fit the adapter" in refused(*predict_command(file, image))


def test_weights_of_another_embedding(refused, weights, file, image):
    size = num_weights(EMBED_DIM + 1, HIDDEN_DIM)
    arrays = {
        "weights": np.zeros(size, np.float32),
        "samples": np.zeros((2, size), np.float32),
    }
    network = make_adapter(EMBED_DIM + 1, HIDDEN_DIM)
    save_weights(file, dataclasses.replace(weights, network=network, **arrays))
    assert "a network of 13 features" in refused(*predict_command(file, image))


def test_weights_of_another_encoder(refused, weights, other_encoder, file, image):
    save_weights(file, dataclasses.replace(weights, encoder=choice(other_encoder)))
    assert "made with another encoder" in refused(*predict_command(file, image))
    save_weights(file, dataclasses.replace(weights, encoder=choice("/nowhere")))
    assert "/nowhere does not exist" in refused(*predict_command(file, image))


# The feature store.


def test_nan_features(tmp_path):
    values = np.ones((3, 4), np.float32)
    values[1, 2] = np.nan
    known = np.ones((1, 4), np.float32)
    sentence = SentenceFeatures(known)
    features = Features(("a", "b", "c"), values, ("q",), sentence, ("p",), known)

    def compute():
        return features

    with pytest.raises(UserError, match="the encoder's output has 1 feature .* of 'b'"):
        cached_features(tmp_path / "store", {}, compute)
    assert not list(tmp_path.iterdir())
    write_store(tmp_path / "store", {}, features)
    before = files_below(tmp_path)
    with pytest.raises(UserError, match="NaN or infinity, the first of 'b'") as caught:
        cached_features(tmp_path / "store", {}, compute)
    assert "\n" not in str(caught.value) and files_below(tmp_path) == before


# Disks.


def test_a_file_where_a_folder_is_expected(refused, workdir, tmp_path):
    (tmp_path / "file").write_text("precious")
    out = tmp_path / "file" / "seven.safetensors"
    assert f"cannot write {out}: " in refused(*generate_command(workdir, out))
    line = refused("run", "--config", QUICKSTART, "--workdir", tmp_path / "file")
    assert f"{tmp_path}/file" in line
    line = refused("run", "--config", QUICKSTART, "--workdir", tmp_path / "file" / "below")
    assert "cannot write" in line


def _pipe(path):
    os.mkfifo(path)


def _loop(path):
    path.symlink_to(path.name)


def _text(path):
    path.write_text("precious")


def _config(path):
    path.write_text('{"format": 3}')


def _linked(path):
    (path.parent / "thesis.tex").write_text("precious")
    path.symlink_to("thesis.tex")


def _of_others(path):
    save_file({"weights": np.zeros(3, np.float32)}, path, metadata={"format": "pt"})


def _cut_short(path):
    path.write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")


NOT_OURS = (_pipe, _loop, _text, _config, _linked, _of_others, _cut_short)


@pytest.mark.parametrize("make", NOT_OURS)
def test_what_is_no_weights_file_is_not_replaced(make, refused, workdir, tmp_path):
    make(tmp_path / "out")
    before = (tmp_path / "out").lstat()
    line = refused(*generate_command(workdir, tmp_path / "out"))
    assert "out" in line and (tmp_path / "out").lstat().st_ino == before.st_ino


@pytest.mark.parametrize("make", NOT_OURS)
def test_what_holds_no_figures_is_not_replaced(make, refused, tmp_path):
    make(tmp_path / "out")
    command = ("benchmark", "--config", BENCHMARK, "--out", tmp_path / "out")
    assert "out" in refused(*command)


def test_an_image_that_is_a_pipe_or_without_end(refused, file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    with open(folder / "sparse.png", "wb") as sparse:
        sparse.truncate(1 << 40)
    for name, told in (("pipe", "a device, a pipe"), ("zero", "a device"), ("sparse", "bytes, at")):
        line = refused(*predict_command(file, folder / f"{name}.png"))
        assert f"{name}.png" in line and told in line


def test_one_array_is_no_list_of_images(weights):
    with pytest.raises(UserError, match=r"one array \(4, 4, 3\): a list of arrays"):
        predict(weights, np.zeros((4, 4, 3), np.uint8), answers=["a", "b"])


def test_a_folder_where_a_file_is_expected(refused, workdir, tmp_path):
    (tmp_path / "folder").mkdir()
    line = refused(*generate_command(workdir, tmp_path / "folder"))
    assert "folder: it is a folder" in line


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system of one page in memory, where that is allowed."""
    points = []

    def make(options: str) -> Path:
        point = tmp_path / f"mount{len(points)}"
        point.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size=4k,{options}", "tmpfs", str(point)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no permission to mount")
        points.append(point)
        return point

    yield make
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


def test_a_read_only_disk(mount, refused, workdir):
    disk = mount("ro")
    assert "Read-only file system" in refused(*generate_command(workdir, disk / "o"))
    line = refused("run", "--config", QUICKSTART, "--workdir", disk / "w")
    assert "Read-only file system" in line


def test_a_full_disk(mount, refused, weights, tmp_path):
    disk = mount("rw")
    save_weights(tmp_path / "w", weights)
    old = (tmp_path / "w").read_bytes()
    assert len(old) <= 4096
    (disk / "old.safetensors").write_bytes(old)
    with pytest.raises(UserError, match="cannot write .*: No space left on device"):
        save_weights(disk / "old.safetensors", weights)
    assert (disk / "old.safetensors").read_bytes() == old
    assert len(list(disk.iterdir())) == 1
    line = refused("run", "--config", QUICKSTART, "--workdir", disk / "w")
    assert "No space left on device" in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_the_disk_refuses_while_writing(number, weights, file, tmp_path, monkeypatch):
    def refuse(self, content):
        raise OSError(number, "refused", str(self))

    before = files_below(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=f"cannot write {file}: refused"):
        save_weights(file, dataclasses.replace(weights, seed=1))
    assert files_below(tmp_path) == before
    assert load_weights(file).seed == 0
