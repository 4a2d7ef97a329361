"""The matrix products of a function, counted in its jaxpr, before the compiler removes any."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Float

from hyper_meta.core.types import Array


class Products(NamedTuple):
    """A cost of matrix products.

    flops: additions and multiplications, each counted as one.
    bytes: the size of operands and results, each read or written once.
    """

    flops: float
    bytes: float


NONE = Products(0.0, 0.0)


def count_products(
    fn: Callable, *args: Any, branches: Float[Array, " n"] | None = None
) -> Products:
    """The cost of the matrix products of fn(*args).

    A loop of fixed length counts as often as it runs, another loop once. A product that is the same
    at every step of its loop counts once, since the compiler moves it out of the loop. A
    conditional counts as its most expensive branch, unless branches are given.

    Args:
      fn: a function that jax can trace.
      args: its arguments, or their shapes.
      branches: [n] float, how often each of the first n branches of the outermost conditionals
        runs, as a share.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    once, each = _of_jaxpr(jaxpr, branches, [False] * len(jaxpr.invars))
    return _total([once, each])


def _of_jaxpr(
    jaxpr: Any, branches: np.ndarray | None, fixed: list[bool]
) -> tuple[Products, Products]:
    """(cost of the products that depend on fixed inputs only, cost of all others)."""
    inputs = zip(jaxpr.invars, fixed, strict=True)
    known = {*jaxpr.constvars, *(x for x, is_fixed in inputs if is_fixed)}
    parts: dict[bool, list[Products]] = {True: [], False: []}
    for equation in jaxpr.eqns:
        marks = [isinstance(x, Literal) or x in known for x in equation.invars]
        if all(marks):
            known.update(equation.outvars)
        once, each = _of_equation(equation, branches, marks)
        parts[True].append(once)
        parts[all(marks)].append(each)
    return _total(parts[True]), _total(parts[False])


def _of_equation(
    equation: Any, branches: np.ndarray | None, fixed: list[bool]
) -> tuple[Products, Products]:
    """The same of one equation, see `_of_jaxpr`."""
    if equation.primitive.name == "dot_general":
        return NONE, _of_product(equation)
    if equation.primitive.name == "cond":
        return NONE, _of_branches(equation.params["branches"], branches)
    inner = list(_inside(equation.params.values()))
    if equation.primitive.name != "scan":
        parts = [_of_jaxpr(part, branches, _marks(part, fixed)) for part in inner]
        return _total([once for once, _ in parts]), _total([each for _, each in parts])
    (body,) = inner
    constants = equation.params["num_consts"]
    marks = [place < constants for place in range(len(body.invars))]
    once, each = _of_jaxpr(body, branches, marks)
    return NONE, _total([once, _times(equation.params["length"], each)])


def _marks(jaxpr: Any, fixed: list[bool]) -> list[bool]:
    """Which inputs of a jaxpr are fixed: those of its equation, if it has the same inputs."""
    number = len(jaxpr.invars)
    return fixed if len(fixed) == number else [False] * number


def _times(number: int, part: Products) -> Products:
    return Products(number * part.flops, number * part.bytes)


def _total(parts: list[Products]) -> Products:
    return Products(sum(part.flops for part in parts), sum(part.bytes for part in parts))


def _of_product(equation: Any) -> Products:
    left, right, out = (variable.aval for variable in (*equation.invars, *equation.outvars))
    (contracted, _), _ = equation.params["dimension_numbers"]
    length = math.prod(left.shape[axis] for axis in contracted)
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in (left, right, out))
    return Products(2.0 * math.prod(out.shape) * length, float(size))


def _of_branches(jaxprs: Any, shares: np.ndarray | None) -> Products:
    parts = [
        _total(_of_jaxpr(part.jaxpr, None, [False] * len(part.jaxpr.invars))) for part in jaxprs
    ]
    if shares is None:
        return max(parts, key=lambda part: part.flops)
    shown = zip(*parts[: len(shares)], strict=True)
    return Products(*(float(np.dot(shares, values)) for values in shown))


def _inside(values: Any) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in values:
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
