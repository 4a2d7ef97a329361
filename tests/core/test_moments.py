"""Means and deviations."""

import jax.numpy as jnp
import numpy as np

from hyper_meta.core.moments import floor_deviation, moments


def test_moments_are_numpys():
    values = np.random.default_rng(0).normal(3, [1, 2, 5], (40, 3)).astype(np.float32)
    mean, std = moments(values)
    np.testing.assert_allclose(mean, np.float64(values).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, np.float64(values).std(axis=0), rtol=1e-5)


def test_what_hardly_varies_is_not_blown_up():
    np.testing.assert_allclose(floor_deviation(np.float32([0, 3, 4])), [0.05 / 3**0.5, 3, 4])
    assert floor_deviation(jnp.zeros(2)).min() > 0
