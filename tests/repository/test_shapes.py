"""Annotations of arrays: public functions name the axes, and the tests check them."""

import ast
import importlib
import inspect
import typing
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError
from shape_checks import array_hint, is_consistent

import hyper_meta
from hyper_meta.core.losses import gaussian_kl, info_nce, normalise
from hyper_meta.core.types import Array, Examples
from hyper_meta.data import batching
from hyper_meta.data.digits_vqa.scenes import Scenes
from hyper_meta.meta.latents import few_shots
from hyper_meta.models.generator import Generator

ROOT = Path(hyper_meta.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
KINDS = {"Bool", "Float", "Int", "Key", "Num", "Shaped", "UInt", "UInt8"}
# Users give these, of any shape: a UserError says what is expected.
GIVEN = {
    "encoders.folder preprocess(images)",
    "generation.predict predict(images)",
}


def _name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _public(tree, kinds):
    """Public definitions of a module and of its public classes."""
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (n for n in node.body if isinstance(n, kinds) and _called(n.name))


def _called(name):
    return not name.startswith("_") or name == "__call__"


def _annotations(path):
    """(name, annotation) of the public functions and records of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in _public(tree, ast.FunctionDef):
        arguments = function.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            yield f"{function.name}({argument.arg})", argument.annotation
        yield f"{function.name}()", function.returns
    for record in _public(tree, ast.ClassDef):
        for field in record.body:
            if isinstance(field, ast.AnnAssign):
                yield f"{record.name}.{field.target.id}", field.annotation


def _bare_arrays(annotation):
    """The arrays of an annotation that have no shape; those of Callables need none."""
    if annotation is None:
        return []
    if isinstance(annotation, ast.Subscript):
        name = ast.unparse(annotation.value)
        return [] if name in KINDS | {"Callable"} else _bare_arrays(annotation.slice)
    if ast.unparse(annotation) in ("Array", "ArrayLike", "jax.Array", "np.ndarray"):
        return [annotation]
    return [bare for child in ast.iter_child_nodes(annotation) for bare in _bare_arrays(child)]


def test_public_arrays_have_shapes():
    bare = {
        f"{_name(path)} {name}"
        for path in FILES
        for name, annotation in _annotations(path)
        if _bare_arrays(annotation)
    }
    assert bare == GIVEN, "arrays without shapes: say which axes they have"


def test_shapes_are_known_when_a_module_is_imported():
    # What is imported for type checkers only, or defined further down, would not be checked.
    for path in FILES:
        if not any(f"{kind}[" in path.read_text(encoding="utf-8") for kind in KINDS):
            continue
        module = importlib.import_module(f"hyper_meta.{_name(path)}")
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                typing.get_type_hints(function)


@pytest.mark.parametrize(
    "texts", [jnp.zeros((3, 4)), jnp.zeros((2, 5)), jnp.zeros(4), jnp.zeros((2, 4), jnp.int32)]
)
def test_a_wrong_shape_or_kind_is_refused(texts):
    images = jnp.zeros((2, 4))
    assert info_nce(images, jnp.zeros((2, 4), jnp.bfloat16), 1.0).shape == ()
    with pytest.raises(TypeCheckError, match="texts"):
        info_nce(images, texts, 1.0)


def test_shapes_are_checked_in_a_trace_and_under_vmap():
    with pytest.raises(TypeCheckError, match="logvar"):
        jax.jit(gaussian_kl)(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    assert jax.vmap(normalise)(jnp.zeros((2, 3))).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        jax.vmap(normalise)(jnp.zeros(2))


def test_modules_of_flax_are_checked():
    with pytest.raises(TypeCheckError, match="latent"):
        Generator((4,), 3).init(jax.random.key(0), jnp.zeros(2, jnp.int32))


def test_what_takes_no_arrays_is_left_as_it_is():
    assert not hasattr(batching.merge_shapes, "__wrapped__")
    assert hasattr(batching.choose_shapes, "__wrapped__")


def _examples(num_labels):
    mask = np.ones((2, 3), bool)
    return Examples(np.zeros((2, 3, 4), np.float32), np.zeros((2, num_labels), np.int32), mask)


def test_records_are_checked_where_a_function_takes_them():
    key, shots = jax.random.key(0), jnp.int32(1)
    one, wrong = (jax.tree.map(lambda x: x[0], _examples(count)) for count in (3, 2))
    assert few_shots(key, one, shots, 3).mask.sum() == 1
    with pytest.raises(TypeCheckError, match="examples"):
        few_shots(key, wrong, shots, 3)


def test_records_of_other_things_than_arrays_are_not_checked():
    assert is_consistent(_examples(3)) and not is_consistent(_examples(2))
    assert is_consistent(jax.tree.map(jnp.shape, _examples(2)))
    assert is_consistent(Examples(0, None, 0))


def test_a_plain_record_is_checked_when_it_is_made():
    grid = np.zeros((2, 4), np.int64)
    fields = {"digit": grid, "handwriting": grid, "colour": grid, "size": grid, "noise_seed": 0}
    offset = np.zeros((2, 4, 2), np.int64)
    Scenes(**fields, offset=offset, background=np.zeros(2, np.int64))
    with pytest.raises(TypeCheckError, match="background"):
        Scenes(**fields, offset=offset, background=np.zeros(3, np.int64))


def test_only_what_says_something_of_arrays_is_checked():
    vector = Float[np.ndarray, "n"]
    assert array_hint(str) is typing.Any
    assert array_hint(Callable[[Array], Array]) is typing.Any
    assert array_hint(vector) is vector
    assert array_hint(tuple[vector, str]) == tuple[vector, typing.Any]
    assert array_hint(str | vector) == typing.Union[str, vector]  # noqa: UP007
    assert array_hint(dict[str, vector]) == dict[typing.Any, vector]
