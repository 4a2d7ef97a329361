import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import make_adapter, num_weights
from jax.flatten_util import ravel_pytree
from toy_tasks import (
    ADAPTER_DIM,
    DIM,
    NETWORK,
    as_float64,
    generate,
    init_params,
    make_table,
    numpy_cosines,
    numpy_logits,
    numpy_loss,
    task_alone,
)

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.data.batching import Batches, BatchShape
from hyper_meta.data.table import gather
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task, task_loss
from hyper_meta.meta.learners import (
    generator_learner,
    latent_learner,
    weights_learner,
)
from hyper_meta.meta.objectives import all_examples, meta_objective

SIZES = [(6, 4, 3), (3, 5, 2), (5, 2, 4)]
SHAPE = (6, 5, 4)
HNET, MNET = latent_learner(NETWORK, generate), weights_learner(NETWORK)
CONDITIONAL = generator_learner(NETWORK, lambda question: question.pooled)
ADAPTING, STILL = InnerLoop(3, 0.02), InnerLoop(0, 0.0)
FIRST_ORDER = InnerLoop(3, 0.02, first_order=True)
LEARNERS = {
    "multitask": (HNET, STILL),
    "fomaml": (HNET, FIRST_ORDER),
    "maml": (HNET, ADAPTING),
    "mnet_fomaml": (MNET, FIRST_ORDER),
    "mnet_maml": (MNET, ADAPTING),
    "conditional": (CONDITIONAL, STILL),
    "conditional_fomaml": (CONDITIONAL, FIRST_ORDER),
    "conditional_maml": (CONDITIONAL, ADAPTING),
    "blended": (
        latent_learner(make_adapter(DIM, ADAPTER_DIM, 0.4), generate),
        InnerLoop(3, 0.02),
    ),
}
OBJECTIVES = {name: meta_objective(*pair) for name, pair in LEARNERS.items()}

# (params, groups) -> ((sum, (count, metrics)), gradient)
GRADIENTS = {
    name: jax.jit(jax.value_and_grad(objective, has_aux=True))
    for name, objective in OBJECTIVES.items()
}


PAD = jax.jit(gather, static_argnums=2)


def _params(name):
    learner, _ = LEARNERS[name]
    if learner is MNET:
        size = num_weights(DIM, ADAPTER_DIM)
        start = np.random.default_rng(0).normal(size=size).astype(np.float32)
        return {"e0": start, "generator": {}}
    if learner is CONDITIONAL:
        return init_params(0, DIM)["generator"]
    return init_params(0)


def _batch(shape, *, ids, mask, table=None):
    """The tasks of SIZES with these numbers, padded to shape (support, query, answers)."""
    ids = np.array(ids, np.int32)
    table = make_table(SIZES) if table is None else table
    batch = Batches(np.zeros_like(ids), ids, np.array(mask), np.full_like(ids, 7))
    return PAD(table, batch, BatchShape(*shape))


@pytest.fixture(scope="module")
def batch():
    return _batch(SHAPE, ids=[0, 1, 2], mask=[True, True, True])


def _adapted_points(name, params, batch):
    """Leaves [T, ...]."""
    learner, loop = LEARNERS[name]
    return jax.jit(jax.vmap(lambda task: adapt_task(learner, params, task, loop)))(batch)


@pytest.mark.parametrize("network", ["", "mnet_", "conditional_"])
def test_maml_gradient_equals_finite_differences(network, batch):
    with jax.enable_x64(True):
        params, batch = as_float64((_params(f"{network}maml"), batch))
        flat, unravel = ravel_pytree(params)
        objective = OBJECTIVES[f"{network}maml"]

        @jax.jit
        def losses(rows):
            return jax.lax.map(lambda row: objective(unravel(row), [batch])[0], rows)

        nudges = 1e-6 * jnp.eye(len(flat))
        minus, plus = jnp.split(losses(jnp.concatenate([flat - nudges, flat + nudges])), 2)
        differences = (plus - minus) / 2e-6
        gradient, first_order = (
            ravel_pytree(GRADIENTS[network + name](params, [batch])[1])[0]
            for name in ("maml", "fomaml")
        )
        assert gradient.dtype == jnp.float64
        np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-6)
        assert np.linalg.norm(first_order - differences) > 0.01 * np.linalg.norm(differences)


def test_fomaml_gradient_is_the_plain_gradient_at_the_adapted_latents(batch):
    with jax.enable_x64(True):
        params, batch = as_float64((init_params(0), batch))
        latents = _adapted_points("fomaml", params, batch)

        def query_loss(generator, latents):
            weights = generate(generator, latents)
            inputs = (weights, batch.query, batch.answers, batch.answer_mask)
            return jax.vmap(functools.partial(task_loss, NETWORK))(*inputs).sum()

        generator, each = jax.jit(jax.grad(query_loss, (0, 1)))(params["generator"], latents)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
            GRADIENTS["fomaml"](params, [batch])[1],
            {"e0": each.sum(axis=0), "generator": generator},
        )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_accuracy_equal_numpy_task_by_task(name, batch):
    """What adapts is judged on the query set, the others on all examples."""
    params, table = _params(name), make_table(SIZES)
    (learner, loop), points = LEARNERS[name], _adapted_points(name, params, batch)
    weights = jax.vmap(learner.weights, (None, 0, 0))(params, batch.question, points)
    losses, accuracies = [], []
    for number, size in enumerate(SIZES):
        task = task_alone(table, number)
        examples = task.query if loop.num_steps else all_examples(task)
        assert examples.label.shape == (1, size[1] if loop.num_steps else sum(size[:2]))
        base = numpy_cosines(examples.features[0], task.answers[0])
        logits = numpy_logits(weights[number], examples.features[0], task.answers[0])
        logits = base + learner.network.blend * (logits - base)
        losses.append(numpy_loss(logits, examples.label[0]))
        accuracies.append((logits.argmax(axis=1) == examples.label[0]).mean())
    (loss, (count, metrics)), _ = GRADIENTS[name](params, [batch])
    np.testing.assert_allclose(loss, np.sum(losses), rtol=1e-3)
    np.testing.assert_allclose(metrics["loss"][0], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"][0], np.sum(accuracies), rtol=1e-5)
    assert count == metrics["loss"][1] == metrics["accuracy"][1] == 3


@pytest.mark.parametrize("name", ["multitask", "maml"])
def test_a_task_that_only_fills_the_batch_counts_for_nothing(name, batch):
    params = _params(name)
    whole, middle, rest = (
        GRADIENTS[name](params, [batch.replace(mask=jnp.array(mask))])
        for mask in ([True, True, True], [False, True, False], [True, False, True])
    )
    assert middle[0][0] > 0 and middle[0][1][0] == 1
    flat = [ravel_pytree(jax.tree.map(jnp.add, middle, rest))[0], ravel_pytree(whole)[0]]
    np.testing.assert_allclose(*flat, rtol=1e-4, atol=1e-5)


def _poisoned(numbers):
    """The table of SIZES, NaN wherever none of these tasks looks (the padding does)."""
    table, mine = make_table(SIZES), list(numbers)
    items = np.repeat(np.arange(3), [sum(size[:2]) for size in SIZES])
    image_owner = np.zeros(len(table.image_features))
    image_owner[table.item_image] = items
    owners = {
        "image_features": image_owner,
        "answer_features": np.repeat(np.arange(3), [size[2] for size in SIZES]),
    }

    def poison(values, owner):
        return np.where(np.isin(owner, mine)[:, None], values, np.nan).astype(np.float32)

    poisoned = {name: poison(getattr(table, name), owner) for name, owner in owners.items()}
    questions = SentenceFeatures(poison(table.questions.pooled, np.arange(3)))
    return table.replace(questions=questions, **poisoned)


@pytest.mark.parametrize("name", ["multitask", "maml", "mnet_maml", "conditional_maml"])
def test_padding_is_exact(name):
    """Loss, gradient and accuracy of each task in a padded batch equal those of it alone."""
    params, table = _params(name), make_table(SIZES)
    alone = {number: GRADIENTS[name](params, [task_alone(table, number)]) for number in (1, 2)}
    for present in ([1], [2], [1, 2]):
        ids = [2, 1, 2]
        mask = np.array([False, 1 in present, 2 in present])
        # A filler may be any task of the table, so none of this batch's is poisoned.
        batch = _batch((9, 11, 7), ids=ids, mask=mask, table=_poisoned(set(ids)))
        values, grads = GRADIENTS[name](params, [batch])
        expected, expected_grads = jax.tree.map(
            lambda *parts: np.sum(parts, axis=0), *(alone[number] for number in present)
        )
        # Logits reach 100, where float32 has steps of 8e-6.
        close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=8e-6)
        jax.tree.map(close, values, expected)
        flat, expected = (ravel_pytree(tree)[0] for tree in (grads, expected_grads))
        scale = np.abs(expected).max()
        assert scale > 0.1
        np.testing.assert_allclose(flat, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "name", ["multitask", "maml", "mnet_maml", "conditional", "conditional_maml"]
)
def test_groups_of_other_padding_count_like_one_batch(name, batch):
    """Tasks 0 and 1 at one shape, task 2 and one that only fills the batch at another."""
    params = _params(name)
    groups = [
        _batch((6, 5, 3), ids=[0, 1], mask=[True, True]),
        _batch((7, 2, 5), ids=[2, 0], mask=[True, False]),
    ]
    (loss, rest), grads = GRADIENTS[name](params, groups)
    (expected, expected_rest), expected_grads = GRADIENTS[name](params, [batch])
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=8e-6)
    jax.tree.map(close, (loss, rest), (expected, expected_rest))
    flat, expected = (ravel_pytree(tree)[0] for tree in (grads, expected_grads))
    np.testing.assert_allclose(flat, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
