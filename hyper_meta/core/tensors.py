"""Arrays as the bytes of a safetensors file, equal for equal arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped
from safetensors.numpy import save

LENGTH = 8  # bytes at the start, which say how long the header is; it ends at a multiple of as many


def tensor_bytes(
    tensors: Mapping[str, Shaped[np.ndarray, " ..."]], metadata: Mapping[str, str]
) -> bytes:
    """As `safetensors.numpy.save`, which puts the metadata in another order each time; here by
    name."""
    content = save(dict(tensors), metadata=dict(metadata))
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    header = json.loads(content[LENGTH:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % LENGTH)
    return len(ordered).to_bytes(LENGTH, "little") + ordered + content[end:]
