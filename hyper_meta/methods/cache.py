"""What the rows of one seed share: compiled programs, guides, and what these generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from jaxtyping import UInt

from hyper_meta.core.types import Array

Key = TypeVar("Key")
Value = TypeVar("Value")


class Program(NamedTuple):
    """The key of a compiled program over the evaluation table.

    work: what it computes, such as "guide", or "curve" of an adaptation; of: of which guide, space
    or learner; variant: what else it was compiled for.
    """

    work: str
    of: str = ""
    variant: Hashable = None


class Points(NamedTuple):
    """The key of what a guide (its name) generated for the questions of a split, at a value of its
    settings."""

    guide: str
    split: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Once(Generic[Key, Value]):
    """Values of one kind that are made once for each key, by `interface.remember`."""

    kind: str
    values: dict[Key, Value] = dataclasses.field(default_factory=dict)


def _once(kind: str) -> Any:
    return dataclasses.field(default_factory=lambda: Once(kind))


@dataclasses.dataclass(frozen=True)
class Cache:
    """What is made once for a seed; of guides by their names.

    programs: compiled functions.
    guides: each a guides.Guide.
    models: their models on all devices.
    points: numpy leaves [T, K, ...].
    all_points: {value of the settings: points}, by (guide, split), where all together cost less.
    chosen: the setting that is best on validation tasks.
    shot_keys: [T, 2] uint32 by split, of the draws of few examples.
    """

    programs: Once[Program, Callable] = _once("programs")
    guides: Once[str, Any] = _once("guides")
    models: Once[str, Any] = _once("models")
    points: Once[Points, Any] = _once("points")
    all_points: Once[tuple[str, str], Mapping[Any, Any]] = _once("all_points")
    chosen: Once[str, str] = _once("chosen")
    shot_keys: Once[str, UInt[Array, "T 2"]] = _once("shot_keys")
