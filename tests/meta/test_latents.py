import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_tasks import NETWORK, generate, init_params, make_table, one_task

from hyper_meta.core.types import Examples
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task
from hyper_meta.meta.latents import few_shots, random_subset, stochastic_points
from hyper_meta.meta.learners import latent_learner

LEARNER, LOOP = latent_learner(NETWORK, generate, pull=0.1), InnerLoop(4, 0.05)
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
def _points(params, smallest_share, task, keys):
    return stochastic_points(LEARNER, params, task, keys, LOOP, smallest_share=smallest_share)


@jax.jit
def _adapted(params, task):
    return adapt_task(LEARNER, params, task, LOOP)


@pytest.fixture(scope="module")
def problem():
    return init_params(0), one_task(make_table([(9, 1, 3)]), 0)


def test_each_repeat_adapts_on_its_own_subset(problem):
    params, task = problem
    latents = _points(params, 0.4, task, KEYS[:5])
    subsets = [random_subset(key, task.support.mask, 0.4) for key in KEYS[:5]]
    expected = [
        _adapted(params, task.replace(support=task.support.replace(mask=subset)))
        for subset in subsets
    ]
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.round(latents, 4), axis=0)) == 5


def test_repeats_on_all_examples_are_alike(problem):
    params, task = problem
    latents = _points(params, 1.0, task, KEYS[:3])
    expected = np.tile(_adapted(params, task), (3, 1))
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)


NUM_ANSWERS = 4
# Of answers 0 and 2 one and two examples are there, of 3 none; padding lies between, of any label.
LABEL = np.array([1, 2, 1, 0, 1, 1, 2, 1, 3, 1, 0])
MASK = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0], bool)
AVAILABLE = np.array([1, 6, 2, 0])
WIDTH = len(LABEL)


def _examples():
    """Each example's first feature is its number, so that it is known again; padding is NaN."""
    number = np.where(MASK, np.arange(WIDTH), np.nan)
    return Examples(*map(jnp.asarray, (np.stack([number, -number], axis=1), LABEL, MASK)))


@functools.partial(jax.jit, static_argnums=2)
def _shots(keys, shots, width):
    return jax.vmap(few_shots, (0, None, None, None))(keys, _examples(), shots, width)


def _chosen(examples):
    """For each key the set of the numbers of its examples."""
    features = np.asarray(examples.features)[..., 0]
    rows = [row[kept].tolist() for row, kept in zip(features, examples.mask, strict=True)]
    assert all(len(row) == len(set(row)) for row in rows)
    return [frozenset(row) for row in rows]


@pytest.mark.parametrize("shots", [0, 1, 2, 6, np.iinfo(np.int32).max])
def test_exactly_so_many_of_every_answer_and_never_padding(shots):
    chosen = _shots(KEYS[:50], shots, WIDTH)
    assert not np.isnan(chosen.features[chosen.mask]).any()
    counts = [
        np.bincount(label[kept], minlength=NUM_ANSWERS)
        for label, kept in zip(chosen.label, chosen.mask, strict=True)
    ]
    np.testing.assert_array_equal(counts, np.tile(np.minimum(shots, AVAILABLE), (50, 1)))
    numbers = np.asarray(chosen.features)[..., 0][chosen.mask].astype(int)
    np.testing.assert_array_equal(LABEL[numbers], chosen.label[chosen.mask])
    np.testing.assert_array_equal(chosen.features[chosen.mask][:, 1], -numbers)


def test_fewer_shots_are_among_more():
    by_shots = [_chosen(_shots(KEYS[:50], shots, WIDTH)) for shots in range(8)]
    for fewer, more in zip(by_shots, by_shots[1:], strict=False):
        assert all(few <= many for few, many in zip(fewer, more, strict=True))
    assert len(set(by_shots[2])) > 10  # the draw is random


def test_every_example_of_an_answer_is_equally_likely():
    one = np.array([[n in row for n in range(WIDTH)] for row in _chosen(_shots(KEYS, 1, WIDTH))])
    expected = np.where(MASK, 1 / np.maximum(AVAILABLE, 1)[LABEL], 0)
    error = 5 * np.sqrt(expected * (1 - expected) / len(KEYS))  # five standard errors
    assert (np.abs(one.mean(axis=0) - expected) <= error).all()


@pytest.mark.parametrize("shots, width", [(1, NUM_ANSWERS), (1, 3), (2, 8), (2, 5)])
def test_a_narrow_cut_loses_nothing(shots, width):
    wide, narrow = (_shots(KEYS[:50], shots, w) for w in (WIDTH, width))
    assert narrow.mask.shape == (50, width)
    assert _chosen(narrow) == _chosen(wide)
    # What is kept lies in front.
    np.testing.assert_array_equal(narrow.mask, np.sort(narrow.mask, axis=1)[:, ::-1])
