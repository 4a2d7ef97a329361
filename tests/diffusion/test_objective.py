import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.noise import noise_process
from hyper_meta.diffusion.objective import Denoising, denoising_loss


def make_batch(size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "z0": jnp.asarray(rng.normal(size=(size, 3)), jnp.float32),
        "condition": SentenceFeatures(jnp.asarray(rng.normal(size=(size, 4)), jnp.float32)),
        "mask": jnp.ones(size, bool),
        "keys": jax.random.split(jax.random.key(seed), size),
    }


def linear(params):
    """A predict_fn that uses every input."""

    def predict_fn(z_t, t, condition, keep):
        condition = jnp.where(keep[:, None], condition.pooled, 0)
        return z_t @ params["z"] + condition @ params["q"] + params["t"] * t[:, None] / 1000

    return predict_fn


def linear_params():
    rng = np.random.default_rng(9)
    return {
        "z": jnp.asarray(rng.normal(size=(3, 3)), jnp.float32),
        "q": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
        "t": jnp.float32(0.3),
    }


@functools.partial(jax.jit, static_argnames="prediction")
def recorded(process, batch, *, drop_rate, prediction="eps", output=0.0):
    """(sum, count) and the arguments the network was given, for a network of constant output."""
    seen = {}

    def predict_fn(z_t, t, condition, keep):
        seen.update(z_t=z_t, t=t, condition=condition, keep=keep)
        return jnp.full_like(z_t, output)

    loss = denoising_loss(predict_fn, Denoising(process, prediction, drop_rate), **batch)
    return loss, seen


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_loss_by_hand(process, alpha_bar, prediction):
    batch = make_batch(16)
    (total, count), seen = recorded(
        process, batch, drop_rate=0.2, prediction=prediction, output=0.5
    )
    ab = alpha_bar(1000)[seen["t"]][:, None]
    z0 = np.asarray(batch["z0"], np.float64)
    eps = (np.asarray(seen["z_t"], np.float64) - np.sqrt(ab) * z0) / np.sqrt(1 - ab)
    targets = {"eps": eps, "v": np.sqrt(ab) * eps - np.sqrt(1 - ab) * z0}
    expected = np.sum(np.mean((0.5 - targets[prediction]) ** 2, axis=1))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert count == 16
    np.testing.assert_array_equal(seen["condition"].pooled, batch["condition"].pooled)


def random_metrics(size, rank=2):
    """[B, Z, Z] float64, positive semi-definite and not of full rank."""
    roots = np.random.default_rng(4).normal(size=(size, 3, rank))
    return roots @ roots.transpose(0, 2, 1)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_loss_in_a_metric_by_hand(process, alpha_bar, prediction):
    metric = random_metrics(16)
    batch = make_batch(16) | {"metric": jnp.asarray(metric, jnp.float32)}
    (total, count), seen = recorded(
        process, batch, drop_rate=0.2, prediction=prediction, output=0.5
    )
    ab = alpha_bar(1000)[seen["t"]][:, None]
    z0 = np.asarray(batch["z0"], np.float64)
    eps = (np.asarray(seen["z_t"], np.float64) - np.sqrt(ab) * z0) / np.sqrt(1 - ab)
    target = {"eps": eps, "v": np.sqrt(ab) * eps - np.sqrt(1 - ab) * z0}[prediction]
    expected = sum(d @ m @ d / 3 for d, m in zip(0.5 - target, metric, strict=True))
    assert total.shape == () and count == 16
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_the_identity_is_no_metric(process):
    def loss(params, batch):
        return denoising_loss(linear(params), Denoising(process, "v", 0.3), **batch)[0]

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    batch = make_batch(12)
    plain = value_and_grad(linear_params(), batch)
    metric = value_and_grad(linear_params(), batch | {"metric": jnp.tile(jnp.eye(3), (12, 1, 1))})
    for left, right in zip(jax.tree.leaves(metric), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_steps_are_uniform_and_noise_is_standard_and_drops_come_at_their_rate():
    size, steps = 40_000, 8
    process = noise_process("cosine", steps)
    batch = make_batch(size) | {"z0": jnp.zeros((size, 3))}
    for drop_rate, kept in ((0.0, True), (1.0, False)):
        _, seen = recorded(process, batch, drop_rate=drop_rate)
        assert np.all(np.asarray(seen["keep"]) == kept)
    _, seen = recorded(process, batch, drop_rate=0.2)
    frequency = np.bincount(seen["t"], minlength=steps) / size
    np.testing.assert_allclose(frequency, 1 / steps, atol=5 * np.sqrt(1 / steps / size))
    noise = np.asarray(seen["z_t"] / process.sigma[seen["t"]][:, None])
    np.testing.assert_allclose(noise.mean(0), 0, atol=5 / np.sqrt(size))
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=5 * np.sqrt(2 / size))
    assert abs(np.mean(~seen["keep"]) - 0.2) < 5 * np.sqrt(0.2 * 0.8 / size)
    correlation = np.corrcoef(np.stack([seen["t"], seen["keep"], noise[:, 0]]))
    np.testing.assert_allclose(correlation, np.eye(3), atol=5 / np.sqrt(size))


@pytest.mark.parametrize("in_metric", [False, True])
def test_masked_rows_change_nothing_even_when_nan(process, in_metric):
    batch = make_batch(12)
    if in_metric:
        batch["metric"] = jnp.asarray(random_metrics(12), jnp.float32)
    kept = np.array([0, 3, 4, 8, 11])
    mask = np.zeros(12, bool)
    mask[kept] = True
    spoiled = batch | {
        "z0": jnp.where(mask[:, None], batch["z0"], jnp.nan),
        "condition": SentenceFeatures(jnp.where(mask[:, None], batch["condition"].pooled, jnp.nan)),
        "mask": jnp.asarray(mask),
    }
    if in_metric:
        spoiled["metric"] = jnp.where(mask[:, None, None], batch["metric"], jnp.nan)
    compact = jax.tree.map(lambda array: array[kept], batch)

    def loss(params, batch):
        return denoising_loss(linear(params), Denoising(process, "v", 0.3), **batch)

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (padded_sum, padded_count), padded_grad = value_and_grad(linear_params(), spoiled)
    (exact_sum, exact_count), exact_grad = value_and_grad(linear_params(), compact)
    assert padded_count == exact_count == 5
    np.testing.assert_allclose(padded_sum, exact_sum, rtol=1e-6)
    for padded, exact in zip(
        jax.tree.leaves(padded_grad), jax.tree.leaves(exact_grad), strict=True
    ):
        np.testing.assert_allclose(padded, exact, rtol=1e-5, atol=1e-6)


def test_all_masked_is_zero_over_zero(process):
    batch = make_batch(8) | {"mask": jnp.zeros(8, bool), "z0": jnp.full((8, 3), jnp.nan)}
    (total, count), _ = recorded(process, batch, drop_rate=0.2)
    assert total == 0 and count == 0


def test_splitting_the_batch_changes_nothing(process):
    batch = make_batch(16)
    _, whole = recorded(process, batch, drop_rate=0.3)
    halves = [
        jax.tree.map(lambda a, rows=rows: a[rows], batch) for rows in np.split(np.arange(16), 2)
    ]
    parts = [recorded(process, half, drop_rate=0.3) for half in halves]
    for name, value in whole.items():
        joined = jax.tree.map(lambda *x: np.concatenate(x), *[seen[name] for _, seen in parts])
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), joined, value)
    (total, count), _ = recorded(process, batch, drop_rate=0.3)
    np.testing.assert_allclose(sum(loss[0] for loss, _ in parts), total, rtol=1e-6)
    assert sum(loss[1] for loss, _ in parts) == count


def test_gradient_of_a_constant_predictor_is_known(process):
    batch = make_batch(32)

    @jax.jit
    def loss(constant):
        def predict_fn(z_t, t, condition, keep):
            return jnp.broadcast_to(constant, z_t.shape)

        total, count = denoising_loss(predict_fn, Denoising(process, "eps", 0.2), **batch)
        return total / count

    # The loss is mean_b mean_z (c - eps)^2, so at c = 0 and c = 1 its values give mean(eps).
    mean_eps = (1 - (loss(1.0) - loss(0.0))) / 2
    np.testing.assert_allclose(jax.grad(loss)(0.3), 2 * (0.3 - mean_eps), rtol=1e-4)
    start = jnp.float32(0.3)
    assert loss(start - 0.1 * jax.grad(loss)(start)) < loss(start)


def test_the_exact_denoiser_of_a_gaussian_reaches_the_bayes_error(process, alpha_bar):
    # z0 ~ N(0, 4 I): E[eps | z] = sigma z / (4 ab + 1 - ab), and the error left is
    # Var(eps | z) = 4 ab / (4 ab + 1 - ab), averaged over uniform steps.
    batch = make_batch(40_000)
    batch["z0"] = 2 * batch["z0"]
    ab = alpha_bar(1000)

    def predict_fn(z_t, t, condition, keep):
        gain = jnp.asarray(np.sqrt(1 - ab) / (4 * ab + 1 - ab), jnp.float32)
        return gain[t][:, None] * z_t

    @jax.jit
    def loss(factor):
        total, count = denoising_loss(
            lambda *inputs: factor * predict_fn(*inputs),
            Denoising(process, "eps", 0.2),
            **batch,
        )
        return total / count

    bayes_error = np.mean(4 * ab / (4 * ab + 1 - ab))
    np.testing.assert_allclose(loss(1.0), bayes_error, rtol=0.02)
    assert loss(0.9) > loss(1.0) and loss(1.1) > loss(1.0)


def test_unknown_prediction(process):
    with pytest.raises(ValueError, match="unknown prediction"):
        recorded(process, make_batch(2), drop_rate=0.2, prediction="z0")
