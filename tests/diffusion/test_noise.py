import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.diffusion.noise import (
    SCHEDULES,
    decode_prediction,
    diffuse,
    noise_process,
    prediction_target,
    score,
)


@pytest.mark.parametrize("num_steps", [4, 1000])
def test_cosine_is_the_published_formula_at_both_ends(num_steps, alpha_bar):
    process = noise_process("cosine", num_steps)
    expected = alpha_bar(num_steps)
    assert process.num_steps == num_steps
    assert process.log_alpha_bar.dtype == jnp.float32
    np.testing.assert_allclose(process.alpha_bar, expected, rtol=3e-6)
    np.testing.assert_allclose(process.signal, np.sqrt(expected), rtol=2e-6)
    np.testing.assert_allclose(process.sigma, np.sqrt(1 - expected), rtol=1e-6)
    np.testing.assert_allclose(process.log_snr, np.log(expected / (1 - expected)), atol=5e-6)


def test_cosine_ends_near_1e_minus_9_and_falls(process):
    assert 1e-9 < process.alpha_bar[-1] < 1e-8
    assert np.all(np.diff(process.log_alpha_bar) < 0)
    assert np.all(np.diff(process.log_snr) < 0)


def reference_beta(schedule, num_steps):
    """[S] float64, entry by entry from the published definitions."""
    low, high, values = 1e-4, 0.02, []
    for step in range(num_steps):
        u = step / (num_steps - 1)
        values.append(
            {
                "linear": low + u * (high - low),
                "scaled_linear": (low**0.5 + u * (high**0.5 - low**0.5)) ** 2,
                "sqrt": (low + u * (high - low)) ** 0.5,
                "quartic": (low**0.25 + u * (high**0.25 - low**0.25)) ** 4,
            }[schedule]
        )
    return np.minimum(np.array(values) * 1000 / num_steps, 0.999)


@pytest.mark.parametrize("num_steps", [8, 250, 1000])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "sqrt", "quartic"])
def test_schedules_are_the_published_formulas(schedule, num_steps):
    process = noise_process(schedule, num_steps)
    log_alpha_bar = np.log(1 - reference_beta(schedule, num_steps)).cumsum()
    assert process.num_steps == num_steps and process.log_alpha_bar.dtype == jnp.float32
    np.testing.assert_allclose(process.log_alpha_bar, log_alpha_bar, rtol=2e-7)
    np.testing.assert_allclose(process.signal, np.exp(log_alpha_bar / 2), rtol=1e-5)
    np.testing.assert_allclose(process.sigma, np.sqrt(-np.expm1(log_alpha_bar)), rtol=1e-6)
    assert np.all(np.diff(process.log_alpha_bar) < 0)
    assert np.all(np.isfinite(process.log_snr)) and np.all(process.signal > 0)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "quartic"])
def test_the_noise_in_all_hardly_depends_on_the_number_of_steps(schedule):
    few, many = (noise_process(schedule, n).log_alpha_bar[-1] for n in (250, 1000))
    np.testing.assert_allclose(few, many, rtol=0.03)


def test_noise_process_rejects():
    with pytest.raises(ValueError, match=r"'cosin'.*'cosine', 'linear', 'scaled_linear'"):
        noise_process("cosin", 10)
    for schedule in SCHEDULES:
        with pytest.raises(ValueError, match="num_steps must be 1 or more, got 0"):
            noise_process(schedule, 0)
    # Clipped betas of many steps: alpha_bar ends at e^-421.
    with pytest.raises(ValueError, match="'sqrt' in 100 steps leaves no signal"):
        noise_process("sqrt", 100)


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
