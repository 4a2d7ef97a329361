import jax
import numpy as np
import pytest
from adapters import num_weights

from hyper_meta.models.film import Film
from hyper_meta.networks.adapter import adapt_features
from hyper_meta.networks.film import film_weights

DIM, ADAPTER_DIM, HIDDEN = 6, 4, (5, 3)


@pytest.fixture
def problem():
    """(module, its untrained parameters, an adapter [P], a question [D], images [N, D])."""
    rng = np.random.default_rng(0)
    sizes = num_weights(DIM, ADAPTER_DIM), DIM, (7, DIM)
    adapter, question, images = (rng.normal(size=size).astype(np.float32) for size in sizes)
    module = Film(HIDDEN, ADAPTER_DIM)
    return module, module.init(jax.random.key(0), question)["params"], adapter, question, images


def film_by_hand(params, question):
    """(scale [H], shift [H]) in float64."""
    x = np.float64(question)
    for layer in range(len(HIDDEN)):
        dense = params[f"Dense_{layer}"]
        x = np.maximum(x @ dense["kernel"] + dense["bias"], 0)
    last = params[f"Dense_{len(HIDDEN)}"]
    x = x @ last["kernel"] + last["bias"]
    return 1 + x[:ADAPTER_DIM], x[ADAPTER_DIM:]


def adapted_by_hand(adapter, scale, shift, images):
    """x + W2 relu(scale (W1 x / sqrt(D) + b1) + shift) / sqrt(H) + b2 in float64."""
    size = DIM * ADAPTER_DIM
    w1, b1, w2, b2 = np.split(np.float64(adapter), [size, size + ADAPTER_DIM, -DIM])
    units = images @ w1.reshape(DIM, ADAPTER_DIM) / np.sqrt(DIM) + b1
    hidden = np.maximum(scale * units + shift, 0)
    return images + hidden @ w2.reshape(ADAPTER_DIM, DIM) / np.sqrt(ADAPTER_DIM) + b2


def test_it_scales_and_shifts_the_hidden_units(problem):
    module, params, adapter, question, images = problem
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    scale, shift = module.apply({"params": params}, question)
    for actual, expected in zip((scale, shift), film_by_hand(params, question), strict=True):
        assert actual.shape == (ADAPTER_DIM,)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert min(scale) < 0 < max(scale)  # a negative scale turns a unit around before the ReLU
    y = adapt_features(film_weights(adapter, scale, shift, DIM), images)
    expected = adapted_by_hand(adapter, np.float64(scale), np.float64(shift), images)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    plain = adapted_by_hand(adapter, 1.0, 0.0, images)
    assert np.abs(expected - plain).max() > 0.1


def test_untrained_it_leaves_the_adapter_as_it_is(problem):
    module, params, adapter, question, images = problem
    scale, shift = module.apply({"params": params}, np.stack([question, -question]))
    np.testing.assert_array_equal(scale, np.ones((2, ADAPTER_DIM)))
    np.testing.assert_array_equal(shift, np.zeros((2, ADAPTER_DIM)))
    np.testing.assert_array_equal(film_weights(adapter, scale[0], shift[0], DIM), adapter)
