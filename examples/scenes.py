"""Four scenes in handwriting that nothing was trained on, to ask for the colour of the top left
digit; answers.png shows them large, with the right answers.

    python examples/scenes.py runs/quickstart/scenes
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from hyper_meta.data.digits_vqa.scenes import COLOURS, render, sample_scenes, take_scenes

NUM_SCENES = 4


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    scenes = sample_scenes(np.random.default_rng(0), 100, handwriting="test")
    there = np.flatnonzero(scenes.digit[:, 0] >= 0)
    _, first = np.unique(scenes.colour[there, 0], return_index=True)  # all of another colour
    chosen = take_scenes(scenes, there[np.sort(first)[:NUM_SCENES]])
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    for number, image in enumerate(render(chosen)):
        name, answer = f"scene{number + 1}.png", list(COLOURS)[chosen.colour[number, 0]]
        Image.fromarray(image).save(folder / name)
        axes = figure.add_subplot(1, NUM_SCENES, number + 1)
        axes.set_title(f"{name}\ntop left: {answer}", pad=8)
        axes.imshow(image)
        axes.set_axis_off()
        print(f"{folder / name}: the top left digit is {answer}")
    figure.savefig(folder / "answers.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
