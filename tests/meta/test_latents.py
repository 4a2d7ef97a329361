import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_tasks import generate, init_params, make_table, task_alone

from hyper_meta.meta.inner_loop import adapt_latent
from hyper_meta.meta.latents import random_subset, stochastic_latents

STEPS = {"num_steps": 4, "learning_rate": 0.05, "pull": 0.1}
KEYS = jax.random.split(jax.random.key(0), 400)


@pytest.mark.parametrize("count, smallest_share", [(12, 0.6), (7, 0.5), (1, 0.1), (0, 0.5)])
def test_a_subset_keeps_its_share_and_nothing_padded(count, smallest_share):
    mask = np.zeros(20, bool)
    mask[np.random.default_rng(count).permutation(20)[:count]] = True
    subsets = jax.jit(jax.vmap(random_subset, (0, None, None)))(KEYS, mask, smallest_share)
    kept = np.asarray(subsets).sum(axis=1)
    assert not np.any(subsets & ~mask)
    assert set(kept) == set(range(int(np.ceil(smallest_share * count)), count + 1))


def test_every_example_is_kept_equally_often():
    mask = np.arange(16) < 10
    subsets = jax.jit(jax.vmap(random_subset, (0, None, None)))(KEYS, mask, 0.5)
    frequency = np.asarray(subsets)[:, mask].mean(axis=0)
    # The share is uniform in [1/2, 1] and rounded up, 0.8 on average; five standard errors.
    np.testing.assert_allclose(frequency, 0.8, atol=5 * np.sqrt(0.8 * 0.2 / len(KEYS)))


@functools.partial(jax.jit, static_argnums=1)
def _latents(params, smallest_share, task, keys):
    return stochastic_latents(
        functools.partial(generate, params["generator"]),
        params["e0"],
        *task,
        keys,
        smallest_share=smallest_share,
        **STEPS,
    )


@jax.jit
def _adapted(params, support, answers, answer_mask):
    generate_one = functools.partial(generate, params["generator"])
    return adapt_latent(generate_one, params["e0"], support, answers, answer_mask, **STEPS)


@pytest.fixture(scope="module")
def problem():
    task = jax.tree.map(lambda x: jnp.asarray(x[0]), task_alone(make_table([(9, 1, 3)]), 0))
    return init_params(0), (task.support, task.answers, task.answer_mask)


def test_each_repeat_adapts_on_its_own_subset(problem):
    params, (support, *answers) = problem
    latents = _latents(params, 0.4, (support, *answers), KEYS[:5])
    subsets = [random_subset(key, support.mask, 0.4) for key in KEYS[:5]]
    expected = [_adapted(params, support.replace(mask=subset), *answers) for subset in subsets]
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.round(latents, 4), axis=0)) == 5


def test_repeats_on_all_examples_are_alike(problem):
    params, task = problem
    latents = _latents(params, 1.0, task, KEYS[:3])
    expected = np.tile(_adapted(params, *task), (3, 1))
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)
