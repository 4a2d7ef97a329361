"""Small ragged tasks with random features, and what the method does to one of them, unpadded."""

import jax
import jax.numpy as jnp
import numpy as np
from adapters import make_adapter, num_weights
from toy_features import split_features

from hyper_meta.core.types import Examples, TaskBatch
from hyper_meta.data.table import TaskTable, build_table
from hyper_meta.data.tasks import Task
from hyper_meta.models.generator import Generator
from hyper_meta.models.sentences import take

DIM, ADAPTER_DIM, LATENT = 5, 3, 4
NETWORK = make_adapter(DIM, ADAPTER_DIM)
MODULE = Generator((6,), num_weights(DIM, ADAPTER_DIM))


def generate(params, inputs):
    return MODULE.apply({"params": params}, inputs)


def init_params(seed, input_dim=LATENT):
    """{"e0", "generator"} of unit scale, biases included, so that every parameter matters."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), jnp.zeros(input_dim))["params"]

    def draw(leaf):
        scale = leaf.shape[0] ** -0.5 if len(leaf.shape) > 1 else 0.3
        return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

    return {
        "e0": rng.normal(size=LATENT).astype(np.float32),
        "generator": jax.tree.map(draw, shapes),
    }


def make_table(sizes, seed=0) -> TaskTable:
    """A table of tasks with the given (support, query, answers); images are theirs alone.

    Features lie in a cone, as CLIP's do, so that 100 cos does not saturate the softmax.
    """
    rng = np.random.default_rng(seed)
    tasks = []
    for number, (support, query, answers) in enumerate(sizes):
        labels = rng.integers(answers, size=support + query)
        items = tuple((f"{number}/{row}", int(label)) for row, label in enumerate(labels))
        names = tuple(f"answer {number}/{a}" for a in range(answers))
        parts = items[:support], items[support:]
        tasks.append(Task(f"question {number}", names, "{}", "family", "group", *parts))
    images = [image for task in tasks for image, _ in (*task.support, *task.query)]
    sentences = [s for task in tasks for s in (task.sentence, *task.prompts())]

    def features(names):
        return (1 + 0.2 * rng.normal(size=(len(names), DIM))).astype(np.float32)

    known = {"image_ids": images, "image_features": features(images)}
    known |= {"sentences": sentences, "sentence_features": features(sentences)}
    return build_table(tasks, split_features(tasks, **known))


def task_alone(table: TaskTable, number: int) -> TaskBatch:
    """One task at exactly its own size, cut out of the table with numpy."""
    start, support, query, first, answers = (
        int(np.asarray(getattr(table, name))[number])
        for name in ("item_offset", "support_size", "query_size", "answer_offset", "answer_count")
    )

    def examples(start, size):
        rows = slice(start, start + size)
        features = table.image_features[table.item_image[rows]]
        return Examples(features[None], table.item_label[rows][None], np.ones((1, size), bool))

    return TaskBatch(
        question=take(table.questions, np.array([number])),
        answers=table.answer_features[first : first + answers][None],
        answer_mask=np.ones((1, answers), bool),
        support=examples(start, support),
        query=examples(start + support, query),
        mask=np.ones(1, bool),
    )


def one_task(table: TaskTable, number: int) -> TaskBatch:
    """`task_alone` without its axis T."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), task_alone(table, number))


def as_float64(tree):
    """The float leaves as jax arrays of float64; the caller turned x64 on."""

    def cast(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def numpy_logits(weights, features, answers):
    """[N, A] float64 logits of one adapter (method.md section 3)."""
    dim = features.shape[-1]
    hidden = (len(weights) - dim) // (2 * dim + 1)
    w1, b1, w2, b2 = np.split(
        np.asarray(weights, np.float64), np.cumsum([dim * hidden, hidden, dim * hidden])
    )
    h = np.maximum(features @ w1.reshape(dim, hidden) / np.sqrt(dim) + b1, 0)
    y = features + h @ w2.reshape(hidden, dim) / np.sqrt(hidden) + b2
    return numpy_cosines(y, answers)


def numpy_cosines(features, answers):
    """[N, A] float64: 100 cos."""
    features, answers = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.float64(features), answers)
    )
    return 100 * features @ answers.T


def numpy_loss(logits, label):
    """Mean cross-entropy of one task."""
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return (log_sum - logits[np.arange(len(label)), label]).mean()
