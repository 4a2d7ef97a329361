import jax
import numpy as np
import pytest

from hyper_meta.models.generator import Generator, apply_hidden, split_layers

HIDDEN, OUTPUT, LATENT = (300, 400), 500, 200


@pytest.fixture(scope="module")
def generator():
    module = Generator(HIDDEN, OUTPUT)
    return module, jax.jit(module.init)(jax.random.key(0), np.zeros(LATENT, np.float32))["params"]


def test_layers_start_he_normal_then_gain_one_without_biases(generator):
    _, params = generator
    layers = [params[f"Dense_{i}"] for i in range(3)]
    assert len(params) == 3
    for layer, fan_in, gain in zip(layers, (LATENT, *HIDDEN), (2, 2, 1), strict=True):
        np.testing.assert_array_equal(layer["bias"], 0)
        kernel = np.asarray(layer["kernel"])
        assert kernel.shape[0] == fan_in
        np.testing.assert_allclose(kernel.std(), np.sqrt(gain / fan_in), rtol=0.02)
        assert abs(kernel.mean()) < 0.02 * kernel.std()
    assert layers[-1]["kernel"].shape[1] == OUTPUT


def test_a_normal_latent_gives_weights_of_unit_scale(generator):
    module, params = generator
    latents = np.random.default_rng(0).normal(size=(200, LATENT)).astype(np.float32)
    weights = np.asarray(module.apply({"params": params}, latents))
    np.testing.assert_allclose((weights**2).mean(), 1, rtol=0.1)


def test_output_equals_numpy_on_any_leading_axes(generator):
    module, params = generator
    latents = np.random.default_rng(1).normal(size=(2, 3, LATENT)).astype(np.float32)
    x = latents.astype(np.float64)
    for i in range(3):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        x = x if i == 2 else np.maximum(x, 0)
    np.testing.assert_allclose(module.apply({"params": params}, latents), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hidden_dims", [(), (3,), (3,) * 11])
def test_split_layers_are_those_of_the_module_in_their_order(hidden_dims):
    """Eleven layers: by name, Dense_10 would come before Dense_2."""
    module, latent = Generator(hidden_dims, 5), np.float32([1, -2, 0.5])
    params = module.init(jax.random.key(0), latent)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    hidden, last = split_layers(params)
    assert len(hidden) == len(hidden_dims) and last["kernel"].shape[1] == 5
    code = np.float64(latent)
    for i in range(len(hidden_dims)):
        layer = params[f"Dense_{i}"]
        code = np.maximum(code @ layer["kernel"] + layer["bias"], 0)
    np.testing.assert_allclose(apply_hidden(hidden, latent), code, rtol=1e-4, atol=1e-5)
    expected = module.apply({"params": params}, latent)
    np.testing.assert_allclose(code @ last["kernel"] + last["bias"], expected, rtol=1e-4, atol=1e-4)
