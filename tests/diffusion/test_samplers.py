import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
from gaussian_laws import assert_moments, diffused_law, exact_eps, reverse_map

from hyper_meta.diffusion.noise import decode_prediction, diffuse, noise_process
from hyper_meta.diffusion.samplers import (
    Noise,
    clip_denoised,
    ddim_sample,
    ddpm_sample,
    from_latents,
    from_noise,
    reverse_coefficients,
    strided_times,
)

MEAN = np.array([1.0, -2.0, 0.5])
_ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
_VARIANCES = np.array([0.3, 1.0, 3.0])
COVARIANCE = _ROTATION @ np.diag(_VARIANCES) @ _ROTATION.T


def gaussian_denoiser(process, alpha_bar, *, prediction):
    """The exact denoise_fn of N(MEAN, COVARIANCE), through a network of this prediction."""
    ab = alpha_bar(process.num_steps)[:, None, None]
    precision = np.linalg.inv(ab * COVARIANCE + (1 - ab) * np.eye(3))
    eps_gain = np.sqrt(1 - ab) * precision
    v_gain = np.sqrt(ab) * eps_gain - np.sqrt(1 - ab) * np.sqrt(ab) * COVARIANCE @ precision
    gain = jnp.asarray({"eps": eps_gain, "v": v_gain}[prediction], jnp.float32)
    offset = {"eps": 0 * ab[:, 0] * MEAN, "v": -np.sqrt(1 - ab[:, 0]) * MEAN}[prediction]
    offset = jnp.asarray(offset, jnp.float32)
    centre = jnp.asarray(np.sqrt(ab[:, 0]) * MEAN, jnp.float32)

    def denoise_fn(z_t, t):
        output = jnp.einsum("bij,bj->bi", gain[t], z_t - centre[t]) + offset[t]
        return decode_prediction(process, z_t, t=t, output=output, prediction=prediction)

    return denoise_fn


def gaussian_map(alpha_bar, times, **options):
    """What the reverse process does with the exact denoiser of N(MEAN, COVARIANCE)."""
    return reverse_map(alpha_bar, times, lambda ab: exact_eps(ab, MEAN, COVARIANCE), **options)


def begin(process, count, seed):
    """The start of `count` samples in three dimensions from noise."""
    keys = jax.random.split(jax.random.key(seed), count)
    return from_noise(process, Noise(keys), latent_dim=3)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_ddpm_recovers_a_gaussian(process, alpha_bar, prediction):
    samples = jax.jit(
        lambda begin: ddpm_sample(
            gaussian_denoiser(process, alpha_bar, prediction=prediction),
            process,
            start=begin,
            clip=jnp.inf,
            posterior_variance=0.0,
        )
    )(begin(process, 6000, 0))
    assert_moments(samples, MEAN, COVARIANCE)
    exact = gaussian_map(alpha_bar(1000), range(999, -1, -1), eta=1.0)
    assert_moments(samples, *exact.law(np.zeros(3), np.eye(3)))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize(("eta", "bias"), [(0.0, 0.08), (0.5, 0.09), (1.0, 0.14)])
def test_ddim_recovers_a_gaussian(process, alpha_bar, prediction, eta, bias):
    # Fifty steps shrink the spread a little even with the exact denoiser. What they shrink it to
    # is known, so the samples are held to that law, and that law to the Gaussian.
    samples = jax.jit(
        lambda begin: ddim_sample(
            gaussian_denoiser(process, alpha_bar, prediction=prediction),
            process,
            start=begin,
            clip=jnp.inf,
            num_steps=50,
            eta=eta,
        )
    )(begin(process, 40_000, 1))
    exact = gaussian_map(alpha_bar(1000), range(999, -1, -20), eta=eta)
    mean, covariance = exact.law(np.zeros(3), np.eye(3))
    assert_moments(samples, mean, covariance)
    np.testing.assert_allclose(mean, MEAN, atol=1e-3)
    shrinkage = np.linalg.eigvals(np.linalg.solve(COVARIANCE, covariance))
    assert np.all(np.abs(shrinkage - 1) < bias)


def mixture_eps(z, alpha_bar, centres, spreads, weights, xp, logsumexp):
    """E[eps | z_t = z] for z0 ~ sum_k w_k N(c_k, s_k^2 I); z: [B, Z], alpha_bar: [B] or scalar."""
    ab = xp.reshape(xp.asarray(alpha_bar), (-1, 1, 1))
    variance = ab * spreads[:, None] ** 2 + 1 - ab
    offset = z[:, None] - xp.sqrt(ab) * centres
    log_joint = xp.log(weights) - xp.sum(offset**2 / (2 * variance) + xp.log(variance) / 2, axis=-1)
    posterior = xp.exp(log_joint - logsumexp(log_joint, axis=-1, keepdims=True))
    return xp.sum(posterior[..., None] * xp.sqrt(1 - ab) * offset / variance, axis=1)


def test_deterministic_ddim_converges_to_the_probability_flow(process64):
    centres = np.array([[2.0, 0.0], [-1.0, 1.5], [-1.0, -2.0]])
    spreads, weights = np.array([0.5, 0.8, 0.3]), np.array([0.2, 0.5, 0.3])
    process = process64(4000)
    keys = jax.random.split(jax.random.key(2), 6)

    def denoise_fn(z_t, t):
        eps = mixture_eps(
            z_t,
            process.alpha_bar[t],
            centres,
            spreads,
            weights,
            jnp,
            jax.scipy.special.logsumexp,
        )
        return decode_prediction(process, z_t, t=t, output=eps, prediction="eps")

    def sample(num_steps, denoise_fn):
        return ddim_sample(
            denoise_fn,
            process,
            start=from_noise(process, Noise(keys), latent_dim=2),
            clip=jnp.inf,
            num_steps=num_steps,
            eta=0.0,
        )

    # A denoiser that answers z0 = z_t makes the one-step sampler return its starting noise.
    start = np.asarray(sample(1, lambda z_t, t: (z_t, z_t)))
    # x = z / sqrt(ab) and u = log(sqrt(1 - ab) / sqrt(ab)): dx/du = exp(u) eps (Song et al. 2021,
    # equation 14), whatever the schedule.
    ab_end = float(process.alpha_bar[-1])

    def velocity(u, x):
        ab = 1 / (1 + np.exp(2 * u))
        z = np.sqrt(ab) * x.reshape(-1, 2)
        eps = mixture_eps(z, ab, centres, spreads, weights, np, scipy.special.logsumexp)
        return np.exp(u) * eps.ravel()

    u_start, u_end = np.log(1 / ab_end - 1) / 2, np.log(1e-6)
    flow = scipy.integrate.solve_ivp(
        velocity,
        (u_start, u_end),
        (start / np.sqrt(ab_end)).ravel(),
        method="DOP853",
        rtol=1e-10,
        atol=1e-10,
    )
    exact = flow.y[:, -1].reshape(-1, 2)
    errors = [
        np.abs(np.asarray(jax.jit(sample, static_argnums=(0, 1))(n, denoise_fn)) - exact).max()
        for n in (250, 1000, 4000)
    ]
    # First order: four times the steps, a quarter of the error.
    assert errors[0] < 0.1 and errors[2] < 0.005
    assert 3 < errors[0] / errors[1] < 5 and 3 < errors[1] / errors[2] < 5


@pytest.mark.parametrize("posterior_variance", [0.0, 0.3, 1.0])
def test_ddpm_step_is_the_published_posterior(process, alpha_bar, posterior_variance):
    # Ho et al. 2020, equations 6 and 7, in the coefficients of z0 and z_t. The last step adds no
    # noise (their algorithm 2).
    ab = alpha_bar(1000)
    before = np.append(1.0, ab[:-1])
    alpha, beta = ab / before, 1 - ab / before
    on_z0 = np.sqrt(before) * beta / (1 - ab)
    on_zt = np.sqrt(alpha) * (1 - before) / (1 - ab)
    beta_tilde = (1 - before) / (1 - ab) * beta
    variance = (1 - posterior_variance) * beta_tilde + posterior_variance * beta
    variance[0] = 0
    times = np.arange(999, -1, -1)
    z0, eps, noise = (
        np.asarray(factor, np.float64)[::-1]
        for factor in reverse_coefficients(
            process, times, eta=1.0, posterior_variance=posterior_variance
        )
    )
    np.testing.assert_allclose(eps / np.sqrt(1 - ab), on_zt, rtol=1e-5)
    np.testing.assert_allclose(z0 - eps * np.sqrt(ab / (1 - ab)), on_z0, atol=2e-6)
    np.testing.assert_allclose(noise, np.sqrt(variance), rtol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_strided_step_is_the_published_update(process, alpha_bar, eta):
    ab = alpha_bar(1000)
    times = [999, 700, 350, 20]
    factors = reverse_coefficients(process, np.array(times), eta=eta, posterior_variance=0.0)
    for i, (t, s) in enumerate(zip(times, [*times[1:], None], strict=True)):
        a, b = ab[t], 1.0 if s is None else ab[s]
        spread = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
        expected = np.sqrt(b), np.sqrt(max(1 - b - spread**2, 0)), spread
        np.testing.assert_allclose([f[i] for f in factors], expected, rtol=1e-5, atol=1e-7)


def test_strided_times_are_even_and_end_at_the_noisiest_step():
    np.testing.assert_array_equal(strided_times(1000, 4), [249, 499, 749, 999])
    np.testing.assert_array_equal(strided_times(10, 3), [2, 5, 9])
    np.testing.assert_array_equal(strided_times(7, 7), np.arange(7))
    for num_steps in range(1, 98):
        strides = np.diff(np.append(-1, strided_times(97, num_steps)))
        assert len(strides) == num_steps and strides.sum() == 97
        assert strides.min() >= 97 // num_steps and strides.max() <= 97 // num_steps + 1


def visited(sample):
    """The (z_t, t) a sampler asks its denoiser about, and what it returns at last."""
    trajectory = []

    def denoise_fn(z_t, t):
        trajectory.append((np.asarray(z_t, np.float64), int(t[0])))
        return jnp.tanh(z_t), jnp.sin(z_t)

    with jax.disable_jit():
        result = sample(denoise_fn)
    return trajectory, np.asarray(result)


@pytest.mark.parametrize("eta", [None, 0.0, 0.6])
def test_whole_chain_in_numpy(alpha_bar, eta):
    # eta None is DDPM. Fresh noise is what is left after the known part: it must be standard
    # normal and independent from step to step.
    process = noise_process("cosine", 12)
    keys = jax.random.split(jax.random.key(3), 4000)
    start = from_noise(process, Noise(keys), latent_dim=2)
    common = {"start": start, "clip": jnp.inf}
    if eta is None:
        sample = functools.partial(ddpm_sample, process=process, posterior_variance=0.0, **common)
        times = list(range(11, -1, -1))
    else:
        sample = functools.partial(ddim_sample, process=process, num_steps=4, eta=eta, **common)
        times = [11, 8, 5, 2]
    trajectory, result = visited(sample)
    assert [t for _, t in trajectory] == times
    last = np.tanh(trajectory[-1][0])
    np.testing.assert_allclose(result, last, atol=1e-6)
    ab, noises = alpha_bar(12), [trajectory[0][0]]
    for (z, t), (following, s) in zip(trajectory[:-1], trajectory[1:], strict=True):
        spread = (1.0 if eta is None else eta) * np.sqrt(
            (1 - ab[s]) / (1 - ab[t]) * (1 - ab[t] / ab[s])
        )
        mean = np.sqrt(ab[s]) * np.tanh(z) + np.sqrt(1 - ab[s] - spread**2) * np.sin(z)
        if spread == 0:
            np.testing.assert_allclose(following, mean, atol=1e-5)
        else:
            noises.append((following - mean) / spread)
    noises = np.concatenate(noises, axis=1)
    np.testing.assert_allclose(noises.mean(0), 0, atol=5 / np.sqrt(4000))
    np.testing.assert_allclose(
        np.cov(noises.T), np.eye(noises.shape[1]), atol=5 * np.sqrt(2 / 4000)
    )


def test_ddpm_is_ddim_with_every_step_and_eta_one(alpha_bar):
    process = noise_process("cosine", 20)
    arguments = {"start": begin(process, 3, 4), "clip": jnp.inf}
    denoise_fn = gaussian_denoiser(process, alpha_bar, prediction="v")
    np.testing.assert_array_equal(
        jax.jit(lambda: ddpm_sample(denoise_fn, process, posterior_variance=0.0, **arguments))(),
        jax.jit(lambda: ddim_sample(denoise_fn, process, num_steps=20, eta=1.0, **arguments))(),
    )


def antithetic(seed, count):
    """The noise of `count` samples, followed by its negation."""
    keys = jax.random.split(jax.random.key(seed), count)
    return Noise(jnp.concatenate([keys, keys]), jnp.repeat(jnp.array([1.0, -1.0]), count))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_mean_of_an_antithetic_pair_is_that_of_the_law(process, alpha_bar, eta):
    """The exact denoiser of a Gaussian is affine: whatever the noise, its negation undoes it."""
    denoise_fn = gaussian_denoiser(process, alpha_bar, prediction="v")

    @jax.jit
    def sample(noise):
        start = from_noise(process, noise, latent_dim=3)
        return ddim_sample(denoise_fn, process, start=start, clip=jnp.inf, num_steps=50, eta=eta)

    noise = antithetic(11, 20)
    pairs = np.asarray(sample(noise)).reshape(2, 20, 3)
    exact = gaussian_map(alpha_bar(1000), range(999, -1, -20), eta=eta)
    mean, _ = exact.law(np.zeros(3), np.eye(3))
    np.testing.assert_allclose(pairs.mean(axis=0), np.tile(mean, (20, 1)), atol=1e-4)
    assert pairs[0].std(axis=0).min() > 0.3
    np.testing.assert_allclose(pairs[0], sample(Noise(noise.keys[:20])), rtol=1e-5, atol=1e-6)


def test_from_a_latent_an_antithetic_pair_lies_around_it(process):
    start = from_latents(process, antithetic(12, 4), latents=2 * jnp.ones((8, 3)), time=300)
    pairs = np.asarray(start.z_t).reshape(2, 4, 3)
    np.testing.assert_allclose(
        pairs.mean(axis=0), np.tile(2 * process.signal[300], (4, 3)), rtol=1e-5
    )
    assert np.ptp(pairs, axis=0).min() > 1e-3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_sample_depends_on_its_own_key_alone(process, alpha_bar, eta):
    denoise_fn = gaussian_denoiser(process, alpha_bar, prediction="v")

    @jax.jit
    def sample(keys):
        start = from_noise(process, Noise(keys), latent_dim=3)
        return ddim_sample(denoise_fn, process, start=start, clip=4.0, num_steps=10, eta=eta)

    keys = jax.random.split(jax.random.key(5), 8)
    batch = sample(keys)
    for b in (0, 3, 7):
        np.testing.assert_allclose(sample(keys[b : b + 1])[0], batch[b], rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.asarray(batch)[:, 0])) == 8


def test_clipping_keeps_z_t_and_leaves_the_inside_alone(process):
    rng = np.random.default_rng(4)
    t = jnp.array([0, 5, 500, 990])
    z0 = jnp.asarray(rng.normal(size=(4, 3)) * 2, jnp.float32)
    eps = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    clip = jnp.array([0.5, 2.0, jnp.inf])
    clipped, moved = clip_denoised(process, z0, eps=eps, t=t, clip=clip)
    np.testing.assert_array_equal(clipped, np.clip(z0, -clip, clip))
    np.testing.assert_allclose(
        diffuse(process, clipped, t=t, noise=moved),
        diffuse(process, z0, t=t, noise=eps),
        atol=1e-5,
    )
    inside = np.abs(z0) <= clip
    np.testing.assert_array_equal(np.asarray(moved)[inside], np.asarray(eps)[inside])
    assert inside.any() and not inside.all()


def test_clipping_cures_the_blow_up_of_eps_prediction(process, alpha_bar):
    # The trap of the cosine schedule: an eps off by two hundredths at the last step, where z0 is
    # eps divided by 5e-5, throws few-step samples far out of the data. Predicting v, or holding
    # z0 to the data's range, does not.
    @functools.partial(jax.jit, static_argnums=0)
    def largest(prediction, clip):
        exact = gaussian_denoiser(process, alpha_bar, prediction=prediction)

        def denoise_fn(z_t, t):
            z0, eps = exact(z_t, t)
            signal, sigma = process.signal[t][:, None], process.sigma[t][:, None]
            output = {"eps": eps, "v": signal * eps - sigma * z0}[prediction] + 0.02
            return decode_prediction(process, z_t, t=t, output=output, prediction=prediction)

        samples = ddim_sample(
            denoise_fn,
            process,
            start=begin(process, 200, 6),
            clip=clip,
            num_steps=10,
            eta=0.0,
        )
        return jnp.abs(samples).max()

    data_range = 10.0
    assert largest("eps", jnp.inf) > 3 * data_range
    assert largest("eps", data_range) <= data_range
    assert largest("v", jnp.inf) < data_range


def sampler(process, name, **options):
    """A sampler of this name, deterministic if it is DDIM, that waits for its denoise_fn."""
    if name == "ddpm":
        return functools.partial(ddpm_sample, process=process, posterior_variance=0.0, **options)
    return functools.partial(ddim_sample, process=process, eta=0.0, **options)


@pytest.mark.parametrize(
    ("name", "time", "num_steps"), [("ddpm", 399, 400), ("ddim", 399, 40), ("ddim", 149, 150)]
)
def test_started_from_the_data_it_ends_in_the_data(process, alpha_bar, name, time, num_steps):
    count = 20_000
    rng = np.random.default_rng(5)
    latents = jnp.asarray(rng.multivariate_normal(MEAN, COVARIANCE, size=count), jnp.float32)
    keys = jax.random.split(jax.random.key(7), count)
    steps = {} if name == "ddpm" else {"num_steps": num_steps}
    denoise_fn = gaussian_denoiser(process, alpha_bar, prediction="v")

    @jax.jit
    def sample(latents, keys):
        start = from_latents(process, Noise(keys), latents=latents, time=time)
        options = {"start": start, "clip": jnp.inf}
        return sampler(process, name, **options, **steps)(denoise_fn)

    samples = sample(latents, keys)
    ab = alpha_bar(1000)
    stride = 1 if name == "ddpm" else (time + 1) // num_steps
    exact = gaussian_map(ab, range(time, -1, -stride), eta=float(name == "ddpm"))
    mean, covariance = exact.law(*diffused_law(ab[time], MEAN, COVARIANCE))
    assert_moments(samples, mean, covariance)
    np.testing.assert_allclose(mean, MEAN, atol=1e-3)
    shrinkage = np.linalg.eigvals(np.linalg.solve(COVARIANCE, covariance))
    assert np.all(np.abs(shrinkage - 1) < 0.04)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_started_from_one_point_the_noise_is_added_first(process, alpha_bar, name):
    # method.md section 8, fault 4. From time t the law of z_t is N(signal e0, sigma^2 I).
    point, time, count = np.array([4.0, 0.0, -3.0]), 299, 20_000
    keys = jax.random.split(jax.random.key(8), count)
    denoise_fn = gaussian_denoiser(process, alpha_bar, prediction="v")
    steps = {} if name == "ddpm" else {"num_steps": 30}

    @jax.jit
    def sample(keys):
        latents = jnp.broadcast_to(jnp.asarray(point, jnp.float32), (count, 3))
        start = from_latents(process, Noise(keys), latents=latents, time=time)
        options = {"start": start, "clip": jnp.inf}
        return sampler(process, name, **options, **steps)(denoise_fn)

    ab = alpha_bar(1000)
    stride = 1 if name == "ddpm" else 10
    exact = gaussian_map(ab, range(time, -1, -stride), eta=float(name == "ddpm"))
    assert_moments(sample(keys), *exact.law(*diffused_law(ab[time], point, np.zeros((3, 3)))))


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_only_steps_up_to_the_start_are_visited(process, name):
    keys = jax.random.split(jax.random.key(9), 2)
    start = from_latents(process, Noise(keys), latents=jnp.ones((2, 3)), time=11)
    steps = {} if name == "ddpm" else {"num_steps": 4}
    sample = sampler(process, name, start=start, clip=jnp.inf, **steps)
    trajectory, _ = visited(sample)
    expected = list(range(11, -1, -1)) if name == "ddpm" else [11, 8, 5, 2]
    assert [t for _, t in trajectory] == expected
    np.testing.assert_array_equal(trajectory[0][0], np.asarray(start.z_t, np.float64))


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_started_at_the_last_step_it_is_a_start_from_noise(alpha_bar, name):
    # The cosine process leaves 5e-5 of the latent there.
    process = noise_process("cosine", 100)
    keys = jax.random.split(jax.random.key(10), 5)
    denoise_fn = gaussian_denoiser(process, alpha_bar, prediction="v")
    steps = {} if name == "ddpm" else {"num_steps": 10}
    starts = (
        from_noise(process, Noise(keys), latent_dim=3),
        from_latents(process, Noise(keys), latents=2 * jnp.ones((5, 3)), time=99),
    )
    plain, started = (
        jax.jit(lambda s: sampler(process, name, start=s, clip=9.0, **steps)(denoise_fn))(start)
        for start in starts
    )
    np.testing.assert_allclose(started, plain, atol=4e-3)


@pytest.mark.parametrize("posterior_variance", [0.4, 1.0])
def test_posterior_variance_widens_as_the_closed_form_says(alpha_bar, posterior_variance):
    # With few steps beta and beta_tilde differ enough to tell their laws apart.
    process = noise_process("cosine", 25)
    samples = jax.jit(
        lambda begin: ddpm_sample(
            gaussian_denoiser(process, alpha_bar, prediction="v"),
            process,
            start=begin,
            clip=jnp.inf,
            posterior_variance=posterior_variance,
        )
    )(begin(process, 40_000, 11))
    mean, covariance = gaussian_map(
        alpha_bar(25), range(24, -1, -1), eta=1.0, posterior_variance=posterior_variance
    ).law(np.zeros(3), np.eye(3))
    assert_moments(samples, mean, covariance)
    _, narrow = gaussian_map(alpha_bar(25), range(24, -1, -1), eta=1.0).law(np.zeros(3), np.eye(3))
    assert np.trace(covariance) > 1.05 * np.trace(narrow)


def test_samplers_reject_what_they_cannot_do(process):
    keys = jax.random.split(jax.random.key(0), 2)

    def start(time):
        return from_latents(process, Noise(keys), latents=jnp.zeros((2, 3)), time=time)

    def sample(sampler, time=999, **options):
        sampler(lambda z, t: (z, z), process, start=start(time), clip=1.0, **options)

    for num_steps in (0, 1001):
        with pytest.raises(ValueError, match=r"num_steps must lie in \[1, 1000\]"):
            sample(ddim_sample, num_steps=num_steps, eta=0.0)
    with pytest.raises(ValueError, match=r"num_steps must lie in \[1, 8\], got 9"):
        sample(ddim_sample, time=7, num_steps=9, eta=0.0)
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\]"):
            sample(ddim_sample, num_steps=10, eta=eta)
    for variance in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"posterior_variance must lie in \[0, 1\]"):
            sample(ddpm_sample, posterior_variance=variance)
    for time in (-1, 1000):
        with pytest.raises(ValueError, match=r"time must lie in \[0, 999\]"):
            start(time)
