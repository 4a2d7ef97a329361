"""diffusion.hyperldm: sampling in the generator's units with all its options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.latent_sampling import (
    FewShot,
    LatentDenoiser,
    LatentStatistics,
    Sampling,
    draw_latents,
)
from hyper_meta.diffusion.noise import noise_process
from hyper_meta.diffusion.samplers import Noise
from hyper_meta.models.sentences import SentenceMoments, take

STEPS, ROWS = 20, 6
STATISTICS = LatentStatistics(
    latent_mean=np.float32([1, -2, 0.5]),
    latent_std=np.float32([0.1, 2, 0.7]),
    questions=SentenceMoments(np.float32([0.3, -1, 2, 0]), np.float32([2, 0.5, 1, 3])),
    clip=np.float32(1.5),
)
START = np.float32([1.1, 0, 1])
TARGET = np.array([0.9, 1.0, -0.5])
PLAIN = Sampling("v", sampling_steps=5, posterior_variance=0.0, start_time=1.0)


def network(z_t, t, condition, keep, xp=jnp):
    """A predict_fn of elementwise operations; in numpy too."""
    given = xp.where(keep[:, None], condition.pooled[:, :3], 0.3)
    return xp.sin(2 * z_t) - 0.8 * z_t + given * xp.cos(0.1 * t[:, None])


def raw_gradient(latents):
    """Of 1/2 ||e - TARGET||^2."""
    return latents - TARGET


def inputs(count=ROWS):
    rng = np.random.default_rng(0)
    return {
        "questions": SentenceFeatures(jnp.asarray(rng.normal(size=(count, 4)), jnp.float32)),
        "scale": jnp.linspace(0, 4, count),
        "noise": Noise(jax.random.split(jax.random.key(0), count)),
        "start": START,
    }


def draw(sampling, predict_fn=network, steps=STEPS, **options):
    process = noise_process("cosine", steps)
    return draw_latents(
        LatentDenoiser(predict_fn, process, STATISTICS), sampling, **(inputs() | options)
    )


def visited(sampling, **options):
    """The (z_t, t) the network was asked about, without the doubling, and the latents."""
    seen = []

    def predict_fn(z_t, t, condition, keep):
        seen.append((np.asarray(z_t[: len(z_t) // 2], np.float64), int(t[0])))
        return network(z_t, t, condition, keep)

    with jax.disable_jit():
        latents = draw(sampling, predict_fn, **options)
    return seen, np.asarray(latents)


@pytest.mark.parametrize("strength", [None, 0.2])
@pytest.mark.parametrize(("share", "times"), [(1.0, [19, 15, 11, 7, 3]), (0.6, [11, 7, 3])])
def test_the_whole_of_ddim_in_numpy(alpha_bar, share, times, strength):
    sampling = dataclasses.replace(PLAIN, start_time=share)
    few_shot = None if strength is None else FewShot(raw_gradient, strength)
    seen, latents = visited(sampling, few_shot=few_shot)
    assert [t for _, t in seen] == times
    mean, std = STATISTICS.latent_mean, STATISTICS.latent_std
    given = inputs()
    questions = STATISTICS.questions
    condition = SentenceFeatures((given["questions"].pooled - questions.mean) / questions.std)
    scale = np.asarray(given["scale"])[:, None]
    z, ab = seen[0][0], alpha_bar(STEPS)
    for t, s in zip(times, [*times[1:], None], strict=True):
        a, b = ab[t], 1.0 if s is None else ab[s]
        t = np.full(ROWS, t)
        v = (1 - scale) * network(z, t, condition, np.zeros(ROWS, bool), np) + scale * network(
            z, t, condition, np.ones(ROWS, bool), np
        )
        eps = np.sqrt(1 - a) * z + np.sqrt(a) * v
        z0 = (z - np.sqrt(1 - a) * eps) / np.sqrt(a)
        if strength is not None:
            # d/dz of the loss at e = mean + std z.
            gradient = std * (z0 * std + mean - TARGET)
            size = np.linalg.norm(eps, axis=1) / np.linalg.norm(gradient, axis=1)
            eps = eps + strength * size[:, None] * gradient
            z0 = (z - np.sqrt(1 - a) * eps) / np.sqrt(a)
        z0 = np.clip(z0, -1.5, 1.5)
        z = np.sqrt(b) * z0 + np.sqrt((1 - b) / (1 - a)) * (z - np.sqrt(a) * z0)
    np.testing.assert_allclose(latents, z * std + mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("start", [START, np.linspace(START, -START, 3000)])
@pytest.mark.parametrize("sampling_steps", [5, STEPS])
def test_a_later_start_is_the_given_latent_with_noise(alpha_bar, start, sampling_steps):
    sampling = Sampling("v", sampling_steps, posterior_variance=0.0, start_time=0.25)
    seen, _ = visited(sampling, **inputs(3000) | {"start": start})
    assert [t for _, t in seen] == ([4] if sampling_steps == 5 else [4, 3, 2, 1, 0])
    ab = alpha_bar(STEPS)[4]
    z0 = (start - STATISTICS.latent_mean) / STATISTICS.latent_std
    noise = (seen[0][0] - np.sqrt(ab) * z0) / np.sqrt(1 - ab)
    np.testing.assert_allclose(noise.mean(0), 0, atol=5 / np.sqrt(3000))
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=5 * np.sqrt(2 / 3000))


def test_posterior_variance_reaches_the_ancestral_sampler(alpha_bar):
    # Two steps: the one draw is around a mean that v leaves alone, beta / beta_tilde apart.
    process_steps = 2

    def second(posterior_variance):
        sampling = Sampling("v", process_steps, posterior_variance, start_time=1.0)
        (first, _), (second, _) = visited(sampling, steps=process_steps)[0]
        return first, second

    (first, narrow), (same, wide) = second(0.0), second(1.0)
    np.testing.assert_array_equal(first, same)
    a, b = alpha_bar(process_steps)[::-1]
    beta = 1 - a / b
    beta_tilde = (1 - b) / (1 - a) * beta
    half = second(0.5)[1]
    share = (np.sqrt((beta + beta_tilde) / 2) - np.sqrt(beta_tilde)) / (
        np.sqrt(beta) - np.sqrt(beta_tilde)
    )
    np.testing.assert_allclose(half - narrow, share * (wide - narrow), rtol=1e-3, atol=1e-5)
    assert np.abs(wide - narrow).max() > 0.1


def test_few_shot_guidance_brings_latents_nearer():
    def distance(few_shot):
        latents = draw(dataclasses.replace(PLAIN, sampling_steps=STEPS), few_shot=few_shot)
        return np.linalg.norm((latents - TARGET) / STATISTICS.latent_std, axis=1)

    plain = distance(None)
    np.testing.assert_array_equal(distance(FewShot(raw_gradient, 0.0)), plain)
    assert np.all(distance(FewShot(raw_gradient, 1.0)) < plain)


@pytest.mark.parametrize("start_time", [1.0, 0.6])
def test_a_row_does_not_depend_on_the_others(start_time):
    sampling = Sampling("v", STEPS, posterior_variance=0.5, start_time=start_time)
    few_shot = FewShot(raw_gradient, 0.1)
    whole = draw(sampling, few_shot=few_shot)
    for row in (0, 4):
        alone = {k: take(inputs()[k], slice(row, row + 1)) for k in ("questions", "scale")}
        alone["noise"] = Noise(inputs()["noise"].keys[row : row + 1])
        np.testing.assert_allclose(
            draw(sampling, few_shot=few_shot, **alone)[0], whole[row], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_steps": 0},
        {"posterior_variance": -0.1},
        {"posterior_variance": 1.1},
        {"start_time": 0.0},
        {"start_time": 1.1},
        {"start_time": float("nan")},
    ],
)
def test_sampling_rejects(wrong):
    with pytest.raises(ValueError, match="Sampling expects"):
        dataclasses.replace(PLAIN, **wrong)


def test_draw_latents_rejects_what_contradicts_the_process():
    with pytest.raises(ValueError, match=r"sampling_steps must lie in \[1, 20\], got 21"):
        draw(dataclasses.replace(PLAIN, sampling_steps=21))
    with pytest.raises(ValueError, match="posterior_variance 0.5 needs DDPM"):
        draw(dataclasses.replace(PLAIN, posterior_variance=0.5))
    with pytest.raises(ValueError, match="unknown prediction 'x'"):
        draw(dataclasses.replace(PLAIN, prediction="x"))
