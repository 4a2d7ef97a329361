import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.models.denoiser import (
    DENOISERS,
    DenoiserV1,
    DenoiserV2,
    denoiser_class,
    time_embedding,
)
from hyper_meta.models.sentences import take

VERSIONS = sorted(DENOISERS)


def make_inputs(batch=5, latent_dim=6, question_dim=7):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(batch, latent_dim)), jnp.float32),
        jnp.asarray(rng.integers(0, 1000, size=batch), jnp.int32),
        SentenceFeatures(jnp.asarray(rng.normal(size=(batch, question_dim)), jnp.float32)),
        jnp.asarray(np.arange(batch) % 2 == 0),
    )


def make_model(version, *, dropout_rate=0.0):
    """The model and variables drawn at random, so that the last layer is not zero."""
    model = denoiser_class(version)(
        latent_dim=6, hidden_dim=16, num_blocks=2, time_dim=10, dropout_rate=dropout_rate
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), *make_inputs())
    rng = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes
    )


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def hidden_layer(x, layer):
    x = dense(x, layer["Dense_0"])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return np.maximum(x * layer["LayerNorm_0"]["scale"] + layer["LayerNorm_0"]["bias"], 0)


def in_numpy(version, params, z, t, condition, keep):
    frequency = 10_000.0 ** -(np.arange(5) / 5)
    angle = np.asarray(t, np.float64)[:, None] * frequency
    condition = np.asarray(condition.pooled) * np.asarray(keep)[:, None]
    context = np.concatenate([condition, np.cos(angle), np.sin(angle)], axis=1)
    if version == "v1":
        x = np.concatenate([z, context], axis=1)
        for i in range(2):
            x = hidden_layer(x, params[f"HiddenLayer_{i}"])
        return dense(x, params["Dense_0"])
    x = np.asarray(z)
    for i in range(2):
        update = hidden_layer(np.concatenate([x, context], axis=1), params[f"HiddenLayer_{i}"])
        x = dense(x, params[f"Dense_{i}"]) + update
    return dense(x, params["Dense_2"])


@pytest.mark.parametrize("version", VERSIONS)
def test_forward_in_numpy(version):
    model, variables = make_model(version)
    output = jax.jit(model.apply)(variables, *make_inputs())
    assert output.shape == (5, 6) and output.dtype == jnp.float32
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    expected = in_numpy(version, params, *make_inputs())
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_starts_at_zero(version):
    model = denoiser_class(version)(latent_dim=6, hidden_dim=16, num_blocks=2)
    output, _ = jax.jit(model.init_with_output)(jax.random.key(0), *make_inputs())
    np.testing.assert_array_equal(output, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dropped_condition_has_no_say_and_a_kept_one_does(version):
    model, variables = make_model(version)
    z, t, condition, keep = make_inputs()
    predict = functools.partial(jax.jit(model.apply), variables, z, t)
    output, pooled = predict(condition, keep), condition.pooled
    other = predict(SentenceFeatures(pooled + 1), keep)
    np.testing.assert_array_equal(np.any(output != other, axis=1), keep)
    spoiled = SentenceFeatures(jnp.where(keep[:, None], pooled, jnp.nan))
    np.testing.assert_array_equal(predict(spoiled, keep), output)
    null = predict(SentenceFeatures(jnp.zeros_like(pooled)), jnp.ones(5, bool))
    np.testing.assert_array_equal(predict(condition, jnp.zeros(5, bool)), null)


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_do_not_touch_each_other(version):
    model, variables = make_model(version)
    inputs = make_inputs()
    predict = jax.jit(model.apply)
    whole = predict(variables, *inputs)
    alone = predict(variables, *take(inputs, slice(2, 3)))
    np.testing.assert_allclose(alone[0], whole[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_dropout_is_off_unless_asked_for_and_a_key_a_row_is_independent_of_the_batch(version):
    model, variables = make_model(version, dropout_rate=0.5)
    plain, _ = make_model(version)
    inputs = make_inputs()
    without_dropout = jax.jit(plain.apply)(variables, *inputs)
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, *inputs), without_dropout)

    def one(key, *row):
        batch = take(row, None)
        return model.apply(variables, *batch, deterministic=False, rngs={"dropout": key})[0]

    keys = jax.random.split(jax.random.key(3), 5)
    predict = jax.jit(jax.vmap(one))
    whole = predict(keys, *inputs)
    part = predict(keys[3:], *take(inputs, slice(3, None)))
    np.testing.assert_allclose(part, whole[3:], rtol=1e-5, atol=1e-5)
    assert np.all(np.any(whole != without_dropout, axis=1))


@pytest.mark.parametrize("version", VERSIONS)
def test_learns_a_function_of_latent_step_and_condition(version):
    model = denoiser_class(version)(latent_dim=6, hidden_dim=32, num_blocks=2)
    z, t, condition, keep = make_inputs(batch=64)
    target = z * jnp.cos(t[:, None] / 200) + jnp.where(keep[:, None], condition.pooled[:, :6], 0)
    params = jax.jit(model.init)(jax.random.key(0), z, t, condition, keep)
    optimizer = optax.adam(1e-2)

    def loss_fn(params):
        return jnp.mean((model.apply(params, z, t, condition, keep) - target) ** 2)

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    run = jax.jit(functools.partial(jax.lax.scan, step, length=300))
    _, losses = run((params, optimizer.init(params)))
    assert losses[-1] < 0.1 * losses[0]


def test_time_embedding_is_cosines_then_sines_at_falling_frequencies():
    t = jnp.array([0, 1, 7, 999])
    embedding = np.asarray(time_embedding(t, dim=100))
    assert embedding.shape == (4, 100) and embedding.dtype == np.float32
    frequency = np.array([10_000 ** (-i / 50) for i in range(50)])
    angle = np.array([0, 1, 7, 999])[:, None] * frequency
    np.testing.assert_allclose(embedding[:, :50], np.cos(angle), atol=1e-4)
    np.testing.assert_allclose(embedding[:, 50:], np.sin(angle), atol=1e-4)
    with pytest.raises(ValueError, match="even"):
        time_embedding(t, dim=5)


def test_versions():
    assert denoiser_class("v1") is DenoiserV1 and denoiser_class("v2") is DenoiserV2
    with pytest.raises(ValueError, match=r"'v3'.*\['v1', 'v2'\]"):
        denoiser_class("v3")
