import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.core.losses import (
    correct_sum,
    cross_entropy_sum,
    gaussian_kl,
    info_nce,
    mask_logits,
    normalise,
)


@pytest.fixture
def batch():
    """[T, N, A] logits of T tasks with their own numbers of examples and answers."""
    rng = np.random.default_rng(0)
    answers, examples = np.array([2, 5, 3]), np.array([4, 1, 0])
    return {
        "logits": rng.normal(scale=60, size=(3, 4, 5)).astype(np.float32),
        "answer_mask": np.arange(5) < answers[:, None],
        "label": rng.integers(answers[:, None], size=(3, 4)),
        "mask": np.arange(4) < examples[:, None],
    }


def _loop(batch, value):
    """value(logits of the real answers, label) summed over the real examples of each task."""
    sums = np.zeros(3)
    for task, row in np.argwhere(batch["mask"]):
        logits = batch["logits"][task, row, batch["answer_mask"][task]].astype(np.float64)
        sums[task] += value(logits, batch["label"][task, row])
    return sums


def _cross_entropy(logits, label):
    top = logits.max()
    return top + np.log(np.exp(logits - top).sum()) - logits[label]


@pytest.mark.parametrize(
    "loss, value",
    [
        (cross_entropy_sum, _cross_entropy),
        (correct_sum, lambda logits, label: logits.argmax() == label),
    ],
)
def test_sums_over_examples_equal_numpy_on_the_real_answers(batch, loss, value):
    logits = mask_logits(batch["logits"], batch["answer_mask"])
    total, count = loss(logits, batch["label"], batch["mask"])
    np.testing.assert_allclose(total, _loop(batch, value), rtol=1e-6)
    np.testing.assert_array_equal(count, [4, 1, 0])
    assert total.dtype == count.dtype == jnp.float32


@pytest.mark.parametrize("loss", [cross_entropy_sum, correct_sum])
def test_what_a_padded_place_holds_does_not_matter(batch, loss):
    poisoned = batch | {"logits": np.where(batch["mask"][..., None], batch["logits"], np.nan)}
    poisoned["logits"] = np.where(batch["answer_mask"][:, None], poisoned["logits"], np.inf)
    sums = [
        loss(mask_logits(b["logits"], b["answer_mask"]), b["label"], b["mask"])
        for b in (batch, poisoned)
    ]
    np.testing.assert_array_equal(*sums)


def test_a_padded_answer_has_no_gradient(batch):
    def total(logits):
        masked = mask_logits(logits, batch["answer_mask"])
        return cross_entropy_sum(masked, batch["label"], batch["mask"])[0].sum()

    gradient = jax.grad(total)(jnp.asarray(batch["logits"]))
    real = batch["answer_mask"][:, None] & batch["mask"][..., None]
    assert np.all(np.asarray(gradient)[~real] == 0)
    assert np.any(np.asarray(gradient)[real] != 0)


def test_normalise_gives_unit_length_and_its_gradient():
    x = np.random.default_rng(1).normal(size=(4, 7))
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(normalise(jnp.float32(x)), x / length, rtol=1e-6)
    jacobian = jax.jacobian(normalise)(jnp.float32(x[0]))
    unit = x[0] / length[0]
    np.testing.assert_allclose(
        jacobian, (np.eye(7) - np.outer(unit, unit)) / length[0], rtol=1e-4, atol=1e-6
    )


def test_a_zero_vector_stays_zero_with_zero_gradient():
    np.testing.assert_array_equal(normalise(jnp.zeros((2, 3))), 0)
    np.testing.assert_array_equal(jax.jacobian(normalise)(jnp.zeros(3)), 0)


def test_info_nce_is_the_mean_cross_entropy_of_rows_and_columns():
    rng = np.random.default_rng(2)
    images, texts, scale = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)), 7.0
    unit_images, unit_texts = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts)
    )
    logits = scale * unit_images @ unit_texts.T
    losses = [_cross_entropy(row, i) for x in (logits, logits.T) for i, row in enumerate(x)]
    loss = info_nce(jnp.float32(images), jnp.float32(texts), jnp.float32(scale))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_gaussian_kl_is_the_integral_of_its_definition():
    """Of p log(p / q), dimension by dimension."""
    mean, logvar = np.random.default_rng(3).normal(size=(2, 4, 3))
    x = np.linspace(-30, 30, 200_001)[:, None, None]
    log_p = -0.5 * ((x - mean) ** 2 / np.exp(logvar) + logvar)
    density = np.exp(log_p) / np.sqrt(2 * np.pi)
    expected = np.trapezoid(density * (log_p + 0.5 * x**2), x, axis=0).sum(axis=-1)
    kl = gaussian_kl(jnp.float32(mean), jnp.float32(logvar))
    np.testing.assert_allclose(kl, expected, rtol=1e-5)
    np.testing.assert_array_equal(gaussian_kl(jnp.zeros((2, 5)), jnp.zeros((2, 5))), 0)
