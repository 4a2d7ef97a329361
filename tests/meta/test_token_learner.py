"""A learner that reads a question token by token, through the inner loop and the meta-objective."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from toy_features import random_tokens
from toy_tasks import NETWORK, make_table, task_alone

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.data.batching import Batches, BatchShape
from hyper_meta.data.table import gather
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import fixed_learner, generator_learner
from hyper_meta.meta.objectives import meta_objective
from hyper_meta.models.generator import Generator

SIZES = [(6, 4, 3), (3, 2, 2), (7, 2, 5)]
TOKEN_DIM, LENGTH = 3, 4
MODULE = Generator((6,), NETWORK.num_weights)


def _mean_of_tokens(question):
    """Over the tokens that are there: [W]."""
    kept = jnp.where(question.mask[:, None], question.tokens, 0)
    return kept.sum(axis=0) / question.mask.sum()


LEARNERS = {
    "fixed": fixed_learner(
        NETWORK,
        lambda params, question: MODULE.apply({"params": params}, _mean_of_tokens(question)),
    ),
    "adapted": generator_learner(NETWORK, _mean_of_tokens),
}


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), jnp.zeros(TOKEN_DIM))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(0.4 * rng.normal(size=leaf.shape)), shapes)


def _table(length):
    """Tasks with tokens padded to a length, with large numbers behind the mask."""
    table = make_table(SIZES)
    tokens, mask = random_tokens(3, len(SIZES), length=LENGTH, width=TOKEN_DIM)
    rng = np.random.default_rng(length)
    padded = np.float32(1e3 * rng.normal(size=(len(SIZES), length, TOKEN_DIM)))
    padded[:, :LENGTH] = np.where(mask[..., None], tokens, padded[:, :LENGTH])
    mask = np.pad(mask, ((0, 0), (0, length - LENGTH)))
    questions = SentenceFeatures(table.questions.pooled, padded, mask)
    return table.replace(questions=questions)


def _unpadded(number):
    """One task whose question has no token that is padding."""
    task = task_alone(_table(LENGTH), number)
    count = int(task.question.mask.sum())
    question = jax.tree.map(lambda leaf: leaf[:, :count], task.question)
    return task.replace(question=question.replace(pooled=task.question.pooled))


def _batch(ids, mask):
    ids = np.array(ids, np.int32)
    batch = Batches(np.zeros_like(ids), ids, np.array(mask), np.zeros_like(ids))
    return gather(_table(9), batch, BatchShape(8, 5, 6))


@pytest.mark.parametrize("name", LEARNERS)
def test_padded_tokens_equal_unpadded_ones(name, params):
    """Loss and gradient of two groups in one batch, against each task alone."""
    loop = InnerLoop(2 if name == "adapted" else 0, 0.05)
    objective = meta_objective(LEARNERS[name], loop)
    run = jax.jit(jax.value_and_grad(objective, has_aux=True))
    values, grads = run(params, [_batch([0, 1], [True, True]), _batch([2, 0], [True, False])])
    alone = [run(params, [_unpadded(number)]) for number in range(len(SIZES))]
    expected, expected_grads = jax.tree.map(lambda *parts: np.sum(parts, axis=0), *alone)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5)
    jax.tree.map(close, values, expected)
    flat, expected = (ravel_pytree(tree)[0] for tree in (grads, expected_grads))
    scale = np.abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(flat, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", LEARNERS)
def test_tokens_are_read(name, params):
    """So that the test above can fail: other tokens of the same questions give another loss."""
    objective = meta_objective(LEARNERS[name], InnerLoop(0, 0.0))
    batch = _batch([0, 1], [True, True])
    other = batch.replace(question=batch.question.replace(tokens=-batch.question.tokens))
    (loss, _), (changed, _) = (jax.jit(objective)(params, [tasks]) for tasks in (batch, other))
    assert abs(loss - changed) > 0.1
