"""The weights in a folder of the Hugging Face format: model.safetensors, or the parts that
model.safetensors.index.json names, as transformers saves what is large."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, deserialize

from hyper_meta.core.types import UserError

WHOLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PATTERNS = (WHOLE_FILE, INDEX_FILE, "model-*-of-*.safetensors")
_PART = re.compile(r"model-\d+-of-\d+\.safetensors")
# Of safetensors; others, of 8 bits and less, need scales that are kept elsewhere.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

# The content of a file by its name in the folder. Raises OSError.
Read = Callable[[str], bytes]


def weights_names(names: Collection[str], read: Read) -> list[str]:
    """The files that hold the weights, of a folder with files of these names: the index first,
    where there is one.

    Raises UserError where there are no weights, a part is missing, or the index is damaged.
    """
    if WHOLE_FILE in names:
        return [WHOLE_FILE]
    if INDEX_FILE not in names:
        raise UserError(f"{WHOLE_FILE} is missing")
    parts = sorted(set(_index(read).values()))
    if missing := [part for part in parts if part not in names]:
        raise UserError(f"{', '.join(missing)} of {len(parts)} parts is missing: copy it here too")
    return [INDEX_FILE, *parts]


def read_weights(names: Collection[str], read: Read) -> dict[str, Shaped[np.ndarray, " ..."]]:
    """{name: array} of all tensors of a folder with files of these names. A tensor stands in the
    part that the index names, or is not taken.

    Raises UserError as `weights_names`, and for a file that is damaged or of another dtype.
    """
    first, *parts = weights_names(names, read)
    if first == WHOLE_FILE:
        return _tensors(WHOLE_FILE, read)
    of_part = {part: _tensors(part, read) for part in parts}
    index = _index(read)
    if lacking := [name for name, part in index.items() if name not in of_part[part]]:
        raise UserError(
            f"{index[lacking[0]]} has no {lacking[0]}, which {INDEX_FILE} says it holds: the parts "
            "are of different models"
        )
    return {name: of_part[part][name] for name, part in index.items()}


def _index(read: Read) -> dict[str, str]:
    """{name of a tensor: the file that holds it}."""
    try:
        index: Any = json.loads(read(INDEX_FILE))["weight_map"]
        named = {str(name): str(part) for name, part in index.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{INDEX_FILE} cannot be read as one: {_one_line(error)}") from error
    odd = [part for part in named.values() if not _PART.fullmatch(part)]
    if odd or not named:
        raise UserError(
            f"{INDEX_FILE} names {odd[0] if odd else 'no file'}, files such as "
            "model-00001-of-00002.safetensors are expected"
        )
    return named


def _tensors(name: str, read: Read) -> dict[str, np.ndarray]:
    try:
        tensors = deserialize(read(name))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{name} is damaged or truncated: {_one_line(error)}") from error
    dtypes = {tensor: saved["dtype"] for tensor, saved in tensors}
    odd = [f"{tensor} as {dtype}" for tensor, dtype in dtypes.items() if dtype not in _DTYPES]
    if odd:
        raise UserError(f"{name} has {odd[0]}: save it as float32, float16 or bfloat16")
    return {
        tensor: np.frombuffer(saved["data"], _DTYPES[saved["dtype"]]).reshape(saved["shape"])
        for tensor, saved in tensors
    }


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())
