"""What the inner loop moves, against SGD written out over plain pytrees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import num_weights
from toy_tasks import ADAPTER_DIM, DIM, NETWORK, as_float64, make_table, one_task

from hyper_meta.meta.inner_loop import InnerLoop, adapt_task, task_loss
from hyper_meta.meta.learners import fixed_learner, generator_learner, weights_learner
from hyper_meta.models.generator import Generator
from hyper_meta.models.sentences import take

RATE = 0.1
SIZE = num_weights(DIM, ADAPTER_DIM)
close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10)


@pytest.fixture
def quadratic():
    """1/2 (w - c)^T A (w - c) with A positive definite: (A, c, start)."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    return np.float32(root @ root.T), *rng.normal(size=(2, 3)).astype(np.float32)


def _descend(matrix, centre, start, *, num_steps, first_order=False):
    """Steps of MNet, whose point is the weights themselves, on that quadratic."""
    learner, params = weights_learner(NETWORK), {"e0": jnp.zeros(3), "generator": {}}

    def loss_fn(weights):
        return sum(0.5 * (w - centre) @ matrix @ (w - centre) for w in weights)

    points = start[None]
    for _ in range(num_steps):
        points = learner.step(loss_fn, params, None, points, RATE, first_order=first_order)
    return learner.weights(params, None, points[0])


@pytest.mark.parametrize("num_steps", [0, 1, 10])
@pytest.mark.parametrize("first_order", [False, True])
def test_on_a_quadratic_adaptation_has_its_closed_form(quadratic, num_steps, first_order):
    """w_n = c + (I - lr A)^n (w_0 - c); its derivative in w_0 is (I - lr A)^n, or I for FOMAML."""
    matrix, centre, start = quadratic
    power = np.linalg.matrix_power(np.eye(3) - RATE * matrix, num_steps)
    options = {"num_steps": num_steps, "first_order": first_order}
    end = _descend(matrix, centre, start, **options)
    np.testing.assert_allclose(end, centre + power @ (start - centre), rtol=1e-4, atol=1e-5)
    jacobian = jax.jacobian(lambda w: _descend(matrix, centre, w, **options))(start)
    expected = np.eye(3) if first_order else power
    np.testing.assert_allclose(jacobian, expected, rtol=1e-4, atol=1e-5)


def test_adaptation_is_differentiable_in_what_the_loss_closes_over(quadratic):
    matrix, centre, start = quadratic
    power = np.linalg.matrix_power(np.eye(3) - RATE * matrix, 4)
    jacobian = jax.jacobian(lambda c: _descend(matrix, c, start, num_steps=4))(centre)
    np.testing.assert_allclose(jacobian, np.eye(3) - power, rtol=1e-4, atol=1e-5)


def _prepare(question):
    return 2 * question.pooled - 1


def _random_params(module, seed):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(DIM))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape), shapes)


def _plain_sgd(weights_of, params, task, num_steps, first_order):
    """SGD on every leaf of params, each kept in full."""

    def support_loss(params):
        return task_loss(NETWORK, weights_of(params), task.support, task.answers, task.answer_mask)

    for _ in range(num_steps):
        gradient = jax.grad(support_loss)(params)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        params = jax.tree.map(lambda leaf, g: leaf - RATE * g, params, gradient)
    return params


def _meta_gradients(learner, weights_of, params, task, loop):
    """(weights after adaptation, gradient of the query loss there): the learner's, plain SGD's."""

    def query_loss(weights):
        return task_loss(NETWORK, weights, task.query, task.answers, task.answer_mask), weights

    def ours(params):
        point = adapt_task(learner, params, task, loop)
        return query_loss(learner.weights(params, task.question, point))

    def theirs(params):
        moved = _plain_sgd(weights_of, params, task, loop.num_steps, loop.first_order)
        return query_loss(weights_of(moved))

    def both(params):
        return [jax.grad(objective, has_aux=True)(params)[::-1] for objective in (ours, theirs)]

    return jax.jit(both)(params)


@pytest.mark.parametrize(
    "hidden_dims, num_steps, first_order",
    [((), 2, False), ((6, 5), 0, False), ((6, 5), 3, False), ((6, 5), 3, True)],
    ids=str,
)
def test_rank_one_steps_are_sgd_on_all_weights_of_the_generator(
    hidden_dims, num_steps, first_order
):
    """Weights after the steps, and the meta-gradient of second and of first order, in float64."""
    with jax.enable_x64(True):
        module = Generator(hidden_dims, SIZE)
        params, task = as_float64((_random_params(module, 1), one_task(make_table([(7, 5, 3)]), 0)))

        def weights_of(params):
            return module.apply({"params": params}, _prepare(task.question))

        loop = InnerLoop(num_steps, RATE, first_order)
        ours, theirs = _meta_gradients(
            generator_learner(NETWORK, _prepare), weights_of, params, task, loop
        )
        assert ours[0].dtype == jnp.float64
        jax.tree.map(close, ours, theirs)
        moved = np.abs(theirs[0] - jax.jit(weights_of)(params)).max()
        assert (moved > 0.01) == (num_steps > 0)


@pytest.mark.parametrize("num_steps, first_order", [(3, False), (3, True)])
def test_mnet_is_sgd_on_the_adapter(num_steps, first_order):
    with jax.enable_x64(True):
        start = np.random.default_rng(2).normal(size=SIZE)
        params = {"e0": start, "generator": {}}
        params, task = as_float64((params, one_task(make_table([(7, 5, 3)]), 0)))
        loop = InnerLoop(num_steps, RATE, first_order)
        ours, theirs = _meta_gradients(
            weights_learner(NETWORK), lambda params: params["e0"], params, task, loop
        )
        jax.tree.map(close, ours, theirs)
        assert np.abs(ours[0] - start).max() > 0.01


def test_the_learning_rate_may_be_traced_and_is_that_of_each_step():
    """Two steps at rate r from one step's point at another rate: no rate is fixed at the start."""
    with jax.enable_x64(True):
        module = Generator((6,), SIZE)
        params, task = as_float64((_random_params(module, 1), one_task(make_table([(7, 5, 3)]), 0)))
        learner = generator_learner(NETWORK, _prepare)

        def weights_of(params):
            return module.apply({"params": params}, _prepare(task.question))

        def loss_fn(weights):
            return task_loss(NETWORK, weights, task.support, task.answers, task.answer_mask)

        @jax.jit
        def both(rates):
            start, moved = learner.start(params, task.question, 2), params
            points = jax.tree.map(lambda x: x[None], start)
            for rate in rates:
                inputs = lambda w: loss_fn(w[0]), params, take(task.question, None), points, rate
                points = learner.step(*inputs, first_order=False)
                gradient = jax.grad(lambda p: loss_fn(weights_of(p)))(moved)
                moved = jax.tree.map(lambda leaf, g: leaf - rate * g, moved, gradient)  # noqa: B023
            point = jax.tree.map(lambda x: x[0], points)
            return learner.weights(params, task.question, point), weights_of(moved)

        close(*both(jnp.array([0.05, 0.2])))


def test_nothing_of_a_fixed_learner_moves():
    task = one_task(make_table([(7, 5, 3)]), 0)
    learner = fixed_learner(NETWORK, lambda params, question: params["w"] * question.pooled.sum())
    params = {"w": jnp.arange(float(SIZE))}
    point = jax.jit(lambda p, t: adapt_task(learner, p, t, InnerLoop(3, RATE)))(params, task)
    weights = learner.weights(params, task.question, point)
    np.testing.assert_allclose(weights, np.arange(SIZE) * np.sum(task.question.pooled), rtol=1e-5)
