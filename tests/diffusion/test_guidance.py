"""Guidance on z | q ~ N(W q, C), q ~ N(0, I), where every score is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.guidance import classifier_free, few_shot
from hyper_meta.diffusion.noise import decode_prediction, score
from hyper_meta.diffusion.samplers import Noise, ddim_sample, from_noise

_RNG = np.random.default_rng(0)
WEIGHT = _RNG.normal(size=(3, 4))
NOISE = _RNG.normal(size=(3, 3))
COVARIANCE = NOISE @ NOISE.T + 0.2 * np.eye(3)
QUESTION = _RNG.normal(size=(6, 4))


def sentences(pooled, dtype=None):
    return SentenceFeatures(jnp.asarray(pooled, dtype))


def exact_score(z_t, ab, question, keep):
    """d/dz log p_t(z | q), or d/dz log p_t(z) where q is dropped; z_t: [B, Z], ab: [B]."""
    ab = ab[:, None]
    mean = np.where(keep[:, None], np.sqrt(ab) * question @ WEIGHT.T, 0)
    total = np.where(keep[:, None, None], COVARIANCE, COVARIANCE + WEIGHT @ WEIGHT.T)
    marginal = ab[..., None] * total + (1 - ab[..., None]) * np.eye(3)
    return -np.linalg.solve(marginal, (z_t - mean)[..., None])[..., 0]


def exact_network(process, alpha_bar, *, prediction):
    """A predict_fn whose two answers are the exact eps or v of the conditional and the marginal."""
    ab_table = jnp.asarray(alpha_bar(process.num_steps), process.log_alpha_bar.dtype)
    marginal = COVARIANCE + WEIGHT @ WEIGHT.T

    def predict_fn(z_t, t, condition, keep):
        ab = ab_table[t][:, None]
        mean = jnp.where(keep[:, None], condition.pooled @ WEIGHT.T, 0)
        covariance = jnp.where(keep[:, None, None], COVARIANCE, marginal)
        total = ab[..., None] * covariance + (1 - ab[..., None]) * jnp.eye(3)
        whitened = jnp.linalg.solve(total, (z_t - jnp.sqrt(ab) * mean)[..., None])
        eps = jnp.sqrt(1 - ab) * whitened[..., 0]
        z0 = mean + jnp.sqrt(ab) * (covariance @ whitened)[..., 0]
        return {"eps": eps, "v": jnp.sqrt(ab) * eps - jnp.sqrt(1 - ab) * z0}[prediction]

    return predict_fn


def elementwise_network(z_t, t, condition, keep):
    """Row by row to the last bit whatever the batch, so that equality can be asked for exactly."""
    return (
        jnp.sin(z_t)
        + jnp.where(keep[:, None], condition.pooled[:, :3], 0.7) * (t[:, None] + 1) / 1000
    )


@pytest.fixture
def noisy():
    rng = np.random.default_rng(1)
    return rng.normal(size=(6, 3)), np.array([0, 1, 300, 700, 998, 999])


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize(("scale", "kept"), [(0.0, False), (1.0, True)])
def test_scales_zero_and_one_are_exactly_the_two_models(process, noisy, prediction, scale, kept):
    z_t, t = (jnp.asarray(array) for array in noisy)
    z_t, question = z_t.astype(jnp.float32), sentences(QUESTION, jnp.float32)
    guided = classifier_free(
        elementwise_network, process, condition=question, scale=scale, prediction=prediction
    )(z_t, t)
    output = elementwise_network(z_t, t, question, jnp.full(6, kept))
    plain = decode_prediction(process, z_t, t=t, output=output, prediction=prediction)
    np.testing.assert_array_equal(guided, plain)


def test_without_a_scale_the_null_condition_is_never_asked(process, noisy):
    z_t, t = (jnp.asarray(array) for array in noisy)
    question, calls = sentences(QUESTION, jnp.float32), []

    def network(z_t, t, condition, keep):
        calls.append(keep)
        return elementwise_network(z_t, t, condition, keep)

    answers = [
        classifier_free(network, process, condition=question, scale=scale, prediction="v")(z_t, t)
        for scale in (None, 1.0)
    ]
    np.testing.assert_array_equal(*answers)
    assert calls[0].all() and len(calls[0]) == len(QUESTION) and len(calls[1]) == 2 * len(QUESTION)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0, np.array([0, 1, 1.5, 4, 7.5, 15.0])])
def test_guided_score_is_the_closed_form(process64, alpha_bar, noisy, prediction, scale):
    process = process64(1000)
    z_t, t = noisy
    denoise_fn = classifier_free(
        exact_network(process, alpha_bar, prediction=prediction),
        process,
        condition=sentences(QUESTION),
        scale=jnp.asarray(scale),
        prediction=prediction,
    )
    z0, eps = denoise_fn(jnp.asarray(z_t), jnp.asarray(t))
    ab = alpha_bar(1000)[t]
    weight = np.broadcast_to(scale, 6)[:, None]
    unconditional = exact_score(z_t, ab, QUESTION, np.zeros(6, bool))
    conditional = exact_score(z_t, ab, QUESTION, np.ones(6, bool))
    expected = (1 - weight) * unconditional + weight * conditional
    np.testing.assert_allclose(score(process, eps, t=t), expected, rtol=1e-6, atol=1e-8)
    # Tweedie: the clean latent that goes with this score.
    tweedie = (z_t + (1 - ab[:, None]) * expected) / np.sqrt(ab[:, None])
    np.testing.assert_allclose(z0[:4], tweedie[:4], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scale", [0.3, 1.5, 15.0])
def test_mixing_v_is_mixing_eps(process64, alpha_bar, noisy, scale):
    process = process64(1000)
    z_t, t = (jnp.asarray(array) for array in noisy)
    question = sentences(QUESTION)
    network = exact_network(process, alpha_bar, prediction="v")

    def decoded(keep):
        output = network(z_t, t, question, jnp.full(6, keep))
        return decode_prediction(process, z_t, t=t, output=output, prediction="v")

    guided = classifier_free(network, process, condition=question, scale=scale, prediction="v")(
        z_t, t
    )
    for mixed, without, given in zip(guided, decoded(False), decoded(True), strict=True):
        np.testing.assert_allclose(mixed, (1 - scale) * without + scale * given, atol=1e-12)


def test_one_network_call_and_one_compilation_for_all_scales(process):
    calls = []

    def network(z_t, t, condition, keep):
        calls.append((z_t.shape, t.shape, condition.pooled.shape, keep.shape))
        return elementwise_network(z_t, t, condition, keep)

    keys = jax.random.split(jax.random.key(0), 6)

    @jax.jit
    def sample(scale):
        return ddim_sample(
            classifier_free(
                network,
                process,
                condition=sentences(QUESTION, jnp.float32),
                scale=scale,
                prediction="v",
            ),
            process,
            start=from_noise(process, Noise(keys), latent_dim=3),
            clip=3.0,
            num_steps=5,
            eta=0.0,
        )

    samples = [sample(scale) for scale in (0.0, 1.0, 1.5, 4.0, 7.5, 15.0)]
    assert calls == [((12, 3), (1,), (12, 4), (12,))]
    assert np.all(np.isfinite(samples))
    assert len(np.unique(np.asarray(samples)[:, 0, 0])) > 1


def test_conditional_sampling_recovers_the_conditional_law(process, alpha_bar):
    count = 20_000
    samples = jax.jit(
        lambda keys: ddim_sample(
            classifier_free(
                exact_network(process, alpha_bar, prediction="v"),
                process,
                condition=sentences(np.broadcast_to(QUESTION[0], (count, 4)), jnp.float32),
                scale=1.0,
                prediction="v",
            ),
            process,
            start=from_noise(process, Noise(keys), latent_dim=3),
            clip=jnp.inf,
            num_steps=50,
            eta=0.0,
        )
    )(jax.random.split(jax.random.key(1), count))
    np.testing.assert_allclose(np.mean(samples, 0), WEIGHT @ QUESTION[0], atol=0.06)
    shrinkage = np.linalg.eigvals(np.linalg.solve(COVARIANCE, np.cov(samples.T)))
    assert np.all(np.abs(shrinkage - 1) < 0.15)


def test_unknown_prediction(process, noisy):
    z_t, t = noisy
    denoise_fn = classifier_free(
        elementwise_network, process, condition=sentences(QUESTION), scale=1.0, prediction="x"
    )
    with pytest.raises(ValueError, match="unknown prediction"):
        denoise_fn(z_t, t)


def support_loss(z0):
    """[B]: a smooth loss of clean latents, in numpy."""
    return np.sum(np.sin(z0 * [1, 2, 3]), axis=1) + 0.5 * np.sum(
        (z0 - 1) ** 2 * [3, 1, 0.2], axis=1
    )


def support_gradient(z0):
    """Central differences of support_loss, [B, Z]."""
    steps = 1e-6 * np.eye(3)
    return np.stack([support_loss(z0 + h) - support_loss(z0 - h) for h in steps], axis=1) / 2e-6


def jax_gradient(z0):
    """The same by hand."""
    weights = jnp.array([1.0, 2, 3], z0.dtype)
    return weights * jnp.cos(weights * z0) + jnp.array([3, 1, 0.2], z0.dtype) * (z0 - 1)


@pytest.mark.parametrize("strength", [0.2, np.array([0, 0.1, 0.5, 1, 3, 10.0])])
def test_few_shot_guidance_is_the_published_push(process64, alpha_bar, noisy, strength):
    process = process64(1000)
    z_t, t = noisy
    rng = np.random.default_rng(2)
    ab = alpha_bar(1000)[t][:, None]
    z0 = rng.normal(size=(6, 3))
    eps = (z_t - np.sqrt(ab) * z0) / np.sqrt(1 - ab)
    guided = few_shot(
        lambda *_: (jnp.asarray(z0), jnp.asarray(eps)),
        process,
        grad_fn=jax_gradient,
        strength=jnp.asarray(strength),
    )
    guided_z0, guided_eps = guided(jnp.asarray(z_t), jnp.asarray(t))
    gradient = support_gradient(z0)
    unit = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    size = np.broadcast_to(strength, 6)[:, None] * np.linalg.norm(eps, axis=1, keepdims=True)
    np.testing.assert_allclose(guided_eps, eps + size * unit, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(
        np.sqrt(ab) * guided_z0 + np.sqrt(1 - ab) * guided_eps, z_t, rtol=1e-9, atol=1e-9
    )


def test_few_shot_guidance_lowers_the_loss(process, noisy):
    z_t = jnp.asarray(noisy[0], jnp.float32)
    t = jnp.array([0, 1, 100, 300, 500, 700])
    target = jnp.array([2.0, -1, 0.5])

    def plain(z_t, t):
        z0 = jnp.tanh(z_t)
        signal, sigma = process.signal[t][:, None], process.sigma[t][:, None]
        return z0, (z_t - signal * z0) / sigma

    z0, _ = plain(z_t, t)
    guided, _ = few_shot(plain, process, grad_fn=lambda z0: z0 - target, strength=0.05)(z_t, t)
    before, after = (np.sum((np.asarray(x) - target) ** 2, axis=1) for x in (z0, guided))
    assert np.all(after < before)


def test_without_strength_or_gradient_nothing_changes(process, noisy):
    z_t, t = jnp.asarray(noisy[0], jnp.float32), jnp.asarray(noisy[1])

    def plain(z_t, t):
        return jnp.sin(z_t), jnp.cos(z_t)

    def some(z0):
        return z0.at[::2].set(0)

    def guided(grad_fn, strength):
        return few_shot(plain, process, grad_fn=grad_fn, strength=strength)(z_t, t)

    for changed, kept in zip(guided(jnp.cos, 0.0), plain(z_t, t), strict=True):
        np.testing.assert_array_equal(changed, kept)
    for changed, kept in zip(guided(some, 0.5), plain(z_t, t), strict=True):
        np.testing.assert_array_equal(changed[::2], kept[::2])
        assert np.all(np.abs(changed[1::2] - kept[1::2]).max(axis=1) > 1e-4)
