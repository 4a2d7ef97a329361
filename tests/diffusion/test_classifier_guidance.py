import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_tasks import LATENT, MODULE, as_float64, generate, init_params

from hyper_meta.diffusion.classifier_guidance import (
    Guidance,
    WeightStatistics,
    fold_embed,
    guidance_loss,
    guide,
    standardise_weights,
    weight_moments,
)
from hyper_meta.models.generator import GENERATOR, generate_weights
from hyper_meta.models.hyperclip import HyperCLIP
from hyper_meta.models.sentences import SentenceMoments

P, D = MODULE.num_weights, 5
ENCODER = HyperCLIP((6, 4), D)


@pytest.fixture
def latents():
    return np.random.default_rng(1).normal(size=(30, LATENT)).astype(np.float32)


@pytest.fixture
def model(latents):
    """HyperCLIP and a generator of weights that are large and vary little, as adapted ones do."""
    space = init_params(0)
    last = space["generator"]["Dense_1"]
    last |= {"kernel": 0.05 * last["kernel"], "bias": 5 * last["bias"]}
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(ENCODER.init, jax.random.key(0), jnp.zeros(P))["params"]
    params = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), shapes)
    moments = weight_moments(GENERATOR, space["generator"], latents)
    question = rng.normal(size=(2, D)).astype(np.float32)
    return {
        "hyperclip": params,
        "statistics": WeightStatistics(*moments, SentenceMoments(*question)),
        **space,
    }


def unfolded(model, latent):
    weights = generate(model["generator"], latent)
    standardised = standardise_weights(model["statistics"], weights)
    return ENCODER.apply({"params": model["hyperclip"]}, standardised)


def test_factors_make_the_weights_of_the_generator(model, latents):
    weights = generate_weights(GENERATOR, model["generator"], latents)
    np.testing.assert_allclose(weights, generate(model["generator"], latents), rtol=1e-5, atol=1e-6)


def test_moments_are_those_of_the_weights(model, latents):
    weights = np.float64(generate(model["generator"], latents))
    mean, std = weight_moments(GENERATOR, model["generator"], latents)
    np.testing.assert_allclose(mean, weights.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std, weights.std(axis=0), rtol=1e-3)
    standardised = standardise_weights(model["statistics"], weights)
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(standardised.std(axis=0), 1, rtol=1e-3)


def test_folded_equals_unfolded(model, latents):
    embed = fold_embed(GENERATOR, ENCODER, model)
    expected = unfolded(model, latents)
    np.testing.assert_allclose(embed(latents), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(embed(latents[3]), expected[3], rtol=1e-3, atol=1e-4)
    assert np.std(expected, axis=0).min() > 0.1


@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_the_gradient_equals_finite_differences_through_the_weights(model, pull):
    """The difference quotient of -cos + pull / 2 ||e - e0||^2 with the weights written out."""
    rng = np.random.default_rng(3)
    latent, question = rng.normal(size=LATENT), rng.normal(size=D)
    with jax.enable_x64(True):
        model = as_float64(model)
        gradient = jax.grad(guidance_loss, argnums=1)(
            fold_embed(GENERATOR, ENCODER, model),
            jnp.asarray(latent),
            model["e0"],
            question=question,
            pull=pull,
        )

        embed = jax.jit(functools.partial(unfolded, model))

        def value(latent):
            embedded = np.asarray(embed(latent))
            cosine = embedded @ question / np.linalg.norm(embedded) / np.linalg.norm(question)
            return 0.5 * pull * ((latent - np.asarray(model["e0"])) ** 2).sum() - cosine

        step = 1e-6 * np.eye(LATENT)
        expected = [(value(latent + h) - value(latent - h)) / 2e-6 for h in step]
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


MATRIX = np.random.default_rng(4).normal(size=(D, LATENT))
RATE, PULL = 0.05, 0.2


def _numpy_path(start, question, *, optimizer, cosine, num_steps):
    """Each latent of the path, for embed(e) = MATRIX e; Adam by Kingma and Ba 2015, algorithm 1."""
    latent, path = np.float64(start), [np.float64(start)]
    first, second = np.zeros(LATENT), np.zeros(LATENT)
    unit = question / np.linalg.norm(question)
    for i in range(num_steps):
        embedded = MATRIX @ latent
        length = np.linalg.norm(embedded)
        slope = MATRIX.T @ (unit / length - embedded * (embedded @ unit) / length**3)
        gradient = PULL * (latent - start) - slope
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        adam = first / (1 - 0.9 ** (i + 1)) / (np.sqrt(second / (1 - 0.999 ** (i + 1))) + 1e-8)
        rate = RATE * ((1 + np.cos(np.pi * i / num_steps)) / 2 if cosine else 1)
        latent = latent - rate * (adam if optimizer == "adam" else gradient)
        path.append(latent)
    return np.array(path)


@functools.partial(jax.jit, static_argnames=("settings",))
def _guide(start, question, rate, pull, key, settings):
    return guide(
        lambda e: jnp.asarray(MATRIX, e.dtype) @ e,
        start,
        question=question,
        rate=rate,
        pull=pull,
        key=key,
        settings=settings,
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("cosine", [False, True])
def test_the_path_follows_the_steps_written_out(optimizer, cosine):
    """Read at the steps that are asked for, in their order; with decay, over the largest."""
    rng = np.random.default_rng(5)
    start, question = rng.normal(size=LATENT), rng.normal(size=D)
    settings = Guidance(optimizer, (4, 20, 1), cosine=cosine, langevin=0.0)
    with jax.enable_x64(True):
        latents = _guide(start, question, RATE, PULL, jax.random.key(0), settings)
    path = _numpy_path(start, question, optimizer=optimizer, cosine=cosine, num_steps=20)
    np.testing.assert_allclose(latents, path[[4, 20, 1]], rtol=1e-9)
    assert np.linalg.norm(path[20] - path[0]) > 0.1


@pytest.mark.parametrize("cosine", [False, True])
def test_langevin_noise_has_the_variance_of_its_steps(cosine):
    """With nothing to follow, SGD ends at N(e0, langevin^2 * sum of the rates)."""
    size, num_steps = 20_000, 8
    settings = Guidance("sgd", (num_steps,), cosine=cosine, langevin=0.7)

    def walk(key):
        return guide(
            lambda e: jnp.ones(D),
            jnp.zeros(LATENT),
            question=jnp.ones(D),
            rate=jnp.float32(RATE),
            pull=jnp.float32(0),
            key=key,
            settings=settings,
        )[0]

    ends = np.asarray(jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(6), size)))
    decay = (1 + np.cos(np.pi * np.arange(num_steps) / num_steps)) / 2 if cosine else 1
    variance = 0.7**2 * np.sum(RATE * decay * np.ones(num_steps))
    error = np.sqrt(2 / size)
    np.testing.assert_allclose(np.cov(ends.T), variance * np.eye(LATENT), atol=6 * error * variance)
    assert (np.abs(ends.mean(axis=0)) < 5 * np.sqrt(variance / size)).all()


def test_rates_and_pulls_share_one_compilation():
    settings = Guidance("adam", (3,), cosine=False, langevin=0.0)
    start, question = np.ones(LATENT, np.float32), np.arange(1, D + 1, dtype=np.float32)
    before = _guide._cache_size()
    ends = [
        _guide(start, question, np.float32(rate), np.float32(pull), jax.random.key(0), settings)
        for rate, pull in ((0.1, 0), (0.2, 0), (0.2, 5))
    ]
    assert _guide._cache_size() == before + 1
    assert len(np.unique(ends, axis=0)) == 3


def test_an_unknown_optimizer_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"'rmsprop'.*\['adam', 'sgd'\]"):
        Guidance("rmsprop", (1,), cosine=False, langevin=0.0)
