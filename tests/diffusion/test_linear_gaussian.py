"""The whole sampling of z0 | c ~ N(A c, S), c ~ N(m, C), where everything has a closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from gaussian_laws import assert_moments, exact_eps, reverse_map

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.guidance import by_classifier, classifier_free
from hyper_meta.diffusion.noise import noise_process
from hyper_meta.diffusion.samplers import Noise, Start, ddim_sample, ddpm_sample, from_noise


class Model(NamedTuple):
    """A: [Z, D]; S: [Z, Z]; m: [D]; C: [D, D]. Laws are (mean, covariance)."""

    weight: np.ndarray
    noise: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    def conditional(self, condition):
        return self.weight @ condition, self.noise

    def marginal(self):
        return self.weight @ self.mean, self.weight @ self.covariance @ self.weight.T + self.noise


_RNG = np.random.default_rng(3)
_WEIGHT, _ROOT = _RNG.normal(size=(3, 2)), _RNG.normal(size=(3, 3))
MODEL = Model(
    weight=_WEIGHT,
    noise=0.3 * _ROOT @ _ROOT.T + 0.2 * np.eye(3),
    mean=np.array([0.5, -1.0]),
    covariance=np.array([[1.0, 0.3], [0.3, 0.5]]),
)
CONDITION = np.array([1.5, 0.4])


def guided_eps(model, condition, scale):
    """alpha_bar -> (gain, offset) of (1 - scale) eps(z, none) + scale eps(z, c)."""

    def eps_fn(ab):
        gain, offset = exact_eps(ab, *model.marginal())
        given_gain, given_offset = exact_eps(ab, *model.conditional(condition))
        return (
            (1 - scale) * gain + scale * given_gain,
            (1 - scale) * offset + scale * given_offset,
        )

    return eps_fn


def exact_network(model, alpha_bar, dtype):
    """The predict_fn whose v is exact with and without the condition; alpha_bar: [S]."""
    ab = alpha_bar[:, None, None]
    signal, sigma, eye = np.sqrt(ab), np.sqrt(1 - ab), np.eye(len(model.noise))
    # v = sigma signal (I - K) (ab K + sigma^2 I)^-1 (z_t - signal mean) - sigma mean.
    gains = [
        signal * sigma * (eye - covariance) @ np.linalg.inv(ab * covariance + sigma**2 * eye)
        for _, covariance in (model.marginal(), model.conditional(model.mean))
    ]
    arrays = np.stack(gains), signal[:, 0], sigma[:, 0], model.weight.T, model.marginal()[0]
    gains, signal, sigma, weight, marginal_mean = (jnp.asarray(array, dtype) for array in arrays)

    def predict_fn(z_t, t, condition, keep):
        mean = jnp.where(keep[:, None], condition.pooled @ weight, marginal_mean)
        centred = z_t - signal[t] * mean
        return jnp.einsum("bij,bj->bi", gains[keep.astype(int), t], centred) - sigma[t] * mean

    return predict_fn


def denoiser(model, process, alpha_bar, *, condition, scale, count):
    """The guided denoise_fn of `count` rows that share a condition."""
    dtype = process.log_alpha_bar.dtype
    return classifier_free(
        exact_network(model, alpha_bar(process.num_steps), dtype),
        process,
        condition=SentenceFeatures(
            jnp.broadcast_to(jnp.asarray(condition, dtype), (count, len(condition)))
        ),
        scale=scale,
        prediction="v",
    )


def sample(alpha_bar, *, count, scale, process_steps, num_steps=None):
    """(starting noise, samples) [B, Z] of DDPM, or of deterministic DDIM in num_steps."""
    process = noise_process("cosine", process_steps)

    @jax.jit
    def run(keys, scale):
        denoise_fn = denoiser(
            MODEL, process, alpha_bar, condition=CONDITION, scale=scale, count=count
        )
        start = from_noise(process, Noise(keys), latent_dim=3)
        common = {"start": start, "clip": jnp.inf}
        if num_steps is None:
            return start.z_t, ddpm_sample(denoise_fn, process, posterior_variance=0.0, **common)
        return start.z_t, ddim_sample(denoise_fn, process, num_steps=num_steps, eta=0.0, **common)

    start, samples = run(jax.random.split(jax.random.key(0), count), scale)
    return np.asarray(start, np.float64), np.asarray(samples, np.float64)


def test_the_model_is_what_it_says():
    rng = np.random.default_rng(0)
    c = rng.multivariate_normal(MODEL.mean, MODEL.covariance, size=100_000)
    noise = rng.multivariate_normal(np.zeros(3), MODEL.noise, size=100_000)
    assert_moments(c @ MODEL.weight.T + noise, *MODEL.marginal())


@pytest.mark.parametrize(
    ("scale", "target"), [(0.0, MODEL.marginal()), (1.0, MODEL.conditional(CONDITION))]
)
@pytest.mark.parametrize("num_steps", [None, 100], ids=["ddpm", "ddim"])
def test_samplers_recover_the_marginal_and_the_conditional(alpha_bar, scale, target, num_steps):
    # A finite number of steps has a law of its own, near the target: the samples are held to that
    # law, and that law to the target.
    process_steps = 300 if num_steps is None else 1000
    _, samples = sample(
        alpha_bar, count=20_000, scale=scale, process_steps=process_steps, num_steps=num_steps
    )
    times = range(process_steps - 1, -1, -1 if num_steps is None else -10)
    eps_fn = guided_eps(MODEL, CONDITION, scale)
    exact = reverse_map(alpha_bar(process_steps), times, eps_fn, eta=float(num_steps is None))
    mean, covariance = exact.law(np.zeros(3), np.eye(3))
    assert_moments(samples, mean, covariance)
    np.testing.assert_allclose(mean, target[0], atol=2e-3)
    shrinkage = np.linalg.eigvals(np.linalg.solve(target[1], covariance))
    assert np.all(np.abs(shrinkage - 1) < 0.05)


@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0])
def test_guided_ddim_is_the_exact_linear_map_sample_by_sample(alpha_bar, scale):
    start, samples = sample(alpha_bar, count=200, scale=scale, process_steps=1000, num_steps=50)
    eps_fn = guided_eps(MODEL, CONDITION, scale)
    exact = reverse_map(alpha_bar(1000), range(999, -1, -20), eps_fn, eta=0.0)
    expected = start @ exact.linear.T + exact.shift
    np.testing.assert_allclose(samples, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_guided_ddpm_has_the_exact_law(alpha_bar, scale):
    _, samples = sample(alpha_bar, count=20_000, scale=scale, process_steps=300)
    eps_fn = guided_eps(MODEL, CONDITION, scale)
    exact = reverse_map(alpha_bar(300), range(299, -1, -1), eps_fn, eta=1.0)
    assert_moments(samples, *exact.law(np.zeros(3), np.eye(3)))


def classifier(model, process, condition):
    """The exact log p(condition | z_t) [B] up to what does not depend on z_t: Gaussian, since z_t |
    condition and z_t are."""
    ab = jnp.exp(process.log_alpha_bar)
    dtype = ab.dtype

    def log_density(z_t, t, mean, covariance):
        law = ab[t][:, None, None] * jnp.asarray(covariance, dtype)
        law += (1 - ab[t])[:, None, None] * jnp.eye(3, dtype=dtype)
        off = z_t - jnp.sqrt(ab[t])[:, None] * jnp.asarray(mean, dtype)
        solved = jnp.linalg.solve(jnp.broadcast_to(law, (len(z_t), 3, 3)), off[..., None])[..., 0]
        return -0.5 * jnp.sum(off * solved, axis=-1)

    def log_prob(z_t, t):
        given = log_density(z_t, t, *model.conditional(condition))
        return given - log_density(z_t, t, *model.marginal())

    return log_prob


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 4.0])
def test_guidance_by_an_exact_classifier_is_the_guided_score_in_closed_form(
    process64, alpha_bar, scale
):
    """By Bayes' rule it is the mixture of the scores with and without the condition, at every
    level; at scale 1 the conditional model's own."""
    process = process64(1000)
    unguided = denoiser(MODEL, process, alpha_bar, condition=CONDITION, scale=0.0, count=5)
    guided = by_classifier(
        unguided, process, log_prob_fn=classifier(MODEL, process, CONDITION), scale=scale
    )
    z_t = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    for t in (0, 10, 400, 900, 999):
        z0, eps = guided(z_t, jnp.array([t]))
        gain, offset = guided_eps(MODEL, CONDITION, scale)(alpha_bar(1000)[t])
        np.testing.assert_allclose(eps, z_t @ gain.T + offset, rtol=1e-6, atol=1e-7)
        signal, sigma = np.sqrt(alpha_bar(1000)[t]), np.sqrt(1 - alpha_bar(1000)[t])
        np.testing.assert_allclose(signal * z0 + sigma * eps, z_t, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_ddim_guided_by_a_classifier_is_the_exact_linear_map(process64, alpha_bar, scale):
    process, count = process64(1000), 50
    unguided = denoiser(MODEL, process, alpha_bar, condition=CONDITION, scale=0.0, count=count)
    guided = by_classifier(
        unguided,
        process,
        log_prob_fn=classifier(MODEL, process, CONDITION),
        scale=jnp.full(count, scale),
    )
    begin = jnp.asarray(np.random.default_rng(1).normal(size=(count, 3)))
    unused = Noise(jax.random.split(jax.random.key(0), count))
    ends = ddim_sample(
        guided,
        process,
        start=Start(begin, unused, 999),
        clip=jnp.inf,
        num_steps=50,
        eta=0.0,
    )
    eps_fn = guided_eps(MODEL, CONDITION, scale)
    exact = reverse_map(alpha_bar(1000), range(999, -1, -20), eps_fn, eta=0.0)
    expected = begin @ exact.linear.T + exact.shift
    np.testing.assert_allclose(ends, expected, atol=1e-5 * np.abs(expected).max())


def guided_flow_law(scale, mean, within, between):
    """(mean, variance) to which the guided probability flow takes N(0, 1): one dimension.

    z0 | c ~ N(mean, l), z0 ~ N(0, L), l = within, L = within + between. In x = z / signal and
    s = sigma / signal the flow is dx/ds = eps (Song et al. 2021, equation 14), for this model

        dx/ds = scale s (x - mean) / (l + s^2) + (1 - scale) s x / (L + s^2)

    whose homogeneous solution is h = (l + s^2)^(scale / 2) (L + s^2)^((1 - scale) / 2). As h / s
    tends to 1 at the noisy end the variance is h(0)^2 = l^scale L^(1 - scale); variation of
    constants gives the mean, an integral over u = s^2.
    """
    total = within + between
    growth, _ = scipy.integrate.quad(
        lambda u: (within + u) ** (-1 - scale / 2) * (total + u) ** ((scale - 1) / 2), 0, np.inf
    )
    variance = within**scale * total ** (1 - scale)
    return scale / 2 * mean * np.sqrt(variance) * growth, variance


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 4.0])
def test_guided_ddim_converges_to_the_closed_form_of_its_flow(process64, alpha_bar, scale):
    # Independent dimensions. A map that is affine is known from where it takes 0 and the axes.
    within, between = np.array([0.3, 1.0, 2.0]), np.array([1.0, 0.5, 2.0])
    condition = np.array([1.0, -2.0, 0.5])
    model = Model(np.eye(3), np.diag(within), np.zeros(3), np.diag(between))
    rows = np.stack([condition, within, between], axis=1)
    mean, variance = np.array([guided_flow_law(scale, *row) for row in rows]).T
    process = process64(4000)
    denoise_fn = denoiser(model, process, alpha_bar, condition=condition, scale=scale, count=4)

    unused = Noise(jax.random.split(jax.random.key(0), 4))

    def error(num_steps):
        ends = ddim_sample(
            denoise_fn,
            process,
            start=Start(jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)]), unused, 3999),
            clip=jnp.inf,
            num_steps=num_steps,
            eta=0.0,
        )
        linear = np.asarray(ends[1:] - ends[0]).T
        spread = np.diag(linear @ linear.T) / variance - 1
        return max(np.abs(ends[0] - mean).max(), np.abs(spread).max())

    # First order: four times the steps, a quarter of the error.
    coarse, fine = error(250), error(1000)
    assert fine < 0.02 and 3 < coarse / fine < 5
