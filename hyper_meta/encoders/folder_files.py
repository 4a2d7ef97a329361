"""The files of an encoder's folder; a mistake in one is a UserError of one line that names it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyper_meta.core.types import UserError


def require_file(folder: Path, name: str) -> Path:
    """The path of a file that has to be there."""
    if not (folder / name).is_file():
        raise UserError(f"{name} is missing")
    return folder / name


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = json.loads(require_file(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{name} is not JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} holds a {type(content).__name__}, an object was expected")
    return content


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, with a line for each value and sorted keys."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def one_line(error: Exception) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())
