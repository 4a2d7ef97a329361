import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.models.hvae import WeightsEncoder, hvae_loss, sample_posterior

P, Z, BATCH = 50, 3, 7


@pytest.fixture
def encoder():
    """The module and parameters that all matter, biases included."""
    module = WeightsEncoder((6, 5), Z)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(P))["params"]
    rng = np.random.default_rng(0)
    return module, jax.tree.map(lambda x: np.float32(0.5 * rng.normal(size=x.shape)), shapes)


@pytest.fixture
def rows():
    return np.random.default_rng(1).normal(size=(BATCH, P)).astype(np.float32)


def in_numpy(params, x):
    x = x / np.sqrt(P)
    for name in ("Dense_0", "Dense_1", "Dense_2"):
        layer = jax.tree.map(np.float64, params[name])
        x = x @ layer["kernel"] + layer["bias"]
        x = x if name == "Dense_2" else np.maximum(x, 0)
    return x[:, :Z], x[:, Z:] - 1


def test_posterior_equals_numpy(encoder, rows):
    module, params = encoder
    for value, expected in zip(
        module.apply({"params": params}, rows), in_numpy(params, rows), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_unit_scale_have_hidden_units_of_unit_scale():
    module = WeightsEncoder((2000,), Z)
    x = np.random.default_rng(2).normal(size=500).astype(np.float32)
    params = module.init(jax.random.key(1), x)["params"]
    first = params["Dense_0"]
    hidden = np.maximum(x / np.sqrt(500) @ first["kernel"] + first["bias"], 0)
    np.testing.assert_allclose((hidden**2).mean(), (x**2).mean(), rtol=0.1)


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_loss_equals_numpy_on_the_noise_of_its_keys(encoder, rows, beta):
    """[ ||decode(z) - x||^2 + beta KL ] / sqrt(P) in float64."""
    module, params = encoder
    matrix = np.random.default_rng(3).normal(size=(Z, P))
    keys = jax.random.split(jax.random.key(4), BATCH)
    loss, parts = hvae_loss(
        lambda x: module.apply({"params": params}, x),
        lambda z: jnp.tanh(z @ jnp.float32(matrix)),
        rows,
        beta=beta,
        keys=keys,
    )
    mean, logvar = in_numpy(params, rows)
    noise = np.stack([jax.random.normal(key, (Z,)) for key in keys]).astype(np.float64)
    error = ((np.tanh((mean + np.exp(logvar / 2) * noise) @ matrix) - rows) ** 2).sum(axis=1)
    kl = (np.exp(logvar) + mean**2 - 1 - logvar).sum(axis=1) / 2
    np.testing.assert_allclose(parts["error"], error, rtol=1e-4)
    np.testing.assert_allclose(parts["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(loss, (error + beta * kl) / np.sqrt(P), rtol=1e-4)


def test_samples_have_the_moments_of_the_posterior():
    size = 20_000
    mean, logvar = np.float32([2, -1, 0]), np.float32([0, 1, -2])
    keys = jax.random.split(jax.random.key(0), size)
    tiled = [jnp.tile(x, (size, 1)) for x in (mean, logvar)]
    samples = np.asarray(jax.jit(sample_posterior)(*tiled, keys))
    error = np.exp(logvar / 2) / np.sqrt(size)
    assert (np.abs(samples.mean(axis=0) - mean) < 5 * error).all()
    np.testing.assert_allclose(samples.var(axis=0), np.exp(logvar), rtol=5 * np.sqrt(2 / size))
