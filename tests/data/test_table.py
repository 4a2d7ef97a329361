import jax
import numpy as np
import pytest
from toy_features import random_tokens, split_features

from hyper_meta.core.types import UserError
from hyper_meta.data.batching import (
    Batches,
    BatchShape,
)
from hyper_meta.data.table import build_table, gather, perturb
from hyper_meta.data.tasks import Task

DIM = 3
TASKS = [
    Task("q0", ("a", "b"), "is {}", "f", "g", (("i", 0), ("j", 1), ("i", 1)), (("k", 1),)),
    Task("q1", ("c", "{}", "b"), "{} or {}", "f", "g", (("k", 2),), (("j", 0), ("i", 2))),
]
IMAGES = ("k", "j", "unused", "i")
SENTENCES = ("is b", "q1", "c or c", "q0", "{} or {}", "is a", "b or b")


def _features(names):
    """Features that tell which name they belong to."""
    return np.array([[hash_of(name) + column for column in range(DIM)] for name in names])


def hash_of(name):
    return float(sum(ord(letter) << position for position, letter in enumerate(name)))


@pytest.fixture
def table():
    return _table(TASKS)


def _table(tasks, images=IMAGES, sentences=SENTENCES):
    features = split_features(
        tasks,
        image_ids=images,
        image_features=_features(images).astype(np.float32),
        sentences=sentences,
        sentence_features=_features(sentences).astype(np.float32),
    )
    return build_table(tasks, features)


def _with_tokens(table, *, length, seed=0):
    """The table with random token states of its questions."""
    tokens, mask = random_tokens(seed, len(table.questions.pooled), length=length)
    return table.replace(questions=table.questions.replace(tokens=tokens, mask=mask))


def _gather(table, ids, shape, window=0, mask=None):
    ids = np.array(ids, np.int32)
    mask = np.ones(len(ids), bool) if mask is None else np.array(mask)
    batch = Batches(np.zeros_like(ids), ids, mask, np.full_like(ids, window))
    return jax.tree.map(np.asarray, jax.jit(gather, static_argnums=2)(table, batch, shape))


def _check_examples(examples, row, expected):
    names, labels = zip(*expected, strict=True)
    mask = examples.mask[row]
    assert mask[: len(names)].all() and not mask[len(names) :].any()
    np.testing.assert_array_equal(examples.features[row, mask], _features(names))
    np.testing.assert_array_equal(examples.label[row, mask], labels)
    assert not examples.features[row, ~mask].any() and not examples.label[row, ~mask].any()


def test_a_gathered_batch_holds_the_tasks_as_they_were_given(table):
    batch = _gather(table, [1, 0, 1], BatchShape(4, 2, 5), window=3, mask=[True, True, False])
    for row, task in enumerate((TASKS[1], TASKS[0])):
        np.testing.assert_array_equal(batch.question.pooled[row], _features([task.sentence])[0])
        _check_examples(batch.support, row, task.support)
        _check_examples(batch.query, row, task.query)
        mask = batch.answer_mask[row]
        assert mask.sum() == len(task.answers)
        np.testing.assert_array_equal(batch.answers[row, mask], _features(task.prompts()))
        assert not batch.answers[row, ~mask].any()
    np.testing.assert_array_equal(batch.mask, [True, True, False])
    assert not batch.support.mask[2].any() and not batch.query.mask[2].any()


def test_a_gathered_batch_holds_the_tokens_of_its_questions(table):
    table = _with_tokens(table, length=4)
    batch = _gather(table, [1, 0, 1], BatchShape(4, 2, 5), mask=[True, True, False])
    for ours, theirs in zip(
        jax.tree.leaves(batch.question), jax.tree.leaves(table.questions), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs[[1, 0, 1]])
    assert batch.question.tokens.shape == (3, 4, 3) and batch.question.mask.dtype == bool


@pytest.mark.parametrize("name", ["q1", "is a", "j"])
def test_a_task_without_features_is_refused_by_name(name):
    images = tuple(image for image in IMAGES if image != name)
    sentences = tuple(sentence for sentence in SENTENCES if sentence != name)
    with pytest.raises(UserError, match=f"no features for '{name}'"):
        _table(TASKS, images, sentences)


@pytest.mark.parametrize("window", [0, 3, 6, 7, 12345, 2**30 - 1])
def test_a_window_is_a_run_of_different_examples(window):
    names = [f"image {i}" for i in range(7)]
    items = tuple((name, 0) for name in names)
    task = Task("q0", ("a", "b"), "is {}", "f", "g", items, items[:2])
    batch = _gather(_table([task], names), [0], BatchShape(5, 5, 2), window)
    chosen = [names[(window + i) % 7] for i in range(5)]
    np.testing.assert_array_equal(batch.support.features[0], _features(chosen))
    assert batch.support.mask.all()
    # The query set fits, so it comes whole whatever the window.
    _check_examples(batch.query, 0, items[:2])


def test_noise_is_of_the_stated_size_comes_from_each_tasks_key_and_spares_padding(table):
    batch = Batches(*(np.array(x) for x in ([0, 0], [0, 1], [True, True], [0, 0])))
    tasks = gather(table, batch, BatchShape(400, 2, 3))
    wide = tasks.replace(
        support=tasks.support.replace(features=np.tile(tasks.support.features[:, :1], (1, 400, 1)))
    )
    keys = jax.random.split(jax.random.key(0), 2)
    noisy = perturb(wide, keys, 0.5)
    difference = np.asarray(noisy.support.features - wide.support.features)
    size = np.sqrt((wide.support.features**2).mean(axis=(1, 2)))
    np.testing.assert_allclose(difference.std(axis=(1, 2)), 0.5 * size, rtol=0.1)
    alone = perturb(jax.tree.map(lambda x: x[1:], wide), keys[1:], 0.5)
    np.testing.assert_array_equal(alone.support.features[0], noisy.support.features[1])
    padded = perturb(tasks, keys, 0.5).support
    assert not padded.features[~padded.mask].any()
