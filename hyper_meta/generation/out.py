"""Where a weights file may be written; imports little, since a mistake is to cost no time."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hyper_meta.core.files import check_replaceable


def check_out(path: str | os.PathLike) -> None:
    """Raises UserError for a path at which anything but another weights file is, or that cannot be
    written."""
    check_replaceable(Path(path), "a weights file", _is_weights_file)


def _is_weights_file(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy") as file:
            return {"format", "task", "method"} <= (file.metadata() or {}).keys()
    except (OSError, SafetensorError):
        return False
