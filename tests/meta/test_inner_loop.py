import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import make_adapter
from toy_tasks import (
    ADAPTER_DIM,
    DIM,
    LATENT,
    NETWORK,
    generate,
    init_params,
    make_table,
    numpy_cosines,
    numpy_logits,
    numpy_loss,
    one_task,
)

from hyper_meta.core.types import Examples
from hyper_meta.meta.inner_loop import (
    InnerLoop,
    adapt_and_read,
    adapt_task,
    task_correct,
    task_loss,
)
from hyper_meta.meta.learners import latent_learner

RATE = 0.1

HNET = latent_learner(NETWORK, generate)


@pytest.mark.parametrize("blend", [1.0, 0.3])
def test_loss_and_right_answers_of_a_task_equal_numpy(blend):
    task = one_task(make_table([(9, 2, 4)]), 0)
    weights = generate(init_params(0)["generator"], init_params(0)["e0"])
    examples = task.support
    inputs = (weights, examples, task.answers, task.answer_mask)
    base = numpy_cosines(np.asarray(examples.features), np.asarray(task.answers))
    adapted = numpy_logits(weights, np.asarray(examples.features), np.asarray(task.answers))
    logits = base + blend * (adapted - base)
    loss = jax.jit(functools.partial(task_loss, make_adapter(DIM, ADAPTER_DIM, blend)))(*inputs)
    np.testing.assert_allclose(loss, numpy_loss(logits, np.asarray(examples.label)), rtol=1e-4)
    assert jax.jit(functools.partial(task_correct, make_adapter(DIM, ADAPTER_DIM, blend)))(
        *inputs
    ) == (
        (logits.argmax(axis=1) == examples.label).sum(),
        9,
    )


def _adapt(params, task, num_steps, *, pull=0.0, blend=1.0, start=None):
    """adapt_task of HNet, compiled."""
    learner = latent_learner(make_adapter(DIM, ADAPTER_DIM, blend), generate, pull=pull)
    loop = InnerLoop(num_steps, RATE)
    return jax.jit(lambda *inputs, start: adapt_task(learner, *inputs, loop, start=start))(
        params, task, start=start
    )


def test_a_task_without_examples_has_no_loss_and_stays_where_it_starts():
    params, task = init_params(0), one_task(make_table([(4, 1, 2)]), 0)
    nothing = Examples(jnp.zeros((4, DIM)), jnp.zeros(4, int), jnp.zeros(4, bool))
    weights = generate(params["generator"], params["e0"])
    loss, gradient = jax.jit(jax.value_and_grad(functools.partial(task_loss, NETWORK)))(
        weights, nothing, task.answers, task.answer_mask
    )
    assert loss == 0 and np.all(gradient == 0)
    latent = _adapt(params, task.replace(support=nothing), 3, pull=2.0)
    np.testing.assert_array_equal(latent, params["e0"])


def _path(params, task, num_steps, *, pull=0.0, blend=1.0, start=None):
    """The latents before, between and after steps written out: [num_steps + 1, Z]."""

    network = make_adapter(DIM, ADAPTER_DIM, blend)

    def loss(latent):
        weights = generate(params["generator"], latent)
        return task_loss(network, weights, task.support, task.answers, task.answer_mask)

    gradient_fn = jax.jit(jax.grad(loss))
    latents = [params["e0"] if start is None else start]
    for _ in range(num_steps):
        away = latents[-1] - params["e0"]
        latents.append(latents[-1] - RATE * (gradient_fn(latents[-1]) + pull * away))
    return np.stack(latents)


@pytest.fixture(scope="module")
def problem():
    return init_params(1), one_task(make_table([(8, 3, 3)], seed=1), 0)


@pytest.mark.parametrize("options", [{}, {"pull": 0.7}, {"pull": 5.0}, {"blend": 0.4}], ids=str)
def test_adapted_latents_follow_the_steps_written_out(problem, options):
    """e <- e - lr (dCE/de + pull (e - e_0))."""
    expected = _path(*problem, 5, **options)[-1]
    adapted = _adapt(*problem, 5, **options)
    np.testing.assert_allclose(adapted, expected, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(adapted - problem[0]["e0"]) > 0.01


def test_it_may_start_elsewhere_and_is_still_pulled_to_e0(problem):
    start = np.random.default_rng(3).normal(size=LATENT).astype(np.float32)
    expected = _path(*problem, 4, pull=0.7, start=start)[-1]
    adapted = _adapt(*problem, 4, pull=0.7, start=start)
    np.testing.assert_allclose(adapted, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(adapted - _adapt(*problem, 4, pull=0.7)).max() > 0.1
    np.testing.assert_array_equal(_adapt(*problem, 0, start=start), start)


@pytest.mark.parametrize("steps", [(0,), (1,), (0, 1, 2, 3, 4), (2, 5)])
def test_reading_sees_the_weights_after_the_steps_that_are_asked_for(problem, steps):
    params, task = problem
    learner, loop = latent_learner(NETWORK, generate), InnerLoop(steps[-1], RATE)

    def read(weights):
        return {"weights": weights, "sum": weights.sum()}

    seen = jax.jit(lambda p, t: adapt_and_read(learner, p, t, loop, read, steps=steps))(
        params, task
    )
    path = np.asarray(generate(params["generator"], _path(params, task, steps[-1])))
    np.testing.assert_allclose(seen["weights"], path[list(steps)], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(seen["sum"], path[list(steps)].sum(axis=1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [(2, 1, 4), (0, 0, 4), (0, 3)])
def test_steps_to_read_at_must_increase_and_end_with_the_last(problem, steps):
    params, task = problem
    loop = InnerLoop(4, RATE)
    with pytest.raises(ValueError, match=r"must increase and end with 4"):
        adapt_and_read(
            latent_learner(NETWORK, generate), params, task, loop, lambda w: w, steps=steps
        )


def test_a_vmapped_read_is_computed_only_where_it_is_asked_for(problem):
    """A conditional stays in the program: it is not turned into a choice of two results."""
    params, task = problem
    tasks = jax.tree.map(lambda x: jnp.stack([x, x]), task)

    def scores(task):
        loop = InnerLoop(4, RATE)
        return adapt_and_read(
            latent_learner(NETWORK, generate), params, task, loop, jnp.sum, steps=(2, 4)
        )

    program = str(jax.make_jaxpr(jax.vmap(scores))(tasks))
    assert "cond[" in program
