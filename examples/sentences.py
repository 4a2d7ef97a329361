"""How often the networks of your sentences are right, on scenes that nothing was trained on.

    python examples/sentences.py                   # by the model that comes along
    python examples/sentences.py runs/quickstart   # by one of yours

Beside each accuracy stand the controls that would earn it without understanding: the most common
answer, and with the same answers the network of nonsense words and that of another question.
"""

import argparse

import numpy as np

from hyper_meta import generate, load_model, predict
from hyper_meta.data.digits_vqa.digits_vqa_dataset_builder import NUM_DIGITS_PROBABILITY
from hyper_meta.data.digits_vqa.families import FAMILIES
from hyper_meta.data.digits_vqa.scenes import render, sample_scenes

# (sentence, its family, what it asks about); "never trained on" is a combination that no wording of
# training asks for.
ASKED = [
    ("Colour of the top left digit?", "colour at place", "top left"),
    ("Tell me where the purple digit is", "place of colour", "purple"),
    ("What number is at the top left?", "digit at place", "top left"),
    ("The eight is drawn in what colour?", "colour of digit", "eight"),
    ("Which colour does the seven have?", "colour of digit", "seven"),  # never trained on
    ("In what corner can I see the four?", "place of digit", "four"),  # never trained on
    ("How many red ones are there?", "count of colour", "red"),
]
NONSENSE = "Blib the dwerf of fnoo?"
OTHER = "What colour is the background?"


def accuracy(weights, family, images, labels):
    """The share of images to which a network gives the right one of the family's answers."""
    found = predict(weights, images, answers=family.answers, template=family.template)
    return np.mean(
        [a == family.answers[label] for a, label in zip(found.answer, labels, strict=True)]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", help="work directory, or folder of a saved model")
    parser.add_argument("--scenes", type=int, default=1500)
    options = parser.parse_args()
    model = load_model(options.model)
    scenes = sample_scenes(
        np.random.default_rng(0),
        options.scenes,
        handwriting="test",
        num_digits_probability=NUM_DIGITS_PROBABILITY,
    )
    images = list(render(scenes))
    networks = {text: generate(model, text) for text in (NONSENSE, OTHER)}
    families = {family.name: family for family in FAMILIES}
    print(
        f"by {model.guide.name}, in percent: right, expected; most common answer, nonsense, other"
    )
    for sentence, name, referent in ASKED:
        family = families[name]
        answers = family.answer_fn(scenes, family.referents.index(referent))
        rows = np.flatnonzero(answers >= 0)  # where there is such a digit, and one only
        shown, labels = [images[row] for row in rows], answers[rows]
        own = generate(model, sentence)
        figures = [accuracy(own, family, shown, labels), own.expected_accuracy]
        figures += [np.bincount(labels).max() / len(labels)]
        figures += [accuracy(other, family, shown, labels) for other in networks.values()]
        told = "  ".join(f"{100 * figure:3.0f}" for figure in figures)
        print(f"{sentence:40} {told}   n={len(rows)}", flush=True)


if __name__ == "__main__":
    main()
