import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_tasks import (
    DIM,
    generate,
    init_params,
    make_table,
    numpy_logits,
    numpy_loss,
    task_alone,
)

from hyper_meta.meta.inner_loop import adapt, adapt_latent, task_correct, task_loss
from hyper_meta.types import Examples

RATE = 0.1


@pytest.fixture
def quadratic():
    """1/2 (e - c)^T A (e - c) with A positive definite: (A, c, start)."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    return np.float32(root @ root.T), *rng.normal(size=(2, 3)).astype(np.float32)


def _adapt(matrix, centre, start, **options):
    def loss_fn(e):
        return 0.5 * (e - centre) @ matrix @ (e - centre)

    return adapt(loss_fn, start, learning_rate=RATE, **options)


@pytest.mark.parametrize("num_steps", [0, 1, 10])
@pytest.mark.parametrize("first_order", [False, True])
def test_on_a_quadratic_adaptation_has_its_closed_form(quadratic, num_steps, first_order):
    """e_n = c + (I - lr A)^n (e_0 - c); its derivative in e_0 is (I - lr A)^n, or I for FOMAML."""
    matrix, centre, start = quadratic
    power = np.linalg.matrix_power(np.eye(3) - RATE * matrix, num_steps)
    options = {"num_steps": num_steps, "first_order": first_order}
    end = _adapt(matrix, centre, start, **options)
    np.testing.assert_allclose(end, centre + power @ (start - centre), rtol=1e-4, atol=1e-5)
    jacobian = jax.jacobian(lambda e: _adapt(matrix, centre, e, **options))(start)
    expected = np.eye(3) if first_order else power
    np.testing.assert_allclose(jacobian, expected, rtol=1e-4, atol=1e-5)


def test_adaptation_is_differentiable_in_what_the_loss_closes_over(quadratic):
    matrix, centre, start = quadratic
    power = np.linalg.matrix_power(np.eye(3) - RATE * matrix, 4)
    jacobian = jax.jacobian(lambda c: _adapt(matrix, c, start, num_steps=4))(centre)
    np.testing.assert_allclose(jacobian, np.eye(3) - power, rtol=1e-4, atol=1e-5)


def test_loss_and_right_answers_of_a_task_equal_numpy():
    task = task_alone(make_table([(9, 2, 4)]), 0)
    weights = generate(init_params(0)["generator"], init_params(0)["e0"])
    examples = jax.tree.map(lambda x: x[0], task.support)
    inputs = (weights, examples, task.answers[0], task.answer_mask[0])
    logits = numpy_logits(weights, examples.features, task.answers[0])
    loss = jax.jit(task_loss)(*inputs)
    np.testing.assert_allclose(loss, numpy_loss(logits, examples.label), rtol=1e-4)
    assert jax.jit(task_correct)(*inputs) == (
        (logits.argmax(axis=1) == examples.label).sum(),
        9,
    )


def _adapt_latent(params, *inputs, **options):
    """adapt_latent from e0."""

    def run(params, *inputs):
        generate_one = functools.partial(generate, params["generator"])
        return adapt_latent(generate_one, params["e0"], *inputs, learning_rate=RATE, **options)

    return jax.jit(run)(params, *inputs)


def test_a_task_without_examples_has_no_loss_and_stays_where_it_starts():
    params = init_params(0)
    nothing = Examples(jnp.zeros((4, DIM)), jnp.zeros(4, int), jnp.zeros(4, bool))
    answers, mask = jnp.ones((2, DIM)), jnp.ones(2, bool)
    weights = generate(params["generator"], params["e0"])
    loss, gradient = jax.jit(jax.value_and_grad(task_loss))(weights, nothing, answers, mask)
    assert loss == 0 and np.all(gradient == 0)
    latent = _adapt_latent(params, nothing, answers, mask, num_steps=3, pull=2.0)
    np.testing.assert_array_equal(latent, params["e0"])


@pytest.mark.parametrize("pull", [0.0, 0.7, 5.0])
def test_adapted_latents_follow_the_steps_written_out(pull):
    """e <- e - lr (dCE/de + pull (e - e_0))."""
    params, task = init_params(1), task_alone(make_table([(8, 1, 3)], seed=1), 0)
    inputs = jax.tree.map(lambda x: x[0], (task.support, task.answers, task.answer_mask))

    def generate_one(e):
        return generate(params["generator"], e)

    gradient_fn = jax.jit(jax.grad(lambda e: task_loss(generate_one(e), *inputs)))
    latent = start = params["e0"]
    for _ in range(5):
        latent = latent - RATE * (gradient_fn(latent) + pull * (latent - start))
    adapted = _adapt_latent(params, *inputs, num_steps=5, pull=pull)
    np.testing.assert_allclose(adapted, latent, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(adapted - start) > 0.01
