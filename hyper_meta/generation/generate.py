"""From a sentence to the weights of a classifier, and from those to answers:

    model = load_model("runs/quickstart")
    weights = generate(model, "Which colour does the seven have?", num_samples=8)
    predict(weights, ["scene.png"], answers=["red", "green", "blue"])

Whatever is wrong with an argument or a file is a UserError, raised before anything is computed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hyper_meta.core import parallel
from hyper_meta.core.arguments import (
    check_guidance_scale,
    check_num_samples,
    check_seed,
    check_task,
    check_template,
)
from hyper_meta.core.configuration import stored_settings
from hyper_meta.core.files import read_json
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.diffusion.latent_sampling import measure
from hyper_meta.encoders.folder import (
    Encoder,
    encode_questions,
    tokenize,
)
from hyper_meta.generation.predict import fetch_encoder
from hyper_meta.generation.weights_file import Weights
from hyper_meta.methods.interface import seed_dir
from hyper_meta.models.sentences import measure_sentences, sentence_cosine
from hyper_meta.networks.registry import configured_network
from hyper_meta.preparation.prepare import PRECOMPUTED, EncoderChoice, chosen_encoder
from hyper_meta.train import checkpoints
from hyper_meta.train.stages.hyperldm import Sampler, compile_sampler, denoiser_module, sample_tasks
from hyper_meta.train.stages.meta_learning import generator_module


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained HyperLDM with all that it needs to turn a sentence into weights.

    config: of its run; encoder: loaded; encoder_choice: where it is; space: {"e0", "generator"};
    hyperldm: {"params", "statistics"}; guidance_scale: chosen on validation tasks; templates:
    {training sentence: answer template}; answers: {template: the answers it was trained with};
    sampler: compiled by its first use.
    """

    config: ConfigDict
    encoder: Encoder
    encoder_choice: EncoderChoice
    space: Any
    hyperldm: dict[str, Any]
    guidance_scale: float
    templates: dict[str, str]
    answers: dict[str, list[str]]
    sampler: Sampler


def load_model(workdir: str | os.PathLike) -> Model:
    """The model that a finished run left in its work directory, that of its first seed.

    Raises UserError where there is none, it is damaged, or the encoder is not the one of the run.
    """
    config = stored_settings(Path(workdir))
    folder = seed_dir(Path(workdir), config.seed) / "model"
    if not folder.is_dir():
        raise UserError(
            f"{workdir} holds no finished model: run hyper-meta evaluate --workdir {workdir} first"
        )
    fingerprint = _noted(folder, read_json(folder / "notes.json"), "encoder")
    if config.dataset == PRECOMPUTED:
        raise UserError(
            f"{workdir} is a run on precomputed features: there is no encoder for a new sentence"
        )
    choice = chosen_encoder(config)
    encoder = fetch_encoder(choice, fingerprint)
    tree, notes = checkpoints.restore_tree(folder, _abstract_tree(config, encoder))
    return Model(
        config=config,
        encoder=encoder,
        encoder_choice=choice,
        space=tree["space"],
        hyperldm=tree["hyperldm"],
        guidance_scale=float(_noted(folder, notes, "guidance_scale")),
        templates=_noted(folder, notes, "templates"),
        answers=_noted(folder, notes, "answers"),
        sampler=compile_sampler(config),
    )


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

    num_samples: latents to draw, None for as many as the evaluation drew; guidance_scale: None for
    the one that was chosen on validation tasks; template: None for those of training, among which
    `predict` chooses by the answers. The result's `weights` are of the mean latent, as in the
    evaluation.
    """
    num_samples = model.config.hyperldm.num_samples if num_samples is None else num_samples
    scale = model.guidance_scale if guidance_scale is None else guidance_scale
    check_task(task)
    check_num_samples(num_samples)
    check_guidance_scale(scale)
    check_seed(seed)
    if template is not None:
        check_template(template)
    question = _embed_questions(model, [task])
    (latents,) = sample_tasks(
        model.sampler,
        parallel.replicate({**model.hyperldm, "start": model.space["e0"]}),
        question,
        scale=scale,
        num_samples=num_samples,
        seed=seed,
    )
    latents = np.concatenate([latents.mean(axis=0, keepdims=True), latents])
    network = configured_network(model.config.network, model.encoder.config.projection_dim)
    module = generator_module(model.config, network)
    params = {"params": model.space["generator"]}
    networks = np.asarray(jax.jit(module.apply)(params, latents))
    if not np.isfinite(networks).all():
        raise UserError(f"guidance scale {scale} makes weights overflow: choose a smaller one")
    return Weights(
        weights=networks[0],
        samples=networks[1:],
        network=network,
        task=task,
        templates=nearest_templates(model, question) if template is None else {template: []},
        encoder=model.encoder_choice,
        encoder_fingerprint=model.encoder.fingerprint,
        method="hnet_hyperldm",
        guidance_scale=float(scale),
        seed=int(seed),
    )


def nearest_templates(model: Model, question: SentenceFeatures) -> dict[str, list[str]]:
    """The answer templates of training with their answers, by the nearness of their sentences to a
    question, of leading axis 1: the cosine of standardised embeddings."""
    sentences = list(model.templates)
    known = _embed_questions(model, sentences)
    (cosine,) = sentence_cosine(measure_sentences(known), question, known)
    nearest_first = np.argsort(-cosine, stable=True)
    ordered = dict.fromkeys(model.templates[sentences[row]] for row in nearest_first)
    return {template: model.answers[template] for template in ordered}


def _noted(folder: Path, notes: Any, name: str) -> Any:
    if not isinstance(notes, dict) or name not in notes:
        raise UserError(f"{folder} is damaged, its notes.json says no {name}: run evaluate again")
    return notes[name]


def _abstract_tree(config: ConfigDict, encoder: Encoder) -> dict[str, Any]:
    """Shapes of what the evaluation saves."""
    embed_dim, latent_dim = encoder.config.projection_dim, config.hnet.latent_dim
    latent, token_ids = jnp.zeros((1, latent_dim)), jnp.zeros((1, 1), jnp.int32)
    encode = functools.partial(encode_questions, with_tokens=config.question_tokens)
    question = jax.eval_shape(encode, encoder, token_ids)
    time, keep = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
    key = jax.random.key(0)
    generator = generator_module(config, configured_network(config.network, embed_dim))
    denoiser = denoiser_module(config, latent_dim)
    statistics = jax.eval_shape(measure, latent, question)
    params = jax.eval_shape(denoiser.init, key, latent, time, question, keep)["params"]
    return {
        "space": {
            "e0": jax.ShapeDtypeStruct((latent_dim,), np.float32),
            "generator": jax.eval_shape(generator.init, key, latent)["params"],
        },
        "hyperldm": {"params": params, "statistics": statistics},
    }


def _embed_questions(model: Model, sentences: Sequence[str]) -> SentenceFeatures:
    """The features of n sentences, numpy, leading axis n."""
    run = jax.jit(encode_questions, static_argnames="with_tokens")
    token_ids = tokenize(model.encoder, sentences)
    return jax.device_get(run(model.encoder, token_ids, with_tokens=model.config.question_tokens))
