"""From a configuration, nested dictionaries of plain values, to its records, checked."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from hyper_meta.core.errors import UserError
from hyper_meta.core.settings.rules import WORDS, Rule, check_value, setting
from hyper_meta.core.settings.run import RunSettings

Record = TypeVar("Record")


@functools.cache
def kinds_of(record: type) -> dict[str, Any]:
    """The type of each field of a record, in the order of its fields."""
    hints = typing.get_type_hints(record)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}


def rules_of(record: type, prefix: str = "") -> dict[str, tuple[Any, Rule]]:
    """(type, rule) of every setting of a record and those in it, by dotted name."""
    rules: dict[str, tuple[Any, Rule]] = {}
    for field in dataclasses.fields(record):
        kind, name = kinds_of(record)[field.name], prefix + field.name
        if section := _section(kind):
            rules |= rules_of(section, f"{name}.")
        else:
            rules[name] = kind, field.metadata["rule"]
    return rules


def _section(kind: Any) -> type | None:
    """The record of a field that holds one, or perhaps one; None for any other field."""
    for part in (kind, *typing.get_args(kind)):
        if dataclasses.is_dataclass(part):
            return part
    return None


def _optional(record: type) -> set[str]:
    """The sections that a configuration may lack."""
    kinds = kinds_of(record)
    return {name for name, kind in kinds.items() if _section(kind) not in (kind, None)}


def read_settings(
    config: ConfigDict | Mapping[str, Any], record: type[Record] = RunSettings
) -> Record:
    """The record of a configuration, nested mappings of plain values.

    Raises UserError for an unknown and a missing name, a value of another type or out of its range,
    and values that contradict each other.
    """
    given = config.to_dict() if isinstance(config, ConfigDict) else config
    settings = _read(given, record, "")
    for line in (*_uneven_steps(settings), *settings.contradictions()):
        raise UserError(line)
    return settings


def _read(config: Any, record: type, prefix: str) -> Any:
    if not isinstance(config, Mapping):
        name = prefix.removesuffix(".")
        raise UserError(f"{name}={config!r} given, a group of settings is expected")
    if getattr(record, "is_open", False):
        record = _with_others(record, config)
    kinds, given = kinds_of(record), dict(config.items())
    for name in given:
        if name not in kinds:
            (nearest,) = difflib.get_close_matches(name, kinds, n=1, cutoff=0)
            raise UserError(
                f"the configuration has an unknown setting {prefix}{name}, "
                f"did you mean {prefix}{nearest}?"
            )
    optional = _optional(record)
    if missing := [prefix + name for name in kinds if name not in given.keys() | optional]:
        raise UserError(
            f"the configuration lacks the settings {', '.join(missing)}: take a file of configs/ "
            "of the same kind as a start"
        )
    values = {}
    for field in dataclasses.fields(record):
        kind, name = kinds[field.name], prefix + field.name
        if field.name in optional and given.get(field.name) is None:
            values[field.name] = None
        elif section := _section(kind):
            values[field.name] = _read(given[field.name], section, f"{name}.")
        else:
            rule = field.metadata["rule"]
            values[field.name] = check_value(name, given[field.name], kind, rule)
    return record(**values)


def _with_others(record: type, config: Mapping[str, Any]) -> type:
    """The record with a field for each further value of the section, of that value's type."""
    known = kinds_of(record)
    others = {name: value for name, value in config.items() if name not in known}
    return _extended(record, tuple((name, _kind(value)) for name, value in sorted(others.items())))


def _kind(value: Any) -> Any:
    """The type of a field that holds such a value; a number where no field can."""
    if isinstance(value, (tuple, list)):
        element: Any = type(value[0]) if value and type(value[0]) in WORDS else float
        return tuple[element, ...]
    if value is None:
        return float | None
    return type(value) if type(value) in WORDS else float


@functools.cache
def _extended(record: type, others: tuple[tuple[str, Any], ...]) -> type:
    """The same class for the same fields, so that equal settings are equal."""
    if not others:
        return record
    anything = {"may_be_empty": True, "may_repeat": True}
    fields = [(name, kind, setting("of its own", **anything)) for name, kind in others]
    return dataclasses.make_dataclass(
        record.__name__, fields, bases=(record,), frozen=True, kw_only=True
    )


def _uneven_steps(settings: Any, prefix: str = "") -> Iterator[str]:
    """One line for each num_steps that the chunk_steps beside it do not divide."""
    values = {name: getattr(settings, name) for name in kinds_of(type(settings))}
    if "chunk_steps" in values and values["num_steps"] % values["chunk_steps"]:
        steps, size = values["num_steps"], values["chunk_steps"]
        yield (
            f"{prefix}num_steps={steps} is no multiple of {prefix}chunk_steps={size}: "
            f"the nearest is {max(1, round(steps / size)) * size}"
        )
    for name, value in values.items():
        if dataclasses.is_dataclass(value):
            yield from _uneven_steps(value, f"{prefix}{name}.")


def as_dict(settings: Any) -> dict[str, Any]:
    """A record as nested dictionaries of plain values, from which `read_settings` makes it; without
    sections that it lacks."""
    content, optional = dataclasses.asdict(settings), _optional(type(settings))
    return {name: x for name, x in content.items() if name not in optional or x is not None}


def changed(settings: Record, values: Mapping[str, Any]) -> Record:
    """The record with other values at dotted names, such as {"hnet.num_steps": 2}, checked as
    `read_settings` does."""
    config = as_dict(settings)
    for name, value in values.items():
        *groups, key = name.split(".")
        functools.reduce(operator.getitem, groups, config)[key] = value
    return read_settings(config, type(settings))
