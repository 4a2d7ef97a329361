"""`hyper-meta predict`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import Command, Work, refuse_others

HELP = """\
examples:
  hyper-meta predict --weights colour.safetensors --answers red,green,blue scene1.png scene2.png

  hyper-meta predict --weights colour.safetensors --answers red,green,blue \\
      --template "the colour is {}" photos/*.jpg

in Python:
  from hyper_meta import load_weights, predict
  predict(load_weights("colour.safetensors"), ["scene1.png"], answers=["red", "green", "blue"])
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
    return lambda: _predict(arguments, answers)


def _predict(arguments: argparse.Namespace, answers: list[str]) -> None:
    from hyper_meta.core.compilation import keep_quick_programs
    from hyper_meta.generation.predict import predict
    from hyper_meta.generation.weights_file import load_weights

    keep_quick_programs()
    weights = load_weights(arguments.weights)
    result = predict(weights, arguments.images, answers=answers, template=arguments.template)
    num_samples = len(weights.samples)
    rows = [("image", "answer", "probability", "")]
    for image, answer, probability, share in zip(
        arguments.images,
        result.answer,
        result.probabilities.max(axis=1),
        result.agreement,
        strict=True,
    ):
        agreeing = f"{round(share * num_samples)} of {num_samples} samples agree"
        agreeing = agreeing if num_samples > 1 else ""
        rows.append((image, answer, f"{probability:.2f}", agreeing))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print(f'answers were read as "{result.template}" (--template changes it)')
    if weights.warnings:
        print(f"warning: {'; '.join(weights.warnings)}")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, metavar="FILE", help="of hyper-meta generate")
    parser.add_argument(
        "--answers", required=True, metavar="A,B,...", help="candidates, separated by commas"
    )
    parser.add_argument(
        "--template", metavar="SENTENCE", help="left out, the one that knows the answers"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG or JPEG, of any size")


COMMAND = Command(
    "predict", "answer a question about images with generated weights", HELP, _add_options, _check
)
