"""Settings that say which of them are read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from hyper_meta.core.settings.reading import kinds_of

Record = TypeVar("Record")


def watched(settings: Record, note: Callable[[str, Any], None], prefix: str = "") -> Record:
    """The same settings, an instance of the same record, whose leaves call note(name, value) before
    they are returned; names are dotted, after prefix."""
    view = object.__new__(_watched_class(type(settings)))
    for name in kinds_of(type(settings)):
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            value = watched(value, note, f"{prefix}{name}.")
        object.__setattr__(view, name, value)
    object.__setattr__(view, "_note", lambda name, value: note(prefix + name, value))
    return view


@functools.cache
def _watched_class(record: type) -> type:
    """A subclass of a record that notes what is read of it."""
    names = frozenset(kinds_of(record))

    def read(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name in names and not dataclasses.is_dataclass(value):
            # A copy by dataclasses.replace has read everything already, and notes nothing.
            note = object.__getattribute__(self, "__dict__").get("_note")
            if note is not None:
                note(name, value)
        return value

    return type(f"Watched{record.__name__}", (record,), {"__getattribute__": read})
