"""What can be known of a sentence's networks before any label is seen, and may say how often they
are right.

nearness: the largest cosine between the sentence and a training sentence, features standardised.
spread: how far the networks of the samples lie from their mean, over the norm of that; 0 where
there is one network, and where networks vote, whose weights need have nothing in common.
agreement, confidence: on a fixed set of training images, with the answers of the nearest training
sentence: the share of networks that give the answer of all together, and the mean of the largest
probability.
fit: HyperCLIP's log-probability of the sentence given its networks, 0 for a guide without one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from hyper_meta.core import parallel
from hyper_meta.core.types import Array, SentenceFeatures
from hyper_meta.methods.cache import Program
from hyper_meta.methods.guides import Guide, points_of, replicated_model
from hyper_meta.methods.interface import Setup, remember, split_questions
from hyper_meta.models.sentences import measure_sentences, sentence_cosine
from hyper_meta.networks.base import BaseNetwork

SIGNS = ("nearness", "spread", "agreement", "confidence", "fit")
NUM_IMAGES = 64
MOST_ANSWERS = 32  # of a template
BLOCK = 32  # tasks whose networks are generated at once


@dataclasses.dataclass(frozen=True)
class Asked:
    """The tasks of a split, as guides are asked them without their own answers.

    questions: leading axis T; nearness: [T]; answers: [T, A, D] float32, `some_answers` of the
    template of the nearest training sentence, answer_mask: [T, A].
    """

    questions: SentenceFeatures
    nearness: Float[np.ndarray, " T"]
    answers: Float[np.ndarray, "T A D"]
    answer_mask: Bool[np.ndarray, "T A"]


def probe_images(setup: Setup) -> Float[np.ndarray, "n D"]:
    """The features of NUM_IMAGES training images drawn by the seed, or of all if there are less."""
    table = setup.tables["train"]
    images = np.unique(np.asarray(table.item_image))
    rng = np.random.default_rng([setup.config.seed, NUM_IMAGES])
    chosen = rng.permutation(images)[:NUM_IMAGES]
    return np.asarray(table.image_features, np.float32)[np.sort(chosen)]


def ask(setup: Setup, split: str) -> Asked:
    """The tasks of "validation" or "test"."""
    known, questions = setup.tables["train"].questions, split_questions(setup, split)
    cosine = np.asarray(sentence_cosine(measure_sentences(known), questions, known))
    by_template = _known_answers(setup)
    templates = [setup.tasks["train"][row].template for row in cosine.argmax(axis=1)]
    most = max(map(len, by_template.values()))
    answers = np.zeros((len(templates), most, setup.embed_dim), np.float32)
    mask = np.zeros((len(templates), most), bool)
    for row, template in enumerate(templates):
        found = by_template[template]
        answers[row, : len(found)], mask[row, : len(found)] = found, True
    return Asked(questions, cosine.max(axis=1).astype(np.float64), answers, mask)


def _known_answers(setup: Setup) -> dict[str, np.ndarray]:
    """{template: features [A, D] of `some_answers`}."""
    table, rows = setup.tables["train"], {}
    for task, start in zip(setup.tasks["train"], np.asarray(table.answer_offset), strict=True):
        for place, answer in enumerate(task.answers):
            rows.setdefault(task.template, {}).setdefault(answer, int(start) + place)
    features = np.asarray(table.answer_features)
    return {
        template: features[[answers[name] for name in some_answers(answers)]]
        for template, answers in rows.items()
    }


def some_answers(answers: Iterable[str]) -> list[str]:
    """Of all answers that training tasks have with a template, those that it is tried with."""
    return sorted(answers)[:MOST_ANSWERS]


def signs_of(
    setup: Setup,
    guide: Guide,
    *,
    value: Any,
    split: str,
    asked: Asked,
    images: Float[np.ndarray, "n D"],
) -> Float[np.ndarray, "T S"]:
    """[T, S] float64: SIGNS of the tasks of a split, at a value of the guide's settings."""
    points = points_of(setup, guide, split, value)
    program = Program("signs", guide.name)
    run = remember(
        setup,
        setup.cache.programs,
        program,
        lambda: parallel.compile_map(_signs_of_points(guide)),
    )
    params = replicated_model(setup, guide), parallel.replicate(images)
    rows = {"points": points, "joint": guide.answering(points)}
    rows |= {"answers": asked.answers, "answer_mask": asked.answer_mask}
    found = []
    for first in range(0, len(asked.nearness), BLOCK):
        part = jax.tree.map(lambda leaf: leaf[first : first + BLOCK], rows)  # noqa: B023
        filled = parallel.fill_devices(parallel.fill_rows(part, BLOCK))
        out = run(params, None, filled)
        found.append(jax.tree.map(lambda leaf: leaf[: len(part["answers"])], out))  # noqa: B023
    signs = jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)
    signs |= {"nearness": asked.nearness, "fit": fit_of(guide, asked.questions, points)}
    return stack_signs(signs)


def stack_signs(signs: Mapping[str, Any]) -> Float[np.ndarray, "T S"]:
    """[T, S] float64, from {sign: [T]}."""
    return np.stack([np.asarray(signs[name], np.float64) for name in SIGNS], axis=1)


def fit_of(guide: Guide, questions: SentenceFeatures, points: Any) -> Float[np.ndarray, " n"]:
    """[n]: what HyperCLIP says of n sentences and their points, on average over samples."""
    if guide.fit_fn is None:
        return np.zeros(len(questions.pooled))
    return np.asarray(guide.fit_fn(points, questions), np.float64).mean(axis=1)


def _signs_of_points(guide: Guide) -> Callable:
    def of_task(params: Any, task: Mapping[str, Any]) -> dict[str, jax.Array]:
        model, images = params
        samples, joint = (guide.generate(model, task[name]) for name in ("points", "joint"))
        return network_signs(
            guide.network,
            guide.votes,
            jnp.concatenate([joint[:1], samples]),
            images,
            task["answers"],
            task["answer_mask"],
        )

    return lambda params, _, tasks: jax.vmap(of_task, (None, 0))(params, tasks)


def network_signs(
    network: BaseNetwork,
    votes: bool,
    weights: Float[Array, "K1 P"],
    images: Float[Array, "n D"],
    answers: Float[Array, "A D"],
    answer_mask: Bool[Array, " A"],
) -> dict[str, Float[Array, ""]]:
    """{"spread", "agreement", "confidence"}, numbers, of the networks of one sentence.

    votes: whether the K networks of its samples answer together; else the first does.
    weights: [1 + K, P], the answering network and those of samples.
    """
    samples = weights[1:]

    def log_probabilities(weights: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(network.logits(weights, images, answers, answer_mask))

    logs = jax.vmap(log_probabilities)(weights)
    joint = jax.nn.log_softmax(logs[1:].mean(axis=0)) if votes else logs[0]
    centre = samples.mean(axis=0)
    square = jnp.mean(jnp.sum((samples - centre) ** 2, axis=-1))
    spread = jnp.sqrt(square / jnp.maximum(jnp.sum(centre**2), 1e-12))
    agree = logs[1:].argmax(axis=-1) == joint.argmax(axis=-1)
    return {
        "spread": jnp.zeros(()) if votes else spread,
        "agreement": agree.mean(),
        "confidence": jnp.exp(joint.max(axis=-1)).mean(),
    }
