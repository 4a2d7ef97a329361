import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import make_adapter, num_weights

from hyper_meta.core.losses import MASKED_LOGIT
from hyper_meta.networks.adapter import adapt_features, split_weights
from hyper_meta.networks.base import answer_logits

DIM, HIDDEN = 6, 4


def adapter_by_hand(weights, x, answers):
    """Logits [A] of one image, method.md section 3 read aloud, in float64."""
    dim = len(x)
    hidden_dim = (len(weights) - dim) // (2 * dim + 1)
    weight = iter(weights.astype(np.float64))
    w1 = [[next(weight) for _ in range(hidden_dim)] for _ in range(dim)]
    b1 = [next(weight) for _ in range(hidden_dim)]
    w2 = [[next(weight) for _ in range(dim)] for _ in range(hidden_dim)]
    b2 = [next(weight) for _ in range(dim)]
    hidden = []
    for unit in range(hidden_dim):
        total = sum(w1[i][unit] * x[i] for i in range(dim)) / dim**0.5 + b1[unit]
        hidden.append(max(total, 0.0))
    y = []
    for i in range(dim):
        total = sum(w2[unit][i] * hidden[unit] for unit in range(hidden_dim)) / hidden_dim**0.5
        y.append(x[i] + total + b2[i])
    y = np.array(y)
    return [100 * y @ t / np.sqrt((y @ y) * (t @ t)) for t in answers.astype(np.float64)]


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    size = 2 * DIM * HIDDEN + HIDDEN + DIM
    shapes = {"weights": (size,), "features": (5, DIM), "answers": (3, DIM)}
    return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def test_logits_equal_the_formula(problem):
    logits = make_adapter(DIM, HIDDEN).logits(**problem, answer_mask=jnp.ones(3, bool))
    expected = [
        adapter_by_hand(problem["weights"], x, problem["answers"]) for x in problem["features"]
    ]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims, count", [((768, 256), 394_240), ((DIM, HIDDEN), 58), ((1, 1), 4)])
def test_number_of_weights(dims, count):
    assert num_weights(*dims) == count
    parts = split_weights(jnp.arange(count), dims[0])
    assert [part.shape for part in parts] == [dims, dims[1:], dims[::-1], dims[:1]]
    np.testing.assert_array_equal(np.concatenate([p.ravel() for p in parts]), np.arange(count))


def test_weights_of_many_adapters_are_cut_like_those_of_one(problem):
    many = np.stack([problem["weights"], -problem["weights"]])[None]
    for stacked, *each in zip(
        split_weights(many, DIM), *(split_weights(w, DIM) for w in many[0]), strict=True
    ):
        np.testing.assert_array_equal(stacked[0], each)


def test_without_weights_the_adapter_is_clip_itself(problem):
    mask = jnp.ones(3, bool)
    zero = np.zeros_like(problem["weights"])
    features, answers = problem["features"], problem["answers"]
    np.testing.assert_array_equal(adapt_features(zero, features), features)
    np.testing.assert_array_equal(
        make_adapter(DIM, HIDDEN).logits(zero, features, answers, mask),
        answer_logits(features, answers, mask),
    )


def test_answer_logits_are_a_hundred_cosines(problem):
    features, answers = problem["features"], problem["answers"]
    cosine = features @ answers.T
    cosine /= np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(answers, axis=1)
    mask = np.array([True, False, True])
    logits = answer_logits(3 * features, answers, mask)
    np.testing.assert_allclose(logits[:, mask], 100 * cosine[:, mask], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(logits[:, 1], MASKED_LOGIT)


def test_unit_weights_change_features_by_two_in_variance():
    """1 / sqrt(fan-in) in both layers: hidden units of mean square 1, W2 h of 1, b2 of 1."""
    dim, hidden = 64, 256
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(200, num_weights(dim, hidden))).astype(np.float32)
    x = rng.normal(size=(1, dim)).astype(np.float32)
    x /= np.sqrt((x**2).mean())
    change = jax.vmap(adapt_features, (0, None))(weights, x) - x
    np.testing.assert_allclose(np.var(change), 2, rtol=0.05)


@pytest.mark.parametrize("blend", [0.0, 0.3, 1.0, 1.5])
def test_blending_goes_from_clip_to_the_adapter(problem, blend):
    """base + alpha (adapted - base), method.md section 3; padded answers stay ruled out."""
    mask = np.array([True, False, True])
    clip, adapted = (
        np.array([adapter_by_hand(weights, x, problem["answers"]) for x in problem["features"]])
        for weights in (0 * problem["weights"], problem["weights"])
    )
    logits = make_adapter(DIM, HIDDEN, blend).logits(**problem, answer_mask=mask)
    expected = (1 - blend) * clip + blend * adapted
    np.testing.assert_allclose(logits[:, mask], expected[:, mask], rtol=1e-4, atol=1e-4)
    assert np.all(logits[:, 1] < -0.9 * abs(MASKED_LOGIT))
    assert np.abs(clip - adapted).max() > 10
