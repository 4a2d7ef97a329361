"""Digits-VQA read by its English alone: what a question asks, and its answer in a scene.

An oracle for labels and captions, which shares no code with the data set: it knows words, not
families, and looks at one scene at a time.
"""

import re

import numpy as np
from sklearn.datasets import load_digits

DIGITS = "zero one two three four five six seven eight nine".split()
COUNTS = DIGITS[:5]
COLOURS = "red orange yellow green blue purple pink white".split()
PLACES = ["top left", "top right", "bottom left", "bottom right"]
SIZES = ["small", "large"]
BACKGROUNDS = "black grey brown navy teal".split()
HANDWRITING_LABELS = load_digits().target


def read_scene(scenes, row):
    """({"digit", "colour", "size", "place", "parity"} of each digit, the background), in words."""
    digits = []
    for corner, place in enumerate(PLACES):
        if scenes.digit[row, corner] < 0:
            continue
        label = int(HANDWRITING_LABELS[scenes.handwriting[row, corner]])
        digits.append(
            {
                "digit": DIGITS[label],
                "colour": COLOURS[scenes.colour[row, corner]],
                "size": SIZES[scenes.size[row, corner]],
                "place": place,
                "parity": "odd" if label in (1, 3, 5, 7, 9) else "even",
            }
        )
    return digits, BACKGROUNDS[int(scenes.background[row])]


def _mentioned(sentence):
    """(kind, name) of what a sentence is about, or None where it is about the whole scene."""
    for kind, names in (("place", PLACES), ("digit", DIGITS), ("colour", COLOURS)):
        for name in names:
            if re.search(rf"\b{name}\b", sentence):
                return kind, name
    return None


def concept_of(question):
    """(what is asked, (kind, name) it is asked about), from the words of a question."""
    if "background" in question or "behind" in question:
        return "background", None
    if re.search(r"how many|count", question, re.IGNORECASE):
        size = re.search(r"small|large", question)
        return "count", ("size", size[0]) if size else _mentioned(question)
    about = _mentioned(question)
    if re.search(r"\b(odd|even)\b", question):
        return "parity", about
    if re.search(r"small|large|size", question):
        return "size", about
    if re.match(r"Is |Does |Tell me if ", question) or "yes or no" in question:
        return "presence", about
    if about[0] == "digit":
        return "colour" if "colour" in question else "place", about
    if about[0] == "colour":
        return "place" if re.search("where|corner|place", question.lower()) else "digit", about
    return "colour" if "colour" in question else "digit", about


def answer_to(concept, scene):
    """The one right answer in a scene, or None where there is none."""
    asked, about = concept
    digits, background = scene
    if asked == "background":
        return background
    matching = [digit for digit in digits if about is None or digit[about[0]] == about[1]]
    if asked == "count":
        return COUNTS[len(matching)]
    if asked == "presence":
        return "yes" if matching else "no"
    return matching[0][asked] if len(matching) == 1 else None


def colour_distance(pixel, names, palette, brightness):
    """How far a pixel is from each colour at the nearest brightness: {name: distance}."""
    distance = {}
    for name in names:
        shades = np.outer(np.linspace(*brightness, 9), palette[name])
        distance[name] = np.sqrt(((shades - pixel) ** 2).sum(axis=1)).min()
    return distance
