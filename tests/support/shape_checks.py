"""The checks of array annotations that shape_hook gives to hyper_meta while the tests run.

Arrays, containers of arrays and records of arrays are checked at every call; other annotations are
left to a static type checker, so that a test may pass a stand-in for a configuration.
"""

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union

import jax
import numpy as np
from beartype import BeartypeConf, beartype
from beartype.vale import Is
from jaxtyping import AbstractArray, jaxtyped

CONTAINERS = (tuple, list, dict, Sequence, Mapping)
ARRAYS = (jax.Array, np.ndarray, np.generic)
# An int may be given where a float is expected.
CONF = BeartypeConf(is_pep484_tower=True)


def checked(fn: Callable) -> Callable:
    """fn with checks of its arguments and what it returns; fn itself if they are no arrays."""
    hints = [_resolved(hint, fn.__globals__) for hint in fn.__annotations__.values()]
    if all(array_hint(hint) is Any for hint in hints):
        return fn
    return jaxtyped(fn, typechecker=_only_arrays)


def checked_record(kind: type) -> type:
    """The class; one that is a dataclass of arrays checks them when it is made.

    jax builds dataclasses that are pytrees anew for every tree of their structure, also of axes or
    shapes, and with other leading axes. Those are let pass, and flax's, which always are pytrees,
    are checked where a function takes or returns one.
    """
    if not dataclasses.is_dataclass(kind) or _is_record(kind) or not _fields(kind):
        return kind
    plain, names = kind.__init__, {name for name, _ in _fields(kind)}
    check, signature = jaxtyped(plain, typechecker=_only_arrays), inspect.signature(plain)

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        leaves = jax.tree.leaves([value for name, value in given.items() if name in names])
        of_arrays = all(isinstance(leaf, ARRAYS) for leaf in leaves)
        (check if of_arrays else plain)(self, *args, **kwargs)

    kind.__init__ = init
    return kind


def _only_arrays(fn: Callable) -> Callable:
    """beartype for the annotations of arrays: what jaxtyped calls the type checker."""
    hints = {name: array_hint(hint) for name, hint in fn.__annotations__.items()}
    fn.__annotations__ = {name: hint for name, hint in hints.items() if hint is not Any}
    return beartype(conf=CONF)(fn)


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """A type hint that may be the text of one; Any for a name that is not known yet."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except NameError:
        return Any


def array_hint(hint: Any) -> Any:
    """The part of a type hint that says something of arrays; Any if nothing does."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return hint
    if _is_record(hint):
        return Annotated[object, Is[is_consistent]] if _fields(hint) else Any
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    parts = tuple(arg if arg is ... else array_hint(arg) for arg in args)
    if all(part in (Any, ...) for part in parts):
        return Any
    if origin in (Union, types.UnionType):
        return Union[tuple(a if p is Any else p for a, p in zip(args, parts, strict=True))]  # noqa: UP007
    return origin[parts] if origin in CONTAINERS else Any


def is_consistent(record: Any) -> bool:
    """Whether the arrays of a record have the shapes of its annotations, each axis of one size.

    What is no record, or a record of something else, such as axes or shapes, is consistent.
    """
    if not _is_record(type(record)) or not all(
        isinstance(leaf, ARRAYS) for leaf in jax.tree.leaves(record)
    ):
        return True
    with jaxtyped("context"):
        return all(_matches(getattr(record, name), hint) for name, hint in _fields(type(record)))


def _matches(value: Any, hint: Any) -> bool:
    """Whether a field has the shape of its hint; a record in a field has axes of its own."""
    if _is_record(type(value)):
        return is_consistent(value)
    return any(isinstance(value, kind) for kind in typing.get_args(hint) or [hint])


@functools.cache
def _fields(record: type) -> list[tuple[str, Any]]:
    """(name, type hint) of the fields that hold arrays or records of arrays."""
    names = vars(sys.modules[record.__module__])
    hints = {name: _resolved(hint, names) for name, hint in inspect.get_annotations(record).items()}
    return [(name, hint) for name, hint in hints.items() if array_hint(hint) is not Any]


def _is_record(kind: Any) -> bool:
    """Whether it is a flax.struct.dataclass: a dataclass that is a pytree."""
    return isinstance(kind, type) and "_flax_dataclass" in vars(kind)
