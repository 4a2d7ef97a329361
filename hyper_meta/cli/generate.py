"""`hyper-meta generate`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hyper_meta.cli.parser import Command, Work, refuse_others, usage_error

if TYPE_CHECKING:
    from hyper_meta.generation.weights_file import Weights

HELP = """\
examples:
  hyper-meta generate --task "Colour of the top left digit?" --out colour.safetensors

  by a model of your own, a run's or one that was exported (--model):
  hyper-meta generate --workdir runs/quickstart \\
      --task "Colour of the top left digit?" --out colour.safetensors

  by another method than the best on validation tasks, closer to the sentence, and with how answers
  are to be read:
  hyper-meta generate --workdir runs/quickstart --task "Colour of the top left digit?" \\
      --method language_hyperldm_tokens --guidance-scale 2 \\
      --template "the colour is {}" --out colour.safetensors

  many tasks at once, a file for each in a folder:
  hyper-meta generate --workdir runs/quickstart --tasks questions.txt --out networks/

in Python:
  from hyper_meta import generate, load_model, save_weights
  model = load_model("runs/quickstart")
  weights = generate(model, "Colour of the top left digit?")
  print(weights.expected_accuracy, weights.warnings)
  save_weights("colour.safetensors", weights)

It says how often such a network is right by what is known of other sentences, and warns where the
sentence has words that the model has never seen, or where language seems to be of no help.
"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    from hyper_meta.core import arguments as check
    from hyper_meta.core.configuration import stored_settings
    from hyper_meta.generation.out import check_out, check_out_folder, file_names

    refuse_others(arguments, others)
    if not arguments.task and arguments.tasks is None:
        usage_error(arguments.prog, "the arguments --task or --tasks are required")
    tasks = [*arguments.task, *_read_tasks(arguments.tasks)]
    check.check_tasks(tasks)
    check.check_seed(arguments.seed)
    if arguments.samples is not None:
        check.check_num_samples(arguments.samples)
    if arguments.guidance_scale is not None:
        check.check_guidance_scale(arguments.guidance_scale)
    if arguments.template is not None:
        check.check_template(arguments.template)
    if arguments.workdir:
        stored_settings(Path(arguments.workdir))
    if arguments.tasks is None and len(tasks) == 1:
        files = {tasks[0]: Path(arguments.out)}
    else:
        check_out_folder(arguments.out)
        files = {task: Path(arguments.out) / name for task, name in file_names(tasks).items()}
    for path in files.values():
        check_out(path)
    return lambda: _generate(arguments, files)


def _read_tasks(path: str | None) -> list[str]:
    """The sentences of a text file, one in each line that is not empty."""
    from hyper_meta.core.files import read_lines

    return [] if path is None else read_lines(Path(path))


def _generate(arguments: argparse.Namespace, files: Mapping[str, Path]) -> None:
    from tqdm import tqdm

    from hyper_meta.core.compilation import keep_quick_programs
    from hyper_meta.core.progress import progress_bar
    from hyper_meta.generation.generate import generate
    from hyper_meta.generation.model import load_model
    from hyper_meta.generation.weights_file import save_weights

    model = load_model(arguments.workdir or arguments.model, arguments.method)
    keep_quick_programs(model.config.compilation_cache)
    bar = progress_bar(files.items(), desc="generate", unit="network", disable=len(files) == 1)
    for task, path in bar:
        weights = generate(
            model,
            task,
            num_samples=arguments.samples,
            guidance_scale=arguments.guidance_scale,
            template=arguments.template,
            seed=arguments.seed,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(path, weights)
        with tqdm.external_write_mode():
            _tell(path, weights, task if len(files) > 1 else None)


def _tell(path: Path, weights: Weights, task: str | None) -> None:
    """What was written. task: where it is one of several."""
    num_samples, size = weights.samples.shape
    told = f"wrote {path}: a network of {size:,} weights by {weights.method}"
    if num_samples > 1:
        told += f" and the {num_samples} samples behind it"
    if weights.guidance_scale is not None:
        told += f", guidance scale {weights.guidance_scale:g}"
    if task is not None:
        print(task)
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


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--workdir",
        metavar="DIR",
        help="of a finished run; without it and --model, the model of Digits-VQA that comes along",
    )
    source.add_argument(
        "--model",
        metavar="FOLDER",
        help="of a model that was exported, or its name on the Hugging Face Hub, OWNER/NAME",
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="SENTENCE",
        help="the question; given again, one more",
    )
    parser.add_argument("--tasks", metavar="FILE", help="with a question in each line")
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
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a safetensors file; of several questions, the folder of one for each",
    )
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
