"""`hyper-meta export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyper_meta.cli.parser import Command, Work, refuse_others

HELP = """\
examples:
  hyper-meta export --weights colour.safetensors --to npz --out colour
  hyper-meta export --weights colour.safetensors --to onnx --out colour_onnx

A folder for programs without hyper_meta. npz, torch: network.npz, and network.py, a few lines of
numpy or PyTorch whose `logits` takes features of images [N, D] and of answers [A, D]. onnx:
network.onnx with the inputs features and answers and the output logits; it needs the package
`onnx`: pip install 'hyper_meta[onnx]'. Features are those of the encoder, which is not exported.
"""


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    refuse_others(arguments, others)

    from hyper_meta.core.files import check_empty, check_exists

    check_exists(Path(arguments.weights), "weights file")
    check_empty(Path(arguments.out))
    return lambda: _export(arguments)


def _export(arguments: argparse.Namespace) -> None:
    from hyper_meta.generation.export import export_weights
    from hyper_meta.generation.weights_file import load_weights

    weights = load_weights(arguments.weights)
    export_weights(weights, arguments.to, Path(arguments.out))
    print(f"wrote {arguments.out}: {weights.network.name} for {weights.task!r}")
    print(f"its features: those of {weights.encoder.name} (see network.py or the model's text)")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, metavar="FILE", help="of hyper-meta generate")
    parser.add_argument("--to", required=True, choices=("npz", "torch", "onnx"), help="the form")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="new, or empty")


COMMAND = Command(
    "export", "write generated weights for numpy, PyTorch or ONNX", HELP, _add_options, _check
)
