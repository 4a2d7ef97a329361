"""Tensors of a Hugging Face checkpoint to Flax parameters: one row for each, and none missing or
left."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Shaped

from hyper_meta.core.types import UserError


class AxisChange(NamedTuple):
    """The change of axes between the two formats, as two functions of numpy arrays."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_hf: Callable[[np.ndarray], np.ndarray]


SAME = AxisChange(np.asarray, np.asarray)
TRANSPOSED = AxisChange(np.transpose, np.transpose)

# (Hugging Face name, Flax path, change of axes), names and paths relative to a scope.
Row = tuple[str, str, AxisChange]


def rows_of(
    scopes: Sequence[tuple[str, str, Sequence[Row]]],
) -> dict[str, tuple[str, AxisChange]]:
    """{Hugging Face name: (Flax path, change of axes)} of (Hugging Face scope, Flax scope, rows)
    for each scope."""
    return {
        hf_scope + name: (flax_scope + path, layout)
        for hf_scope, flax_scope, rows in scopes
        for name, path, layout in rows
    }


def params_of(
    given: Mapping[str, Shaped[np.ndarray, " ..."]],
    rows: Mapping[str, tuple[str, AxisChange]],
    shapes: Mapping[str, tuple[int, ...]],
    model: str,
) -> dict[str, Any]:
    """A tree of parameters, float32 on JAX's default device.

    given: {Hugging Face name: float16, bfloat16 or float32 array}; rows: of `rows_of`; shapes:
    {Flax path: shape}; model: what it is, for messages. Raises UserError, naming the tensors, where
    some are missing, unexpected, of other shapes or not floating point.
    """
    _check_names(given, rows, model)
    _check_floating(given, model)
    wrong = [
        f"{name} {given[name].shape}, not {_hf_shape(shapes[path], layout)}"
        for name, (path, layout) in rows.items()
        if given[name].shape != _hf_shape(shapes[path], layout)
    ]
    if wrong:
        raise UserError(f"{model} weights do not have the shapes of config.json: {_listed(wrong)}")
    flat = {
        path: jnp.asarray(layout.to_flax(given[name]), jnp.float32)
        for name, (path, layout) in rows.items()
    }
    return unflatten_dict(flat, sep="/")


def _hf_shape(flax_shape: tuple[int, ...], layout: AxisChange) -> tuple[int, ...]:
    return layout.to_hf(np.broadcast_to(np.float32(0), flax_shape)).shape


def _check_names(given: Mapping[str, np.ndarray], rows: Mapping[str, Any], model: str) -> None:
    problems = [
        f"{problem}: {_listed(sorted(names))}"
        for problem, names in (
            ("missing", rows.keys() - given.keys()),
            ("unexpected", given.keys() - rows.keys()),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{model} weights do not have the tensors of config.json: {'; '.join(problems)}"
        )


def _check_floating(given: Mapping[str, np.ndarray], model: str) -> None:
    wrong = [
        f"{name} {array.dtype}"
        for name, array in given.items()
        if not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    if wrong:
        raise UserError(f"{model} weights must be floating point: {_listed(wrong)}")


def _listed(names: list[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
