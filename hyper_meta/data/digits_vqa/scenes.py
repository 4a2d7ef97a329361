"""Scenes of Digits-VQA: one to four handwritten digits in the corners of a coloured picture.

The handwriting is the 1,797 digits of 8 x 8 pixels bundled with scikit-learn (UCI Optical
Recognition of Handwritten Digits). A scene is a row of small integers; `render` paints it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("top left", "top right", "bottom left", "bottom right")
COLOURS = {
    "red": (225, 40, 40),
    "orange": (245, 135, 25),
    "yellow": (240, 225, 50),
    "green": (50, 180, 60),
    "blue": (60, 110, 245),
    "purple": (150, 60, 200),
    "pink": (250, 150, 195),
    "white": (245, 245, 245),
}
BACKGROUNDS = {
    "black": (8, 8, 8),
    "grey": (88, 88, 88),
    "brown": (82, 50, 22),
    "navy": (16, 22, 74),
    "teal": (8, 74, 74),
}
SIZES = {"small": 12, "large": 20}  # pixels
IMAGE_SIZE = 48
CELL = IMAGE_SIZE // 2
JITTER = 2  # pixels that a digit may lie off the middle of its corner, each way
NUM_DIGITS_PROBABILITY = (0.15, 0.25, 0.3, 0.3)

# The share of the 1,797 handwritten digits in each split. Nothing is trained on other splits than
# "train".
HANDWRITING_SHARE = {"train": 0.7, "validation": 0.1, "test": 0.2}


@dataclasses.dataclass(frozen=True)
class Scenes:
    """n scenes, one column per corner in the order of PLACES.

    digit: -1 where the corner is empty.
    handwriting: rows of the handwriting table.
    colour, size: indices into COLOURS and SIZES.
    offset: pixels from the corner's top left (row, column).
    background: index into BACKGROUNDS.
    noise_seed: int, the seed of the pixel noise.
    """

    digit: Int[np.ndarray, "n 4"]
    handwriting: Int[np.ndarray, "n 4"]
    colour: Int[np.ndarray, "n 4"]
    size: Int[np.ndarray, "n 4"]
    offset: Int[np.ndarray, "n 4 2"]
    background: Int[np.ndarray, " n"]
    noise_seed: int

    def __len__(self) -> int:
        return len(self.digit)


@functools.cache
def handwriting_table() -> tuple[
    Float[np.ndarray, "2 1797 cell cell"],
    Int[np.ndarray, " 1797"],
    dict[str, Int[np.ndarray, " _"]],
]:
    """(masks, labels, split) of the handwritten digits.

    masks: [2, 1797, CELL, CELL] float32 in [0, 1], the ink of each digit in each size, at the top
      left.
    labels: [1797] int64, the digits.
    split: {"train" | "validation" | "test": rows int64}, disjoint.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    masks = np.zeros((len(SIZES), len(digits.images), CELL, CELL), np.float32)
    for size_index, pixels in enumerate(SIZES.values()):
        for row, image in enumerate(digits.images):
            picture = Image.fromarray((image * (255 / 16)).astype(np.uint8))
            scaled = picture.resize((pixels, pixels), Image.Resampling.BICUBIC)
            masks[size_index, row, :pixels, :pixels] = np.asarray(scaled, np.float32) / 255
    return masks, digits.target.astype(np.int64), _split_handwriting(digits.target)


def _split_handwriting(labels: np.ndarray) -> dict[str, np.ndarray]:
    """{split: rows int64}, divided by HANDWRITING_SHARE within each digit."""
    rng = np.random.default_rng(2021)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in HANDWRITING_SHARE}
    for digit in range(len(DIGITS)):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        edges = np.round(np.cumsum([*HANDWRITING_SHARE.values()]) * len(rows)).astype(int)
        for name, part in zip(HANDWRITING_SHARE, np.split(rows, edges[:-1]), strict=True):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(rows)) for name, rows in parts.items()}


def sample_scenes(
    rng: np.random.Generator,
    num_scenes: int,
    *,
    handwriting: str,
    num_digits_probability: Sequence[float] = NUM_DIGITS_PROBABILITY,
) -> Scenes:
    """Random scenes in the handwriting of one split.

    Digits, colours and sizes are independent and may repeat within a scene.

    Args:
      rng: generator of all draws.
      num_scenes: how many scenes.
      handwriting: "train", "validation" or "test".
      num_digits_probability: the probabilities of one, two, three and four digits.
    """
    _, labels, split = handwriting_table()
    shape = (num_scenes, len(PLACES))
    rows = rng.choice(split[handwriting], shape)
    num_digits = rng.choice(len(PLACES), num_scenes, p=num_digits_probability) + 1
    order = np.argsort(rng.random(shape), axis=1)
    present = order < num_digits[:, None]
    size = rng.integers(len(SIZES), size=shape)
    centre = (CELL - np.asarray([*SIZES.values()])[size]) // 2
    jitter = rng.integers(-JITTER, JITTER + 1, size=(*shape, 2))
    return Scenes(
        digit=np.where(present, labels[rows], -1),
        handwriting=rows,
        colour=rng.integers(len(COLOURS), size=shape),
        size=size,
        offset=centre[..., None] + jitter,
        background=rng.integers(len(BACKGROUNDS), size=num_scenes),
        noise_seed=int(rng.integers(2**31)),
    )


def render(scenes: Scenes) -> UInt8[np.ndarray, "n size size 3"]:
    """The pictures of scenes, [n, IMAGE_SIZE, IMAGE_SIZE, 3] uint8.

    The brightness of ink and background varies by about 10%, and every pixel has a little noise.
    """
    rng = np.random.default_rng(scenes.noise_seed)
    num = len(scenes)
    grounds = np.asarray([*BACKGROUNDS.values()], np.float32)[scenes.background]
    inks = np.asarray([*COLOURS.values()], np.float32)[scenes.colour]
    grounds = grounds * rng.uniform(0.85, 1.15, (num, 1)).astype(np.float32)
    inks = inks * rng.uniform(0.85, 1.05, (num, len(PLACES), 1)).astype(np.float32)
    canvas = np.empty((num, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    for place in range(len(PLACES)):
        mask = _shifted_masks(scenes, place)[..., None]
        row, column = CELL * (place // 2), CELL * (place % 2)
        contrast = (inks[:, place] - grounds)[:, None, None]
        canvas[:, row : row + CELL, column : column + CELL] = (
            grounds[:, None, None] + contrast * mask
        )
    noise = 4 * rng.standard_normal(canvas.shape[:3], np.float32)[..., None]
    return np.clip(canvas + noise, 0, 255, out=canvas).astype(np.uint8)


def _shifted_masks(scenes: Scenes, place: int) -> np.ndarray:
    """The ink in one corner of every scene, at its offset, [n, CELL, CELL] float32."""
    masks, _, _ = handwriting_table()
    offset = scenes.offset[:, place]
    pixels = np.arange(CELL)
    rows = (pixels[None] - offset[:, :1]) % CELL
    columns = (pixels[None] - offset[:, 1:]) % CELL
    index = (scenes.size[:, place, None, None], scenes.handwriting[:, place, None, None])
    ink = masks[(*index, rows[:, :, None], columns[:, None, :])]
    return ink * (scenes.digit[:, place] >= 0)[:, None, None]


def take_scenes(scenes: Scenes, rows: Int[np.ndarray, " m"]) -> Scenes:
    """The scenes of the given rows. Their pictures have other pixel noise."""
    fields = {f.name: getattr(scenes, f.name) for f in dataclasses.fields(scenes)}
    seed = fields.pop("noise_seed")
    return Scenes(**{name: value[rows] for name, value in fields.items()}, noise_seed=seed)
