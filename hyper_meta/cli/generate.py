"""`hyper-meta generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hyper_meta.cli.parser import Command, Work, refuse_others

if TYPE_CHECKING:
    from hyper_meta.generation.weights_file import Weights

HELP = """\
examples:
  hyper-meta generate --workdir runs/quickstart \\
      --task "Which colour does the seven have?" --out seven.safetensors

  by another method than the best on validation tasks, closer to the sentence, and with how answers
  are to be read:
  hyper-meta generate --workdir runs/quickstart --task "Which colour does the seven have?" \\
      --method language_hyperldm_tokens --guidance-scale 4 \\
      --template "the seven is {}" --out seven.safetensors

in Python:
  from hyper_meta import generate, load_model, save_weights
  model = load_model("runs/quickstart")
  weights = generate(model, "Which colour does the seven have?")
  print(weights.expected_accuracy, weights.warnings)
  save_weights("seven.safetensors", weights)

It says how often such a network is right by what is known of other sentences, and warns where the
sentence has words that the model has never seen, or where language seems to be of no help.
"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.core import arguments as check
    from hyper_meta.core.configuration import stored_settings
    from hyper_meta.generation.out import check_out

    refuse_others(arguments, others)
    check.check_task(arguments.task)
    check.check_seed(arguments.seed)
    if arguments.samples is not None:
        check.check_num_samples(arguments.samples)
    if arguments.guidance_scale is not None:
        check.check_guidance_scale(arguments.guidance_scale)
    if arguments.template is not None:
        check.check_template(arguments.template)
    stored_settings(Path(arguments.workdir))
    check_out(arguments.out)
    return lambda: _generate(arguments)


def _generate(arguments: argparse.Namespace) -> None:
    from hyper_meta.generation.generate import generate, load_model
    from hyper_meta.generation.weights_file import save_weights

    weights = generate(
        load_model(arguments.workdir, arguments.method),
        arguments.task,
        num_samples=arguments.samples,
        guidance_scale=arguments.guidance_scale,
        template=arguments.template,
        seed=arguments.seed,
    )
    save_weights(arguments.out, weights)
    num_samples, size = weights.samples.shape
    told = f"wrote {arguments.out}: a network of {size:,} weights by {weights.method}"
    if num_samples > 1:
        told += f" and the {num_samples} samples behind it"
    if weights.guidance_scale is not None:
        told += f", guidance scale {weights.guidance_scale:g}"
    print(told)
    print(expectation(weights))
    for warning in weights.warnings:
        print(f"warning: {warning}")


def expectation(weights: Weights) -> str:
    """What accuracy is to be expected of weights that were generated now, in a line."""
    told = f"expected accuracy {weights.expected_accuracy:.0%}"
    told += f", give or take {100 * weights.accuracy_deviation:.0f}"
    if weights.baseline_accuracy is None:
        return told
    return f"{told} (a network without language: {weights.baseline_accuracy:.0%})"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a finished run")
    parser.add_argument("--task", required=True, metavar="SENTENCE", help="the question")
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="a language method of the run (hyper-meta methods lists all); left out, the best on "
        "validation tasks",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="K",
        help="how many, best an even number, since their noise comes in opposite pairs; left out, "
        "as many as were evaluated",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="a safetensors file")
    parser.add_argument(
        "--guidance-scale",
        type=float,
        metavar="S",
        help="0 ignores the sentence, more holds to it closer; left out, the best on validation "
        "tasks",
    )
    parser.add_argument(
        "--template",
        metavar="SENTENCE",
        help="how an answer is read, with {} in its place; left out, predict takes the one of "
        "training that knows its answers",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (0)")


COMMAND = Command(
    "generate",
    "generate the weights of a network from a sentence",
    HELP,
    _add_options,
    _check,
)
