import dataclasses
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
    as_float64,
    generate,
    init_params,
    make_table,
    numpy_cosines,
    numpy_logits,
    task_alone,
)

from hyper_meta.core.losses import cross_entropy_sum
from hyper_meta.core.types import Examples
from hyper_meta.meta import fisher as fisher_module
from hyper_meta.meta.fisher import fisher_information, standardised_metric


@pytest.fixture(scope="module")
def problem():
    """(params, one task without its axis T), all directions of the latent alive."""
    task = task_alone(make_table([(7, 2, 4)], seed=2), 0)
    return init_params(5), jax.tree.map(lambda x: np.asarray(x)[0], task)


def log_probabilities(params, latent, task, blend=1.0):
    """[N, A] float64 in numpy, from weights that the generator makes in float64."""
    weights = generate(params["generator"], jnp.asarray(latent))
    support, answers = task.support, np.asarray(task.answers, np.float64)
    adapted = numpy_logits(np.asarray(weights), np.asarray(support.features), answers)
    base = numpy_cosines(np.asarray(support.features), answers)
    logits = base + blend * (adapted - base)
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))


def information(params, task, network=NETWORK):
    weights_fn = functools.partial(generate, params["generator"])
    return jax.jit(lambda e, task: fisher_information(network, weights_fn, e, task))(
        params["e0"], task
    )


@pytest.mark.parametrize("blend", [1.0, 0.4])
@pytest.mark.parametrize("directions", [1, 3, 16])
def test_fisher_is_the_definition_by_finite_differences(problem, monkeypatch, directions, blend):
    monkeypatch.setattr(fisher_module, "DIRECTIONS", directions)
    with jax.enable_x64(True):
        params, task = as_float64(problem)
        steps = 1e-6 * np.eye(LATENT)
        ahead, behind = (
            np.stack([log_probabilities(params, params["e0"] + h, task, blend) for h in signed])
            for signed in (steps, -steps)
        )
        slopes = (ahead - behind) / 2e-6
        p = np.exp(log_probabilities(params, params["e0"], task, blend))
        expected = np.zeros((LATENT, LATENT))
        for n in range(p.shape[0]):
            for a in range(p.shape[1]):
                slope = slopes[:, n, a]
                expected += p[n, a] * np.outer(slope, slope) / p.shape[0]
        actual = information(params, task, make_adapter(DIM, ADAPTER_DIM, blend))
    assert actual.shape == (LATENT, LATENT) and np.trace(expected) > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * np.trace(expected))


def test_fisher_is_the_hessian_of_the_expected_cross_entropy(problem):
    """Labels drawn from the network itself: the Hessian of -sum_a p_a log p_a(e), p held."""
    with jax.enable_x64(True):
        params, task = as_float64(problem)

        def cross_entropies(latent):
            weights = generate(params["generator"], latent)
            features, answers = task.support.features, task.answers
            return -jax.nn.log_softmax(NETWORK.logits(weights, features, answers, task.answer_mask))

        hessians = jax.jit(jax.hessian(cross_entropies))(params["e0"])
        p = np.exp(log_probabilities(params, params["e0"], task))
        expected = np.einsum("na,naij->ij", p, hessians) / len(p)
        assert np.trace(expected) > 0.1
        np.testing.assert_allclose(information(params, task), expected, rtol=1e-8, atol=1e-8)


def test_fisher_is_positive_semi_definite_where_the_hessian_is_not(problem):
    params, task = problem
    fisher = np.asarray(information(params, task), np.float64)
    np.testing.assert_allclose(fisher, fisher.T, rtol=1e-5, atol=1e-4)
    assert np.linalg.eigvalsh(fisher).min() > -1e-6 * np.trace(fisher)

    def loss(latent):
        weights = generate(params["generator"], latent)
        logits = NETWORK.logits(weights, task.support.features, task.answers, task.answer_mask)
        return cross_entropy_sum(logits, task.support.label, task.support.mask)[0]

    hessian = jax.jit(jax.hessian(loss))(params["e0"])
    assert np.linalg.eigvalsh(hessian).min() < -1e-3 * np.abs(hessian).max()


@pytest.mark.parametrize("filling", [0.0, 1.0, np.nan])
def test_padding_changes_nothing(problem, filling):
    params, task = problem
    rows, columns = np.zeros((3, DIM), np.float32), np.zeros((2, DIM), np.float32)
    support = Examples(
        np.concatenate([task.support.features, rows + filling]),
        np.concatenate([task.support.label, np.zeros(3, int)]),
        np.concatenate([task.support.mask, np.zeros(3, bool)]),
    )
    padded = task.replace(
        support=support,
        answers=np.concatenate([task.answers, columns]),
        answer_mask=np.concatenate([task.answer_mask, np.zeros(2, bool)]),
    )
    exact, actual = information(params, task), information(params, padded)
    np.testing.assert_allclose(actual, exact, rtol=1e-4, atol=1e-5 * np.trace(exact))


def test_a_task_without_examples_has_no_information_and_many_tasks_go_at_once(problem):
    params, task = problem
    empty = task.replace(
        support=dataclasses.replace(task.support, mask=np.zeros_like(task.support.mask))
    )
    pair = jax.tree.map(lambda *x: np.stack(x), task, empty)
    weights_fn = functools.partial(generate, params["generator"])
    both = jax.jit(
        jax.vmap(lambda task: fisher_information(NETWORK, weights_fn, params["e0"], task))
    )(pair)
    np.testing.assert_array_equal(both[1], 0)
    exact = information(params, task)
    np.testing.assert_allclose(both[0], exact, rtol=1e-4, atol=1e-5 * np.trace(exact))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_metric_of_standardised_latents(share):
    """A step dz is a step std dz of the latent, so dz^T F_s dz is de^T F de."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 2))
    fisher, std, step = root @ root.T, rng.uniform(0.1, 3, size=4), rng.normal(size=4)
    metric = standardised_metric(jnp.asarray(fisher), jnp.asarray(std), share=share)
    np.testing.assert_allclose(np.trace(metric), 4, rtol=1e-5)
    trace = sum(fisher[i, i] * std[i] ** 2 for i in range(4))
    length = (std * step) @ fisher @ (std * step) * 4 / trace
    expected = share * length + (1 - share) * step @ step
    np.testing.assert_allclose(step @ metric @ step, expected, rtol=1e-4)


def test_metric_without_information_is_the_identity():
    metric = standardised_metric(jnp.zeros((3, 3)), jnp.ones(3), share=0.7)
    np.testing.assert_allclose(metric, np.eye(3), rtol=1e-6)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_metric_rejects_a_share_that_is_none(share):
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\]"):
        standardised_metric(jnp.eye(3), jnp.ones(3), share=share)
