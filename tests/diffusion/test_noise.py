import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.diffusion.noise import (
    cosine_process,
    decode_prediction,
    diffuse,
    prediction_target,
    score,
)


@pytest.mark.parametrize("num_steps", [4, 1000])
def test_cosine_process_is_the_published_formula_at_both_ends(num_steps, alpha_bar):
    process = cosine_process(num_steps, offset=0.008, max_beta=0.999)
    expected = alpha_bar(num_steps)
    assert process.num_steps == num_steps
    assert process.log_alpha_bar.dtype == jnp.float32
    np.testing.assert_allclose(process.alpha_bar, expected, rtol=3e-6)
    np.testing.assert_allclose(process.signal, np.sqrt(expected), rtol=2e-6)
    np.testing.assert_allclose(process.sigma, np.sqrt(1 - expected), rtol=1e-6)
    np.testing.assert_allclose(process.log_snr, np.log(expected / (1 - expected)), atol=5e-6)


def test_cosine_process_ends_near_1e_minus_9_and_falls(process):
    assert 1e-9 < process.alpha_bar[-1] < 1e-8
    assert np.all(np.diff(process.log_alpha_bar) < 0)
    assert np.all(np.diff(process.log_snr) < 0)


@pytest.mark.parametrize(
    "wrong", [{"num_steps": 0}, {"offset": -0.1}, {"max_beta": 1.0}, {"max_beta": 0.0}]
)
def test_cosine_process_rejects(wrong):
    arguments = {"num_steps": 10, "offset": 0.008, "max_beta": 0.999} | wrong
    with pytest.raises(ValueError, match="cosine_process expects"):
        cosine_process(**arguments)


@pytest.mark.parametrize("step", [0, 500, 999])
def test_diffuse_has_the_marginal_mean_and_variance(process, alpha_bar, step):
    count, spread = 200_000, 1.5
    z_key, noise_key = jax.random.split(jax.random.key(0))
    z0 = 2.0 + spread * jax.random.normal(z_key, (count, 1))
    noise = jax.random.normal(noise_key, (count, 1))
    z_t = np.asarray(diffuse(process, z0, t=jnp.full(count, step), noise=noise), np.float64)
    ab = alpha_bar(1000)[step]
    variance = ab * spread**2 + 1 - ab
    assert abs(z_t.mean() - 2.0 * np.sqrt(ab)) < 5 * np.sqrt(variance / count)
    assert abs(z_t.var() / variance - 1) < 5 * np.sqrt(2 / count)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_prediction_round_trips_in_float64(process64, prediction):
    process = process64(1000)
    rng = np.random.default_rng(0)
    t = jnp.arange(1000)
    z0, noise = rng.normal(size=(2, 1000, 3))
    z_t = diffuse(process, z0, t=t, noise=noise)
    output = prediction_target(process, z0, t=t, noise=noise, prediction=prediction)
    assert output.dtype == jnp.float64
    decoded, eps = decode_prediction(process, z_t, t=t, output=output, prediction=prediction)
    np.testing.assert_allclose(decoded, z0, atol=1e-10)
    np.testing.assert_allclose(eps, noise, atol=1e-12)


def test_v_is_the_derivative_of_z_in_the_noise_angle(process, alpha_bar):
    # Salimans and Ho 2022, appendix D: z = cos(phi) z0 + sin(phi) eps and v = dz / dphi.
    rng = np.random.default_rng(1)
    z0, noise = rng.normal(size=(2, 1000, 2))
    phi = np.arccos(np.sqrt(alpha_bar(1000)))[:, None]
    h = 1e-5
    ahead, behind = (np.cos(p) * z0 + np.sin(p) * noise for p in (phi + h, phi - h))
    target = prediction_target(process, z0, t=jnp.arange(1000), noise=noise, prediction="v")
    np.testing.assert_allclose(target, (ahead - behind) / (2 * h), atol=1e-5)


def test_only_eps_amplifies_an_error_at_the_last_step(process):
    z_t, t, error = jnp.zeros((1, 1)), jnp.array([999]), jnp.ones((1, 1))
    from_eps, _ = decode_prediction(process, z_t, t=t, output=error, prediction="eps")
    from_v, _ = decode_prediction(process, z_t, t=t, output=error, prediction="v")
    assert abs(from_eps[0, 0]) > 1e4
    assert abs(from_v[0, 0]) <= 1


def test_unknown_prediction_lists_the_known(process):
    z, t = jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match=r"'x0'.*\['eps', 'v'\]"):
        prediction_target(process, z, t=t, noise=z, prediction="x0")
    with pytest.raises(ValueError, match=r"'x0'.*\['eps', 'v'\]"):
        decode_prediction(process, z, t=t, output=z, prediction="x0")


def test_score_is_that_of_the_conditional_gaussian(process64, alpha_bar):
    process = process64(1000)
    rng = np.random.default_rng(2)
    t = np.array([0, 10, 500, 998, 999])
    z0, noise = rng.normal(size=(2, 5, 3))
    z_t = diffuse(process, z0, t=t, noise=noise)
    ab = alpha_bar(1000)[t][:, None]
    expected = -(np.asarray(z_t) - np.sqrt(ab) * z0) / (1 - ab)
    np.testing.assert_allclose(score(process, noise, t=t), expected, rtol=1e-9)


def test_score_is_the_gradient_of_the_log_marginal(process64, alpha_bar):
    process = process64(1000)
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(3, 3))
    mean, covariance = rng.normal(size=3), factor @ factor.T + 0.1 * np.eye(3)
    for step in (0, 300, 999):
        ab = alpha_bar(1000)[step]
        marginal_mean = np.sqrt(ab) * mean
        marginal_covariance = ab * covariance + (1 - ab) * np.eye(3)
        z_t = rng.normal(size=(4, 3))
        # E[eps | z_t] by Gaussian conditioning: Cov(eps, z_t) = sigma I.
        posterior_eps = np.sqrt(1 - ab) * np.linalg.solve(
            marginal_covariance, (z_t - marginal_mean).T
        )
        log_density = jax.scipy.stats.multivariate_normal.logpdf
        gradient = jax.vmap(jax.grad(log_density), (0, None, None))
        np.testing.assert_allclose(
            score(process, posterior_eps.T, t=jnp.full(4, step)),
            gradient(jnp.asarray(z_t), marginal_mean, marginal_covariance),
            rtol=1e-8,
        )
