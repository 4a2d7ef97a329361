"""Several generators distilled into one (Hinton et al. 2015), on sentences with and without labels
(method.md section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.training import DistilledSettings
from hyper_meta.core.types import Examples, SentenceFeatures, TaskBatch
from hyper_meta.data.table import TaskTable
from hyper_meta.meta.learners import Learner
from hyper_meta.meta.objectives import all_examples, meta_objective
from hyper_meta.models.sentences import keep_sentences, measure_sentences, take
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.language import (
    begun,
    drop_sentences,
    inner_loop,
    judged,
    kept_sentences,
    language_learner,
)
from hyper_meta.train.stages.parts import stage_network
from hyper_meta.train.stages.task_stage import Drawn, Plan, TaskModel, task_stage


@dataclasses.dataclass(frozen=True)
class NewSentences:
    """Sentences without labels, for the training tasks that they are near to.

    questions: n of them, leading axis n, with as many tokens as the table's; choices: for each
    training task the rows of its own, repeated to K, or -1 where it has none.
    """

    questions: SentenceFeatures
    choices: Int[np.ndarray, "T K"]


def new_sentences(
    questions: SentenceFeatures, rows_of: Sequence[Sequence[int]], num_tasks: int
) -> NewSentences:
    """rows_of: for each of n sentences the training tasks that it belongs to."""
    own: list[list[int]] = [[] for _ in range(num_tasks)]
    for row, tasks in enumerate(rows_of):
        for task in tasks:
            own[task].append(row)
    width = max(1, *map(len, own))
    filled = [(rows * width)[:width] if rows else [-1] * width for rows in own]
    return NewSentences(questions, np.array(filled, np.int32))


def fit_length(
    questions: SentenceFeatures, length: int
) -> tuple[SentenceFeatures, Int[np.ndarray, " n"]]:
    """Sentences of at most `length` tokens, padded to it, and their rows among all n."""
    if questions.tokens is None:
        return questions, np.arange(len(questions.pooled))
    rows = np.flatnonzero(np.asarray(questions.mask).sum(axis=1) <= length)
    kept = take(questions, rows)

    def fit(leaf: np.ndarray) -> np.ndarray:
        leaf = np.asarray(leaf)[:, :length]
        return np.pad(leaf, [(0, 0), (0, length - leaf.shape[1]), *[(0, 0)] * (leaf.ndim - 2)])

    return kept.replace(tokens=fit(kept.tokens), mask=fit(kept.mask)), rows


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a generator learns beside the labels of the training tasks.

    teacher: parameters of the generators, leaves [M, ...]; new: sentences to ask them.
    """

    teacher: Any
    new: NewSentences


def distilled_stage(
    section: str,
    config: RunSettings,
    train: TaskTable,
    validation: TaskTable,
    *,
    name: str,
    lesson: Lesson,
    learning_rate: float,
) -> Stage:
    """As `language_stage`, but where the sentence starts, the loss is that of the labels and of the
    mean log-probabilities of several generators.

    section: of the config, a DistilledSettings.
    """
    settings: DistilledSettings = getattr(config, section)
    student, init_params = begun(config, settings, train)
    network, measured = stage_network(config, train), measure_sentences(train.questions)
    teachers = language_learner(config, config.generators, network, measured)
    share, adapted = settings.adapted_share, meta_objective(student, inner_loop(settings))

    def loss(
        params: Any, groups: Sequence[TaskBatch], drawn: Sequence[Drawn]
    ) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        sums = [
            _group_loss(settings, (student, params), teachers, tasks, draw)
            for tasks, draw in zip(groups, drawn, strict=True)
        ]
        total, count, divergence = (sum(parts) for parts in zip(*sums, strict=True))
        metrics = {"divergence": (divergence, count)}
        if share:
            after, (_, of_adapted) = adapted(params, drop_sentences(settings, groups, drawn))
            total = (1 - share) * total + share * after
            metrics["accuracy"] = of_adapted["accuracy"]
        return total, (count, metrics)

    model = TaskModel(
        init_params,
        loss,
        judged=judged(settings, student),
        data={
            "teacher": lesson.teacher,
            "questions": lesson.new.questions,
            "choices": lesson.new.choices,
        },
    )
    return task_stage(Plan(name, settings, learning_rate), config, (train, validation), model)


def _group_loss(
    settings: DistilledSettings,
    own: tuple[Learner, Any],
    teachers: Learner,
    tasks: TaskBatch,
    drawn: Drawn,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sum of the losses, number of tasks, sum of the divergences) of one group. A task that lost
    its sentence learns from labels alone."""
    student, params = own
    question, is_new = _asked(settings.recombined_share, tasks.question, drawn)
    heard = is_new | kept_sentences(settings, drawn)
    share = jnp.where(heard, settings.teacher_share, 0.0)
    examples = all_examples(tasks)
    ours = _log_probabilities(student, params, keep_sentences(question, heard), examples, tasks)
    of_member = jax.vmap(_log_probabilities, (None, 0, None, None, None))
    theirs = of_member(teachers, drawn.data["teacher"], question, examples, tasks).mean(axis=0)
    theirs = jax.lax.stop_gradient(jax.nn.log_softmax(theirs, axis=-1))
    divergence = _mean(jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1), examples)
    right = jnp.take_along_axis(ours, examples.label[..., None], axis=-1)[..., 0]
    labelled = jnp.where(is_new, 0, _mean(-right, examples))
    losses = share * divergence + (1 - share) * labelled
    mask = tasks.mask
    return (
        jnp.where(mask, losses, 0).sum(),
        mask.sum().astype(jnp.float32),
        jnp.where(mask, divergence, 0).sum(),
    )


def _asked(
    share: float, question: SentenceFeatures, drawn: Drawn
) -> tuple[SentenceFeatures, jax.Array]:
    """The questions of B tasks, a share of them replaced by new sentences; and which."""
    choices = drawn.data["choices"]

    def draw(key: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        place_key, share_key = jax.random.split(key)
        chosen = choices[row, jax.random.randint(place_key, (), 0, choices.shape[1])]
        return chosen, (chosen >= 0) & jax.random.bernoulli(share_key, share)

    chosen, is_new = jax.vmap(draw)(drawn.keys, drawn.rows)
    new = take(drawn.data["questions"], jnp.maximum(chosen, 0))

    def pick(known: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(is_new.reshape(-1, *[1] * (known.ndim - 1)), other, known)

    return jax.tree.map(pick, question, new), is_new


def _log_probabilities(
    learner: Learner,
    params: Any,
    questions: SentenceFeatures,
    examples: Examples,
    tasks: TaskBatch,
) -> Float[jax.Array, "B N A"]:
    """Of the networks where the sentences start, on examples [B, N]."""

    def one(question, features, answers, answer_mask):
        weights = learner.weights(params, question, learner.start(params, question, 0))
        logits = learner.network.logits(weights, features, answers, answer_mask)
        return jax.nn.log_softmax(logits, axis=-1)

    return jax.vmap(one)(questions, examples.features, tasks.answers, tasks.answer_mask)


def _mean(values: Float[jax.Array, "B N"], examples: Examples) -> Float[jax.Array, " B"]:
    """Over the examples of each task that are not padded."""
    count = jnp.maximum(examples.mask.sum(axis=-1), 1)
    return jnp.where(examples.mask, values, 0).sum(axis=-1) / count
