"""Fields of a Hugging Face `config.json`, each of its kind or a UserError."""

import math
from collections.abc import Mapping
from typing import Any

from hyper_meta.core.types import UserError


def with_defaults(d: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with the values of d at their keys, where it has any."""
    return dict(defaults) | {key: d[key] for key in defaults if d.get(key) is not None}


def integer(section: Mapping[str, Any], key: str, minimum: int = 1) -> int:
    """A whole number of at least minimum."""
    value = section[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise UserError(f"config.json: {key} {value!r} given, an integer >= {minimum} expected")
    return value


def number(section: Mapping[str, Any], key: str) -> float:
    """A number, as a float."""
    value = section[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise UserError(f"config.json: {key} {value!r} given, a number expected")
    return float(value)
