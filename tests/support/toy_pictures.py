"""A folder of tasks of one's own, from nothing: coloured blocks, and questions on them."""

import csv
import json

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
PLACES = ("left", "right")
WORDINGS = (
    *("What is the colour of number {}?", "Number {} has which colour?", "Colour of number {}?"),
    *("On which side is number {}?", "Where is number {}?", "Side of number {}?"),
)
SIZE = 24


def draw(place, colour):
    """[SIZE, SIZE, 3] uint8: a block of a colour at a place, on grey."""
    picture = np.full((SIZE, SIZE, 3), 200, np.uint8)
    first = 2 if place == "left" else SIZE // 2 + 2
    picture[6:18, first : first + 8] = COLOURS[colour]
    return Image.fromarray(picture)


def write_pictures(folder, *, num_images=600, num_things=10, examples=20, seed=0):
    """Writes pictures, and returns the rows of the table: num_things * 6 tasks."""
    rng = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    facts = []
    for number in range(num_images):
        place, colour = PLACES[rng.integers(2)], list(COLOURS)[rng.integers(3)]
        draw(place, colour).save(folder / f"pictures/{number:03d}.png")
        facts.append((f"pictures/{number:03d}.png", colour, place))
    rows = []
    for thing in range(num_things):
        for wording in WORDINGS:
            for choice in rng.choice(num_images, examples, replace=False):
                image, colour, place = facts[choice]
                answer = colour if "colour" in wording.lower() else place
                rows.append({"task": wording.format(thing), "image": image, "answer": answer})
    return rows


def write_csv(folder, rows):
    with (folder / "tasks.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


def write_jsonl(folder, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "tasks.jsonl").write_text(text, encoding="utf-8")


def write_parquet(folder, rows):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "tasks.parquet")
