"""Where a weights file may be written; imports little, since a mistake is to cost no time."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import check_replaceable


def check_out(path: str | os.PathLike) -> None:
    """Raises UserError for a path at which anything but another weights file is, or that cannot be
    written."""
    check_replaceable(Path(path), "a weights file", _is_weights_file)


def check_out_folder(path: str | os.PathLike) -> None:
    """Raises UserError for a path at which something else than a folder is."""
    if Path(path).exists() and not Path(path).is_dir():
        raise UserError(
            f"{path} is a file, the networks of several tasks go into a folder: name another --out"
        )


def file_names(tasks: Sequence[str]) -> dict[str, str]:
    """{task: name of its file}, with the number of the task and what it asks."""
    width = len(str(len(tasks)))
    return {
        task: f"{number:0{width}d}_{_words(task)}.safetensors"
        for number, task in enumerate(tasks, start=1)
    }


def _words(task: str, longest: int = 60) -> str:
    """The letters and digits of a sentence, in lower case, with _ between words."""
    words = re.findall(r"\w+", task.casefold())
    return "_".join(words)[:longest].rstrip("_") or "task"


def _is_weights_file(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy") as file:
            return {"format", "task", "method"} <= (file.metadata() or {}).keys()
    except (OSError, SafetensorError):
        return False
