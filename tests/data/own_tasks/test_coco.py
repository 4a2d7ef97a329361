"""The example that makes tasks of annotations in COCO's format."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyper_meta.core.settings.run import OwnTasksSettings
from hyper_meta.data.own_tasks.folder import read_folder

ROOT = Path(__file__).parents[3]
SETTINGS = OwnTasksSettings(
    test_share=0.3, query_share=0.3, template="it is {}", seed=0, shuffle=True
)
NUM_IMAGES, WIDTH = 120, 90
NAMES = {1: "dog", 7: "cup"}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A folder with val/ and the two files; and the boxes {(image, category): boxes}."""
    folder, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    (folder / "val").mkdir()
    images, boxes, items, captions = [], {}, [], []
    for number in range(NUM_IMAGES):
        name = f"{number:012d}.jpg"
        Image.new("RGB", (WIDTH, 30)).save(folder / "val" / name)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": 30})
        for category in NAMES:
            for _ in range(rng.choice([0, 1, 1, 2, 5])):
                box = [float(rng.uniform(0, WIDTH - 10)), 2.0, 10.0, 10.0]
                boxes.setdefault((number, category), []).append(box)
                item = {"image_id": number, "category_id": category, "bbox": box, "iscrowd": 0}
                items.append(item)
        items.append({"image_id": number, "category_id": 1, "bbox": [0, 0, 90, 30], "iscrowd": 1})
        thing = ("dog", "cup", "kite", "bear")[number % 4]
        captions.append({"image_id": number, "caption": f"A {thing} is near something."})
    categories = [{"id": number, "name": name} for number, name in NAMES.items()]
    instances = {"images": images, "annotations": items, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return folder, boxes


def tasks_of(coco, kind, out):
    command = [sys.executable, "examples/coco_folder.py", coco / f"{kind}.json", coco / "val", out]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
    found = read_folder(out, SETTINGS, validation_share=0.4)
    assert not found.mistakes
    tasks = {task.sentence: task for part in found.tasks.values() for task in part}
    return {
        name: {
            int(Path(image).stem): task.answers[answer]
            for image, answer in (*task.support, *task.query)
        }
        for name, task in tasks.items()
    }


def test_instances(coco, tmp_path):
    folder, boxes = coco
    answers = tasks_of(folder, "instances", tmp_path / "out")
    questions = ("Is there a {}?", "How many {}s are there?", "On which side is the {}?")
    expected = {question.format(name) for question in questions for name in NAMES.values()}
    assert set(answers) == expected
    for category, name in NAMES.items():
        has = {image: found for (image, other), found in boxes.items() if other == category}
        for image, answer in answers[f"Is there a {name}?"].items():
            assert (answer == "yes") == (image in has)
        for image, answer in answers[f"How many {name}s are there?"].items():
            assert answer == ("one", "two", "three", "four or more")[min(len(has[image]), 4) - 1]
        for image, answer in answers[f"On which side is the {name}?"].items():
            ((left, _, _, _),) = has[image]
            assert answer == ("left", "middle", "right")[int(3 * (left + 5) / WIDTH)]
    present = list(answers["Is there a dog?"].values())
    assert present.count("yes") == present.count("no")


def test_captions(coco, tmp_path):
    answers = tasks_of(coco[0], "captions", tmp_path / "out")
    assert set(answers) == {f"Is there a {name}?" for name in ("dog", "cup", "kite", "bear")}
    for place, name in enumerate(("dog", "cup", "kite", "bear")):
        for image, answer in answers[f"Is there a {name}?"].items():
            assert (answer == "yes") == (image % 4 == place)
