"""The combinations of a grid of settings, checked before anything is computed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ml_collections import ConfigDict

from hyper_meta.core.configuration import (
    apply_overrides,
    execute_file,
    override,
    split_overrides,
    typed,
)
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import flatten
from hyper_meta.core.settings import RunSettings

MAX_NAME = 200  # bytes; file systems take 255


@dataclasses.dataclass(frozen=True)
class Combination:
    """One point of the grid: settings: {name: value} of those that the sweep varies; config: with
    these values and all others."""

    settings: dict[str, Any]
    config: RunSettings

    @property
    def name(self) -> str:
        """The name of its folder."""
        return combination_name(self.settings)


def combination_name(settings: Mapping[str, Any]) -> str:
    """The settings in words: different for different values."""
    name = ",".join(f"{key}={_written(value)}" for key, value in settings.items())
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - len(digest) - 1]}-{digest}"


def _written(value: Any) -> str:
    """A value in letters that are safe in a path."""
    parts = value if isinstance(value, tuple) else (value,)
    return "+".join(quote(str(part), safe="") for part in parts)


def plan(file: Path, grids: Sequence[str], overrides: Sequence[str]) -> list[Combination]:
    """All combinations, those of the last grid next to each other.

    file: with get_config(); grids: such as "hyperldm.drop_rate=0.1,0.2"; overrides: as those of
    `load_settings`. Raises UserError for what load_settings refuses, a grid without values, and a
    setting or a value that is given twice.
    """
    given = split_overrides(overrides)
    config = _configure(file, given)
    if "methods" not in config:
        raise UserError(f"{file} is not of a run: take one such as configs/quickstart.py")
    alternatives: dict[str, dict[str, Any]] = {}
    for grid in grids:
        name, values = parse_grid(config, grid)
        if name in alternatives:
            raise UserError(f"--grid {name} is given twice: name all of its values in one")
        if name in dict(given):
            raise UserError(f"{name} is given by --grid and by --config.{name}: keep one of them")
        alternatives[name] = values
    combinations = []
    for texts in itertools.product(*alternatives.values()):
        chosen = dict(zip(alternatives, texts, strict=True))
        added = [(key, _as_override(key, text)) for key, text in chosen.items()]
        config = _configure(file, [*given, *added])
        settings = {key: alternatives[key][text] for key, text in chosen.items()}
        try:
            combinations.append(Combination(settings, typed(config, RunSettings)))
        except UserError as error:
            raise UserError(f"{combination_name(settings)}: {error}") from error
    return combinations


def _configure(file: Path, overrides: Sequence[tuple[str, Sequence[str]]]) -> ConfigDict:
    config = execute_file(file)
    apply_overrides(config, overrides)
    return config


def _as_override(name: str, text: str) -> list[str]:
    return [f"--config.{name}={text}"]


def parse_grid(config: ConfigDict, grid: str) -> tuple[str, dict[str, Any]]:
    """("a.b", {text: value}) of "a.b=TEXT,TEXT"; texts of a tuple are separated by ";".

    Leaves config with the last of the values. Raises UserError, see `plan`.
    """
    name, equals, text = grid.partition("=")
    is_tuple = isinstance(flatten(config.to_dict()).get(name), tuple)
    texts = [part.strip() for part in text.split(";" if is_tuple else ",")]
    if not equals or "" in texts:
        example = "NAME=1,2;3,4 (alternatives of a tuple)" if is_tuple else "NAME=VALUE,VALUE"
        raise UserError(f"--grid {grid} lacks a value: {example} is expected")
    values: dict[str, Any] = {}
    for text in texts:
        try:
            override(config, name, _as_override(name, text))
        except UserError as error:
            raise UserError("--grid " + str(error).replace("--config.", "")) from error
        value = flatten(config.to_dict())[name]
        if value in values.values():
            raise UserError(f"--grid {grid} has the value {text} twice: remove one")
        values[text] = value
    return name, values
