"""The road of one's own tasks, from an empty folder to a model that another process loads; the
networks that are generated are a flax module's, no adapters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_pictures import write_csv, write_pictures

from hyper_meta.cli.main import main
from hyper_meta.data.features import read_store
from hyper_meta.preparation import encoding

CONFIG = Path(__file__).parents[2] / "configs" / "own_tasks.py"
SMALL = (
    *("encoder=bundled", "methods=references,conditional_tokens"),
    *("network.name=two_layers", "network.hidden_dim=4"),
    *("conditional_tokens.num_steps=4", "conditional_tokens.chunk_steps=2"),
    *("conditional_tokens.hidden_dims=8", "conditional_tokens.latent_dim=4"),
    *("reader.width=16", "reader.num_blocks=1", "reader.num_heads=2", "evaluate.shots="),
    *("evaluate.num_resamples=100", "batching.num_layouts=1", "batching.num_shapes=1"),
    *("evaluate.few_shot_guides=conditional_tokens", "evaluate.few_shot_steps=0,1"),
    *("evaluate.control_guides=conditional_tokens", "evaluate.shot_steps=0,1"),
)
ASKED = "Which colour is number 3?"
LOADED = """
import json, sys
from hyper_meta import generate, load_model, predict
weights = generate(load_model(sys.argv[1]), sys.argv[2])
found = predict(weights, sys.argv[3:], answers=["red", "green", "blue"])
print(json.dumps([list(found.answer), found.probabilities.tolist()]))
"""


def run_command(folder, workdir, programs, *others):
    settings = (*SMALL, f"data_dir={folder}", f"compilation_cache={programs}")
    overrides = [f"--config.{setting}" for setting in settings]
    return ["run", "--config", str(CONFIG), "--workdir", str(workdir), *overrides, *others]


@pytest.fixture(scope="module")
def walked(tmp_path_factory, programs):
    """(the folder, the work directory) after check and run."""
    base = tmp_path_factory.mktemp("road")
    folder = base / "own"
    folder.mkdir()
    write_csv(folder, write_pictures(folder))
    assert main(["check", str(folder)]) == 0
    assert main(run_command(folder, base / "run", programs)) == 0
    return folder, base / "run"


def test_a_run_ends_in_a_table_and_pictures(walked):
    folder, workdir = walked
    results = json.loads((workdir / "results.json").read_text())
    assert {"majority", "clip", "conditional_tokens"} <= {row["id"] for row in results["rows"]}
    assert (workdir / "report" / "examples.png").exists()
    data = json.loads((workdir / "data.json").read_text())
    assert len(data["dataset"]) == 64


def test_what_it_learnt_answers_in_another_process(walked, tmp_path, capsys):
    folder, workdir = walked
    images = [str(folder / f"pictures/{number:03d}.png") for number in range(4)]
    weights = tmp_path / "colour.safetensors"
    model = tmp_path / "model"
    asked = ["--task", ASKED, "--out", str(weights)]
    assert main(["generate", "--workdir", str(workdir), *asked]) == 0
    capsys.readouterr()
    answers = ["--answers", "red,green,blue", "--json", *images]
    assert main(["predict", "--weights", str(weights), *answers]) == 0
    told = json.loads(capsys.readouterr().out)["images"]
    out = tmp_path / "arrays"
    assert main(["export", "--weights", str(weights), "--to", "npz", "--out", str(out)]) == 0
    assert "two_layers" in (out / "network.py").read_text()
    assert main(["export-model", "--workdir", str(workdir), "--out", str(model)]) == 0
    command = [sys.executable, "-c", LOADED, str(model), ASKED, *images]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer, probabilities = json.loads(done.stdout)
    assert answer == [record["answer"] for record in told]
    for row, record in zip(probabilities, told, strict=True):
        assert row == pytest.approx(list(record["probabilities"].values()), abs=1e-6)


def encoded(monkeypatch):
    """The paths of images that are encoded from now on."""
    seen = []
    decode = encoding.decode
    monkeypatch.setattr(encoding, "decode", lambda name, b: seen.append(name) or decode(name, b))
    return seen


def store_of(folder):
    return read_store(next(folder.glob("features/own_tasks-????????????")))[1]


def test_only_new_pictures_are_encoded(tmp_path, monkeypatch, programs):
    folder = tmp_path / "own"
    folder.mkdir()
    rows = write_pictures(folder, num_images=40, num_things=3)

    def prepare():
        command = ["prepare", "--config", str(CONFIG), "--data-dir", str(folder)]
        given = (*SMALL, f"compilation_cache={programs}")
        assert main([*command, *(f"--config.{setting}" for setting in given)]) == 0

    write_csv(folder, rows)
    seen = encoded(monkeypatch)
    prepare()
    assert sorted(seen) == sorted({row["image"] for row in rows})
    first = store_of(folder)
    seen.clear()
    # One renamed, one changed, one new; and another question.
    new = folder / "pictures/new.png"
    new.write_bytes((folder / "pictures/000.png").read_bytes() + b"-")
    (folder / "pictures/001.png").rename(folder / "pictures/one.png")
    changed = folder / "pictures/002.png"
    changed.write_bytes(changed.read_bytes() + b"-")
    for row in rows:
        row["image"] = row["image"].replace("pictures/001.png", "pictures/one.png")
    task = [row for row in rows if row["task"] == rows[0]["task"]]
    more = [{**row, "task": "Another?"} for row in task]
    more[0]["image"] = "pictures/new.png"
    write_csv(folder, [*rows, *more])
    prepare()
    assert sorted(seen) == ["pictures/002.png", "pictures/new.png"]
    again = store_of(folder)
    before = dict(zip(first.image_ids, first.image_features, strict=True))
    now = dict(zip(again.image_ids, again.image_features, strict=True))
    assert (now["pictures/one.png"] == before["pictures/001.png"]).all()
    assert (now["pictures/005.png"] == before["pictures/005.png"]).all()
    assert now["pictures/new.png"] == pytest.approx(now["pictures/000.png"], abs=1e-5)
    assert "Another?" in again.questions and len(now) == len(set(now))
    seen.clear()
    prepare()
    assert not seen
