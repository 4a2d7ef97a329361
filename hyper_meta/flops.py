"""The matrix products of a function, counted as jax traces them, before the compiler drops any."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np


class Products(NamedTuple):
    """flops: of the matrix products, an addition and a multiplication each one; bytes: of their
    operands and results, each read or written once."""

    flops: float
    bytes: float


def count_products(fn: Callable, *args: Any, branches: np.ndarray | None = None) -> Products:
    """The matrix products of fn(*args); args may be shapes.

    Loops of a fixed length count as often as they run, other loops once. Of a conditional the
    most expensive branch counts, unless branches, the share of each of the first branches of the
    outermost conditionals, are given.
    """
    return _of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr, branches)


def _of_jaxpr(jaxpr: Any, branches: np.ndarray | None) -> Products:
    flops = total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            parts = [_of_product(equation)]
        elif equation.primitive.name == "cond":
            parts = [_of_branches(equation.params["branches"], branches)]
        else:
            times = equation.params.get("length", 1)
            inner = [_of_jaxpr(part, branches) for part in _inside(equation.params.values())]
            parts = [Products(times * part.flops, times * part.bytes) for part in inner]
        flops += sum(part.flops for part in parts)
        total += sum(part.bytes for part in parts)
    return Products(flops, total)


def _of_product(equation: Any) -> Products:
    left, right, out = (variable.aval for variable in (*equation.invars, *equation.outvars))
    (contracted, _), _ = equation.params["dimension_numbers"]
    length = math.prod(left.shape[axis] for axis in contracted)
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in (left, right, out))
    return Products(2.0 * math.prod(out.shape) * length, float(size))


def _of_branches(jaxprs: Any, shares: np.ndarray | None) -> Products:
    parts = [_of_jaxpr(part.jaxpr, None) for part in jaxprs]
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
