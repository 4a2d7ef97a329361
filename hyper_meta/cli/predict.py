"""`hyper-meta predict`."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

from hyper_meta.cli.parser import Command, Work, refuse_others

HELP = """\
examples:
  hyper-meta predict --weights colour.safetensors --answers red,green,blue scene1.png scene2.png

  all pictures of a folder, as a table for other programs:
  hyper-meta predict --weights colour.safetensors --answers red,green,blue \\
      --template "the colour is {}" --csv photos/ > answers.csv

in Python:
  from hyper_meta import load_weights, predict
  predict(load_weights("colour.safetensors"), ["scene1.png"], answers=["red", "green", "blue"])

Probabilities say which answer is likelier; they are not calibrated. "Agree" counts the generated
samples that give the same answer.
"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.core import arguments as check
    from hyper_meta.core.files import check_exists

    refuse_others(arguments, others)
    answers = [answer.strip() for answer in arguments.answers.split(",")]
    check.check_answers(answers)
    if arguments.template is not None:
        check.check_template(arguments.template)
    check_exists(Path(arguments.weights), "weights file")
    images = [path for given in arguments.images for path in _images_of(given)]
    return lambda: _predict(arguments, images, answers)


def _images_of(given: str) -> list[str]:
    """The image files of a folder, by their names; or the path itself."""
    if not Path(given).is_dir():
        return [given]
    from PIL import Image

    from hyper_meta.core.errors import UserError

    known = Image.registered_extensions()
    found = sorted(path for path in Path(given).iterdir() if path.suffix.lower() in known)
    if not found:
        raise UserError(
            f"the folder {given} holds no images, such as .png or .jpg: name the one they are in"
        )
    return [str(path) for path in found]


def _predict(arguments: argparse.Namespace, images: list[str], answers: list[str]) -> None:
    from hyper_meta.core.compilation import keep_quick_programs
    from hyper_meta.generation.predict import IMAGE_BATCH, predict
    from hyper_meta.generation.weights_file import load_weights

    keep_quick_programs()
    weights = load_weights(arguments.weights)
    found = predict(
        weights,
        images,
        answers=answers,
        template=arguments.template,
        progress=len(images) > IMAGE_BATCH,
    )
    records = [
        {
            "image": image,
            "answer": answer,
            "agreement": float(share),
            "probabilities": dict(zip(answers, map(float, row), strict=True)),
        }
        for image, answer, share, row in zip(
            images, found.answer, found.agreement, found.probabilities, strict=True
        )
    ]
    if arguments.json:
        rest = {"template": found.template, "warnings": list(weights.warnings)}
        print(json.dumps({"images": records, **rest}, ensure_ascii=False, indent=1))
    elif arguments.csv:
        _print_csv(records, answers)
    else:
        _print_table(records, len(weights.samples))
        print(f'answers were read as "{found.template}" (--template changes it)')
        if weights.warnings:
            print(f"warning: {'; '.join(weights.warnings)}")


def _print_csv(records: list[dict], answers: list[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "answer", "agreement", *answers])
    for record in records:
        first = [record[name] for name in ("image", "answer", "agreement")]
        writer.writerow([*first, *record["probabilities"].values()])


def _print_table(records: list[dict], num_samples: int) -> None:
    rows = [("image", "answer", "probability", "")]
    for record in records:
        agreeing = f"{round(record['agreement'] * num_samples)} of {num_samples} samples agree"
        probability = f"{record['probabilities'][record['answer']]:.2f}"
        told = agreeing if num_samples > 1 else ""
        rows.append((record["image"], record["answer"], probability, told))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, metavar="FILE", help="of hyper-meta generate")
    parser.add_argument(
        "--answers", required=True, metavar="A,B,...", help="candidates, separated by commas"
    )
    parser.add_argument(
        "--template", metavar="SENTENCE", help="left out, the one that knows the answers"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, with all probabilities")
    form.add_argument("--csv", action="store_true", help="print CSV, a column for each answer")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a PNG or JPEG of any size, or a folder of them"
    )


COMMAND = Command(
    "predict", "answer a question about images with generated weights", HELP, _add_options, _check
)
