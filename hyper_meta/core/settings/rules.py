"""What a setting may be: its range, stated at its field, and the check of one value."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

from hyper_meta.core.errors import UserError

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """The range of a setting; of a tuple, that of each element.

    doc: one line on the setting. above, at_least, below, at_most: bounds of a number, None for
    none; choices: the texts to choose from, () for any; may_be_empty: whether a text or a tuple
    may hold nothing; may_repeat: whether a tuple may hold a value twice, as widths do, and values
    to choose from do not; is_share: whether the number is a share of a whole.
    """

    doc: str
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False
    may_repeat: bool = False
    is_share: bool = False


def setting(doc: str, **bounds: Any) -> Any:
    """A field of a record, with the bounds of a Rule."""
    return dataclasses.field(metadata={"rule": Rule(doc, **bounds)})


def count(doc: str, **bounds: Any) -> Any:
    """A field of a whole number, or of several, of at least one."""
    return setting(doc, at_least=1, **bounds)


def widths(doc: str) -> Any:
    """A field of the widths of several layers."""
    return count(doc, may_repeat=True)


def share(doc: str, *, may_be_zero: bool, may_be_one: bool = True) -> Any:
    """A field of a share from 0 to 1."""
    lower = {"at_least": 0} if may_be_zero else {"above": 0}
    upper = {"at_most": 1} if may_be_one else {"below": 1}
    return setting(doc, **lower, **upper, is_share=True)


def rate(doc: str) -> Any:
    """A field of a learning rate, or of several."""
    return setting(doc, above=0)


def check_value(name: str, value: Any, kind: Any, rule: Rule) -> Any:
    """The value in the type of its field: a list as a tuple, a whole number as a float.

    name: dotted, for messages; kind: int, float, bool, str, a tuple of one of these, or one of them
    or None. Raises UserError for a value of another type or out of range.
    """
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) is not tuple:
        return _check_single(name, value, kind, rule)
    element = typing.get_args(kind)[0]
    if not isinstance(value, (tuple, list)):
        raise UserError(f"{name}={value!r} given, a tuple of {element.__name__} is expected")
    if not value and not rule.may_be_empty:
        raise UserError(f"{name} is empty, one value or more are expected")
    values = tuple(_check_single(name, part, element, rule) for part in value)
    if not rule.may_repeat and (twice := [part for part in values if values.count(part) > 1]):
        raise UserError(f"{name} has the value {twice[0]} twice: leave one out")
    return values


def _check_single(name: str, value: Any, kind: type, rule: Rule) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{name}={value!r} given, {WORDS[kind]} is expected")
    if kind is str:
        _check_text(name, value, rule)
    elif kind is not bool:
        _check_number(name, value, rule)
    return value


def _check_text(name: str, value: str, rule: Rule) -> None:
    if rule.choices and value not in rule.choices:
        raise UserError(f"{name}={value!r} given, one of {sorted(rule.choices)} is expected")
    if not value and not rule.may_be_empty:
        raise UserError(f"{name} is empty, a text is expected")


def _check_number(name: str, value: float, rule: Rule) -> None:
    if not math.isfinite(value):
        raise UserError(f"{name}={value} is no finite number")
    if _in_range(value, rule):
        return
    if rule.is_share:
        lower = "above 0" if rule.at_least is None else "0"
        upper = "below 1" if rule.at_most is None else "1"
        raise UserError(f"{name}={value} is no share, a number from {lower} to {upper} is expected")
    if isinstance(value, int) and rule.at_least is not None and value < rule.at_least:
        raise UserError(f"{name}={value} is too small, {rule.at_least} is least")
    raise UserError(f"{name}={value} given, {WORDS[type(value)]} {_range(rule)} is expected")


def _in_range(value: float, rule: Rule) -> bool:
    return (
        (rule.above is None or value > rule.above)
        and (rule.at_least is None or value >= rule.at_least)
        and (rule.below is None or value < rule.below)
        and (rule.at_most is None or value <= rule.at_most)
    )


def _range(rule: Rule) -> str:
    """The bounds in words, such as "above 0", "from 0 to 1" or "of at least 0 and below 1"."""
    if rule.at_least is not None and rule.at_most is not None:
        return f"from {rule.at_least} to {rule.at_most}"
    parts = {
        "above": rule.above,
        "of at least": rule.at_least,
        "below": rule.below,
        "of at most": rule.at_most,
    }
    return " and ".join(f"{word} {bound}" for word, bound in parts.items() if bound is not None)
