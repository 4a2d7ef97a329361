"""Files that are whole or absent: written beside their place and renamed into it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hyper_meta.types import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in place of any other; raises UserError, the old file untouched, if it cannot."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON values, readable."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads JSON; raises UserError for a file that is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged, it is not JSON: {error}") from error
