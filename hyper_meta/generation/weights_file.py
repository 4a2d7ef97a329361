"""Generated networks and their file: safetensors, with what is needed to use them as metadata."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from hyper_meta.core.arguments import check_template
from hyper_meta.core.files import check_exists, write_bytes
from hyper_meta.core.tensors import tensor_bytes
from hyper_meta.core.types import UserError
from hyper_meta.generation.out import check_out
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.networks.registry import make_network
from hyper_meta.preparation.prepare import EncoderChoice

# Format 4 knew only adapters, and kept their sizes in fields of their own; 5 knew no networks that
# vote, and 6 no expected accuracy.
FORMATS = ("4", "5", "6", "7")
ADAPTER_FORMAT, FORMAT = FORMATS[0], FORMATS[-1]
FIRST_WITH_VOTES, FIRST_WITH_TRUST = "6", "7"
# Fields of Weights that are numbers or None.
TRUST = ("expected_accuracy", "accuracy_deviation", "baseline_accuracy")
# Settings of the built-in networks that are widths.
SIZES = ("hidden_dim", "rank")


@dataclasses.dataclass(frozen=True, repr=False)
class Weights:
    """Networks generated for one task, and what is needed to use them.

    weights: [P] float32, the network of the mean sample; samples: [K, P] float32, those of single
    samples; votes: whether the samples answer together, by the mean of their log-probabilities,
    where `weights` is the first of them; network: whose weights these are; task: the sentence;
    templates: sentences with {} for an answer, the likeliest first, each with the answers it was
    trained with; encoder: where it is; encoder_fingerprint: 64 hex digits; method: that generated
    them, "" where a file of format 4 does not say; guidance_scale: that they were sampled with,
    None for a method without one; seed: of the samples.

    How far they can be trusted: expected_accuracy: in [0, 1], of the method on this sentence;
    accuracy_deviation: how far it was off on validation tasks, root mean square;
    baseline_accuracy: of a network without language; None in files before format 7, the last also
    where none was trained; warnings: why not to rely on them, each a sentence.
    """

    weights: Float[np.ndarray, " P"]
    samples: Float[np.ndarray, "K P"]
    network: BaseNetwork
    task: str
    templates: dict[str, list[str]]
    encoder: EncoderChoice
    encoder_fingerprint: str
    method: str
    guidance_scale: float | None
    seed: int
    votes: bool = False
    expected_accuracy: float | None = None
    accuracy_deviation: float | None = None
    baseline_accuracy: float | None = None
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        size = f"{len(self.weights):,} weights of {self.network.name!r}"
        return f"Weights({self.task!r}, {size}, {len(self.samples)} samples by {self.method!r})"


def save_weights(path: str | os.PathLike, weights: Weights) -> None:
    """Writes a safetensors file, all of it or nothing.

    Raises UserError for a path at which anything but another weights file is.
    """
    check_out(path)
    network = weights.network
    described = {
        "name": network.name,
        "embed_dim": network.embed_dim,
        "settings": dict(network.settings),
    }
    metadata = {
        "format": FORMAT,
        "network": json.dumps(described),
        "task": weights.task,
        "templates": json.dumps(weights.templates),
        "encoder": json.dumps(weights.encoder),
        "encoder_fingerprint": weights.encoder_fingerprint,
        "method": weights.method,
        "guidance_scale": json.dumps(weights.guidance_scale),
        "seed": str(weights.seed),
        "votes": json.dumps(weights.votes),
        **{name: json.dumps(getattr(weights, name)) for name in (*TRUST, "warnings")},
    }
    arrays = {name: np.ascontiguousarray(getattr(weights, name)) for name in ("weights", "samples")}
    write_bytes(Path(path), tensor_bytes(arrays, metadata))


def load_weights(path: str | os.PathLike) -> Weights:
    """Reads what save_weights wrote, of this format or one from 4 on.

    Raises UserError where the file is missing, damaged, of another format, names a network that is
    not known here, or its weights are not finite or not those of that network.
    """
    check_exists(Path(path), "weights file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged or no weights file of hyper-meta: {error}") from error
    try:
        return _weights_from(metadata, arrays)
    except KeyError as error:
        raise UserError(f"{path} is no weights file of hyper-meta: it has no {error}") from error
    except (TypeError, ValueError, RecursionError, UserError) as error:
        raise UserError(f"{path} is no weights file of this hyper-meta: {error}") from error


def _weights_from(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> Weights:
    """Raises KeyError, TypeError, ValueError or UserError where something is missing or wrong."""
    if metadata["format"] not in FORMATS:
        raise ValueError(
            f"it has format {metadata['format']}, {ADAPTER_FORMAT} to {FORMAT} is expected"
        )
    is_of = FORMATS[FORMATS.index(metadata["format"]) :: -1]  # and all before it
    network = _network_from(metadata)
    _check_arrays(network, arrays)
    return Weights(
        weights=arrays["weights"],
        samples=arrays["samples"],
        network=network,
        task=metadata["task"],
        templates=_templates_from(metadata["templates"]),
        encoder=_encoder_from(metadata["encoder"]),
        encoder_fingerprint=metadata["encoder_fingerprint"],
        method="" if metadata["format"] == ADAPTER_FORMAT else metadata["method"],
        guidance_scale=_number_from("guidance_scale", metadata["guidance_scale"]),
        seed=int(metadata["seed"]),
        votes=_votes_from(metadata["votes"]) if FIRST_WITH_VOTES in is_of else False,
        **(_trust_from(metadata) if FIRST_WITH_TRUST in is_of else {}),
    )


def _trust_from(metadata: Mapping[str, str]) -> dict[str, Any]:
    warnings = json.loads(metadata["warnings"])
    if not isinstance(warnings, list) or not all(isinstance(text, str) for text in warnings):
        raise ValueError(f"its warnings are {metadata['warnings']}, a list of strings is expected")
    numbers = {name: _number_from(name, metadata[name]) for name in TRUST}
    return {**numbers, "warnings": tuple(warnings)}


def _votes_from(text: str) -> bool:
    votes = json.loads(text)
    if not isinstance(votes, bool):
        raise ValueError(f"its votes is {text}, true or false is expected")
    return votes


def _network_from(metadata: Mapping[str, str]) -> BaseNetwork:
    if metadata["format"] == ADAPTER_FORMAT:
        embed_dim, hidden_dim = (int(metadata[name]) for name in ("embed_dim", "hidden_dim"))
        name, settings = "adapter", {"hidden_dim": hidden_dim, "blend": float(metadata["blend"])}
    else:
        described = json.loads(metadata["network"])
        name, embed_dim, settings = (described[k] for k in ("name", "embed_dim", "settings"))
    if not isinstance(name, str) or not isinstance(settings, dict):
        raise ValueError(f"its network is {metadata['network']}, a name and settings are expected")
    _check_size("embed_dim", embed_dim)
    return make_network(name, embed_dim, {key: _setting(key, settings[key]) for key in settings})


def _setting(name: str, value: Any) -> Any:
    """A setting of a network as a configuration has it: JSON has its tuples as lists."""
    if name in SIZES:
        _check_size(name, value)
    if isinstance(value, list) and name != "blend":
        return tuple(_setting(name, part) for part in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (is_number or name == "blend") and not (is_number and np.isfinite(value)):
        raise ValueError(f"its {name} is {value!r}, a finite number is expected")
    if isinstance(value, dict):
        raise ValueError(f"its {name} is {value!r}, a number, a text or a list is expected")
    return value


def _check_size(name: str, size: Any) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise ValueError(f"its {name} is {size!r}, a number above 0 is expected")


def _templates_from(text: str) -> dict[str, list[str]]:
    templates = json.loads(text)
    if not isinstance(templates, dict) or not templates:
        raise ValueError(f"its templates are {text}, an object with one or more is expected")
    for template, answers in templates.items():
        check_template(template)
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise ValueError(f"the answers of its template {template!r} are no list of strings")
    return templates


def _encoder_from(text: str) -> EncoderChoice:
    choice = json.loads(text)
    if not isinstance(choice, list) or [type(part) for part in choice] != [str] * 3:
        raise ValueError(f"its encoder is {text}, name, resizing and dtype are expected")
    return EncoderChoice(*choice)


def _number_from(name: str, text: str) -> float | None:
    number = json.loads(text)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or not np.isfinite(number):
        raise ValueError(f"its {name} is {text}, a finite number or null is expected")
    return float(number)


def _check_arrays(network: BaseNetwork, arrays: Mapping[str, np.ndarray]) -> None:
    size = network.num_weights
    shapes = {"weights": (size,), "samples": (len(arrays["samples"]), size)}
    for name, shape in shapes.items():
        array = arrays[name]
        if array.dtype != np.float32 or array.shape != shape or not array.size:
            told = ", ".join(f"{key} {value}" for key, value in network.settings.items())
            raise ValueError(
                f"it does not fit the {network.name} that it names ({network.embed_dim} features, "
                f"{told}): its {name} are {list(array.shape)} {array.dtype}, {size} float32 each "
                "are expected"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"it has NaN or infinity in its {name}: generate it again")
