"""Tasks from annotations in COCO's format, instances or captions, as a folder of tasks.

    python examples/coco_folder.py annotations/instances_val2017.json val2017 coco
    python examples/coco_folder.py annotations/captions_val2017.json val2017 coco_captions
    hyper-meta check coco

Instances give, for each category, "Is there a dog?", "How many dogs are there?" and "On which side
is the dog?"; captions give "Is there a dog?" for words that often follow "a" or "an". The pictures
stay where they are: the folder has a link to theirs.
"""

import collections
import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FEWEST, MOST = 20, 400  # examples of a task
COUNTS = ("one", "two", "three", "four or more")
SIDES = ("left", "middle", "right")
NOUN = re.compile(r"\ban? ([a-z]+) (?:is|are|in|on|with|of|at|sitting|standing|riding|holding)\b")
WORDS = 80  # of captions that become tasks

# (task, template, concept, {image id: answer})
Drawn = tuple[str, str, str, dict[int, str]]


def presence(name: str, has: set[int], others: set[int], rng: np.random.Generator) -> Drawn:
    """Pictures that have something, and as many that do not."""
    few = min(len(has), len(others), MOST // 2)
    yes, no = (rng.permutation(sorted(part))[:few].tolist() for part in (has, others))
    answers = dict.fromkeys(yes, "yes") | dict.fromkeys(no, "no")
    return f"Is there a {name}?", f"is there a {name}? {{}}", f"presence/{name}", answers


def of_instances(content: dict, rng: np.random.Generator) -> Iterator[Drawn]:
    """Three tasks for each category."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    width = {image["id"]: image["width"] for image in content["images"]}
    boxes: dict[int, dict[int, list]] = collections.defaultdict(dict)
    for item in content["annotations"]:
        if not item.get("iscrowd"):
            boxes[item["category_id"]].setdefault(item["image_id"], []).append(item["bbox"])
    for category, found in sorted(boxes.items()):
        name = names[category]
        yield presence(name, set(found), set(width) - set(found), rng)
        counts = {image: COUNTS[min(len(some), len(COUNTS)) - 1] for image, some in found.items()}
        question, template = f"How many {name}s are there?", f"there are {{}} {name}s"
        yield question, template, f"count/{name}", counts
        sides = {}
        for image, some in found.items():
            if len(some) == 1:
                left, _, wide, _ = some[0]
                place = (left + wide / 2) / width[image]
                sides[image] = SIDES[min(int(place * len(SIDES)), len(SIDES) - 1)]
        question, template = f"On which side is the {name}?", f"the {name} is on the {{}}"
        yield question, template, f"side/{name}", sides


def of_captions(content: dict, rng: np.random.Generator) -> Iterator[Drawn]:
    """One task for each of the most common words."""
    mentions: dict[str, set[int]] = collections.defaultdict(set)
    for item in content["annotations"]:
        for word in NOUN.findall(item["caption"].lower()):
            mentions[word].add(item["image_id"])
    everything = {image["id"] for image in content["images"]}
    common = sorted(mentions, key=lambda word: (-len(mentions[word]), word))[:WORDS]
    for word in common:
        yield presence(word, mentions[word], everything - mentions[word], rng)


def main(annotations: Path, images: Path, folder: Path) -> None:
    content, rng = json.loads(annotations.read_text()), np.random.default_rng(0)
    files = {image["id"]: image["file_name"] for image in content["images"]}
    is_captions = "caption" in content["annotations"][0]
    drawn = (of_captions if is_captions else of_instances)(content, rng)
    folder.mkdir(parents=True)
    (folder / "images").symlink_to(images.absolute())
    with (folder / "tasks.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["task", "image", "answer", "template", "concept"])
        for question, template, concept, answers in drawn:
            if len(answers) < FEWEST or len(set(answers.values())) < 2:
                continue
            for image in rng.permutation(sorted(answers))[:MOST].tolist():
                path = f"images/{files[image]}"
                table.writerow([question, path, answers[image], template, concept])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/coco_folder.py ANNOTATIONS.json IMAGES FOLDER")
    main(*map(Path, sys.argv[1:]))
