"""From a sentence to the weights of a classifier:

    model = load_model("runs/quickstart")
    weights = generate(model, "Colour of the top left digit?")

Whatever is wrong with an argument or a file is a UserError, raised before anything is computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.arguments import (
    check_guidance_scale,
    check_num_samples,
    check_seed,
    check_task,
    check_template,
)
from hyper_meta.core.memory import check_fits
from hyper_meta.core.numerics import own_numerics
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.encoders.folder import tokenize
from hyper_meta.encoders.questions import (
    check_length,
    tokenize_questions,
)
from hyper_meta.generation.model import Model
from hyper_meta.generation.weights_file import Weights
from hyper_meta.methods.guides import mean_points
from hyper_meta.methods.signs import (
    MOST_ANSWERS,
    fit_of,
    some_answers,
    stack_signs,
)
from hyper_meta.methods.trust import Judgement, judge


@own_numerics()
def generate(
    model: Model,
    task: str,
    *,
    num_samples: int | None = None,
    guidance_scale: float | None = None,
    template: str | None = None,
    seed: int = 0,
) -> Weights:
    """The weights of a network for a task that is given as a sentence.

    num_samples: None for as many as the evaluation drew; more than one only of a method that
    samples. guidance_scale: None for the one that was chosen on validation tasks; a number only for
    a method with classifier-free guidance. A task of more tokens than the encoder of questions
    reads is refused. template: None for those of training, among which
    `predict` chooses by the answers. The result's `weights` are of the mean sample, as in the
    evaluation, or where a method's networks vote (`votes`) of the first. Its `expected_accuracy`
    and `warnings` say how far it can be trusted.
    """
    check_task(task)
    check_seed(seed)
    if template is not None:
        check_template(template)
    guide = model.guide
    num_samples, value = _sampling(model, num_samples, guidance_scale)
    check_length(model.question_encoder, task)
    question = _read(model, task)
    sample = functools.partial(guide.sample, question, value, seed=seed)
    points = sample(num_samples=num_samples)
    networks = _networks(model, points, value)
    near = nearest_sentences(model, question)
    if num_samples != guide.num_samples:  # what is expected is of as many as the evaluation drew
        points = sample(num_samples=guide.num_samples)
    judged = _judge(model, task, question, near, points, value)
    return Weights(
        weights=networks[0],
        samples=networks[1:],
        network=guide.network,
        task=task,
        templates=nearest_templates(model, near) if template is None else {template: []},
        encoder=model.encoder_choice,
        encoder_fingerprint=model.encoder.fingerprint,
        method=guide.name,
        guidance_scale=float(value) if guide.scaled else None,
        seed=int(seed),
        votes=guide.votes,
        **dataclasses.asdict(judged),
    )


def _networks(model: Model, points: Any, value: Any) -> np.ndarray:
    """[1 + K, P] float32: the network of the mean point, or where networks vote the first of them,
    and those of all K points of one sentence, leaves [1, K, ...]. value: that they were made at.
    Raises UserError where it is too large for finite weights."""
    guide, run = model.guide, model.programs.generate
    if guide.votes:
        networks = run(guide.model, jax.tree.map(lambda leaf: leaf[0], points))
        networks = np.concatenate([networks[:1], networks])
    else:
        together = jax.tree.map(
            lambda *leaves: np.concatenate(leaves, axis=1)[0], mean_points(points), points
        )
        networks = np.asarray(run(guide.model, together))
    if not np.isfinite(networks).all():
        told = f"guidance scale {value}" if guide.scaled else f"{guide.name}"
        raise UserError(f"{told} makes weights overflow: choose a smaller scale or another method")
    return networks


def _sampling(
    model: Model, num_samples: int | None, guidance_scale: float | None
) -> tuple[int, Any]:
    """(number of samples, value of the guide's settings), checked."""
    guide = model.guide
    if num_samples is None:
        num_samples = guide.num_samples
    check_num_samples(num_samples)
    check_fits(
        2 * 4 * num_samples * guide.network.num_weights,
        f"{num_samples:,} networks of {guide.network.num_weights:,} weights",
        "ask for fewer samples",
    )
    if guide.votes and num_samples != guide.num_samples:
        raise UserError(
            f"{num_samples} samples asked for, {guide.name} is made of {guide.num_samples} "
            "networks that answer together: leave the number out"
        )
    if num_samples > 1 and not guide.random and not guide.votes:
        raise UserError(
            f"{num_samples} samples asked for, {guide.name} generates one network for a sentence: "
            "leave the number out, or choose a method that samples, such as hnet_hyperldm"
        )
    if guidance_scale is None:
        return num_samples, model.value
    check_guidance_scale(guidance_scale)
    if not guide.scaled:
        raise UserError(
            f"guidance scale {guidance_scale:g} given, {guide.name} has none: leave it out, or "
            "choose a method with classifier-free guidance, such as hnet_hyperldm"
        )
    return num_samples, guidance_scale


def nearest_sentences(model: Model, question: SentenceFeatures) -> dict[str, float]:
    """{training sentence: cosine of its standardised embedding with that of one question}, leading
    axis 1; the nearest first."""
    sentences = list(model.templates)
    cosine = np.asarray(model.programs.nearness(model.sentences, question))
    nearest_first = np.argsort(-cosine, stable=True)
    return {sentences[row]: float(cosine[row]) for row in nearest_first}


def nearest_templates(model: Model, sentences: Iterable[str]) -> dict[str, list[str]]:
    """The answer templates of training sentences with their answers, in their order."""
    ordered = dict.fromkeys(model.templates[sentence] for sentence in sentences)
    return {template: model.answers[template] for template in ordered}


def _judge(
    model: Model,
    task: str,
    question: SentenceFeatures,
    near: Mapping[str, float],
    points: Any,
    value: Any,
) -> Judgement:
    """How far the networks of one sentence can be trusted, as methods.signs judges those of tasks.

    near: see `nearest_sentences`; points: leaves [1, K, ...]; value: that they were made at.
    """
    guide, encoder = model.guide, model.encoder
    nearest, nearness = next(iter(near.items()))
    template = model.templates[nearest]
    answers = [template.replace("{}", name) for name in some_answers(model.answers[template])]
    token_ids = parallel.fill_rows(tokenize(encoder, answers), MOST_ANSWERS)
    signs = model.programs.signs(
        _networks(model, points, value),
        model.images,
        model.programs.embed(encoder, token_ids),
        np.arange(MOST_ANSWERS) < len(answers),
    )
    signs |= {"nearness": nearness, "fit": fit_of(guide, question, points)}
    judged = judge(model.trust, task, stack_signs(jax.tree.map(np.atleast_1d, signs)))
    if value == model.value:
        return judged
    told = f"accuracy was checked at guidance scale {model.value:g}, not at {value:g}"
    return dataclasses.replace(judged, warnings=(*judged.warnings, told))


def _read(model: Model, sentence: str) -> SentenceFeatures:
    """The features of a sentence, numpy, leading axis 1."""
    encoder = model.question_encoder
    token_ids = tokenize_questions(encoder, [sentence])
    return jax.device_get(model.programs.read(encoder, token_ids))
