"""The count of matrix products, against XLA's own count and against formulas."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.workflows.flops import count_products

A, B = jnp.ones((5, 7)), jnp.ones((7, 3))
ONE = 2 * 5 * 7 * 3


def test_a_product_is_counted_as_xla_counts_it():
    def fn(a, b):
        return jnp.einsum("tij,tjk->tik", a, b)

    args = jnp.ones((4, 5, 7)), jnp.ones((4, 7, 3))
    analysis = jax.jit(fn).lower(*args).compile().cost_analysis()
    counted = count_products(fn, *args)
    assert counted.flops == analysis["flops"] == 4 * ONE
    assert counted.bytes == 4 * 4 * (5 * 7 + 7 * 3 + 5 * 3)


def test_the_gradient_of_a_product_is_two_more():
    gradient = jax.grad(lambda a, b: ((a @ b) ** 2).sum(), argnums=(0, 1))
    assert count_products(gradient, A, B).flops == 3 * ONE


def test_loops_count_as_often_as_they_run():
    def fn(a, b):
        def step(carry, _):
            return jax.lax.scan(lambda c, _: (a @ (b + c[:1]), None), carry, None, length=3)

        return jax.lax.scan(step, jnp.zeros((5, 3)), None, length=4)[0]

    assert count_products(jax.jit(fn), A, B).flops == 12 * ONE


def test_what_no_step_changes_counts_once():
    """That XLA takes such a product out of the loop is seen in its program."""

    def fn(a, b):
        def step(carry, _):
            same = jax.jit(jnp.matmul)(a, b)
            return carry + same + carry @ jnp.eye(3), None

        return jax.lax.scan(step, jnp.zeros((5, 3)), None, length=4)[0]

    assert count_products(fn, A, B).flops == ONE + 4 * 2 * 5 * 3 * 3
    program = jax.jit(fn).lower(A, B).compile().as_text()
    entry = program[program.index("ENTRY") :]
    assert "f32[5,7]" in entry and not re.search(r"while[^\n]*f32\[5,7\]", program)


@pytest.mark.parametrize(
    ("shares", "expected"), [(None, 2), ([1.0], 1), ([0.25, 0.75], 1.75), ([0, 0, 1.0], 0)]
)
def test_branches_count_by_their_shares_or_the_most_expensive(shares, expected):
    branches = [lambda a, b: a @ b, lambda a, b: a @ b @ jnp.eye(3) * 1, lambda a, b: a[:, :3]]

    def fn(index, a, b):
        return jax.lax.switch(index, branches, a, b)

    args = jnp.ones((5, 3)), jnp.ones((3, 3))
    shares = None if shares is None else np.array(shares)
    assert count_products(fn, 0, *args, branches=shares).flops == expected * 2 * 5 * 3 * 3


def test_shapes_are_enough():
    shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (A, B))
    assert count_products(jnp.matmul, *shapes).flops == ONE
