import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.models.hyperclip import HyperCLIP

P, D = 40, 5


@pytest.fixture
def model():
    module = HyperCLIP((7, 6), D)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(P))["params"]
    rng = np.random.default_rng(0)
    return module, jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), shapes)


def test_embedding_equals_numpy_on_any_leading_axes(model):
    module, params = model
    weights = np.random.default_rng(1).normal(size=(2, 3, P)).astype(np.float32)
    x = weights / np.sqrt(P)
    for number in range(3):
        layer = jax.tree.map(np.float64, params[f"layers_{number}"])
        x = x @ layer["kernel"] + layer["bias"]
        x = x if number == 2 else np.log1p(np.exp(x))
    np.testing.assert_allclose(module.apply({"params": params}, weights), x, rtol=1e-4, atol=1e-4)


def test_weights_of_unit_scale_enter_at_unit_scale():
    weights = np.random.default_rng(2).normal(size=500).astype(np.float32)
    params = HyperCLIP((3000,), D).init(jax.random.key(0), weights)["params"]
    first = weights / np.sqrt(500) @ params["layers_0"]["kernel"]
    np.testing.assert_allclose(first.std(), np.sqrt((weights**2).mean()), rtol=0.05)


def test_the_scale_starts_at_that_of_clip_and_stays_below_100(model):
    module, params = model
    started = module.init(jax.random.key(0), jnp.zeros(P))
    np.testing.assert_allclose(module.apply(started, method="scale"), 1 / 0.07, rtol=1e-5)
    for log_scale, expected in ((np.log(99), 99), (np.log(101), 100), (50, 100)):
        changed = params | {"log_scale": jnp.float32(log_scale)}
        scale = module.apply({"params": changed}, method="scale")
        np.testing.assert_allclose(scale, expected, rtol=1e-5)
