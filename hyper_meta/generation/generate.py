"""From a sentence to the weights of a classifier, and from those to answers:

    model = load_model("runs/quickstart")
    weights = generate(model, "Which colour does the seven have?", num_samples=8)
    predict(weights, ["scene.png"], answers=["red", "green", "blue"])

Whatever is wrong with an argument or a file is a UserError, raised before anything is computed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hyper_meta.core import parallel
from hyper_meta.core.arguments import (
    check_answers,
    check_guidance_scale,
    check_num_samples,
    check_seed,
    check_task,
    check_template,
)
from hyper_meta.core.configuration import stored_config
from hyper_meta.core.files import read_json, write_bytes
from hyper_meta.core.types import UserError
from hyper_meta.data.images import CorruptImage, decode
from hyper_meta.diffusion.latent_sampling import measure, moments, question_cosine
from hyper_meta.encoders.folder import (
    Encoder,
    encode_images,
    encode_texts,
    preprocess,
    tokenize,
)
from hyper_meta.methods.interface import seed_dir
from hyper_meta.networks.adapter import adapter_logits, num_weights
from hyper_meta.preparation.prepare import PRECOMPUTED, EncoderChoice, chosen_encoder, open_encoder
from hyper_meta.train import checkpoints
from hyper_meta.train.stages.hyperldm import Sampler, compile_sampler, denoiser_module, sample_tasks
from hyper_meta.train.stages.meta_learning import generator_module

FORMAT = "4"
IMAGE_BATCH = 64


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


@dataclasses.dataclass(frozen=True)
class Weights:
    """Adapters generated for one task, and what is needed to use them.

    weights: [P] float32, the network of the mean latent; samples: [K, P] float32, those of single
    latents; task: the sentence; templates: sentences with {} for an answer, the likeliest first,
    each with the answers it was trained with; encoder: where it is; encoder_fingerprint: 64 hex
    digits; embed_dim, hidden_dim: D and H of the adapter; blend: of
    its logits with CLIP's; guidance_scale, seed: what the latents were sampled with.
    """

    weights: np.ndarray
    samples: np.ndarray
    task: str
    templates: dict[str, list[str]]
    encoder: EncoderChoice
    encoder_fingerprint: str
    embed_dim: int
    hidden_dim: int
    blend: float
    guidance_scale: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Predictions:
    """answer: the most probable answer to each of N images; probabilities: [N, A] float32, a row
    sums to 1; agreement: [N] float32 in [0, 1], the share of samples that give the same answer;
    template: the sentence that the answers were put in."""

    answer: tuple[str, ...]
    probabilities: np.ndarray
    agreement: np.ndarray
    template: str


def load_model(workdir: str | os.PathLike) -> Model:
    """The model that a finished run left in its work directory, that of its first seed.

    Raises UserError where there is none, it is damaged, or the encoder is not the one of the run.
    """
    config = stored_config(Path(workdir))
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
    encoder = _load_encoder(choice, fingerprint)
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
    question = _embed(model.encoder, [task])
    (latents,) = sample_tasks(
        model.sampler,
        parallel.replicate({**model.hyperldm, "start": model.space["e0"]}),
        question,
        scale=scale,
        num_samples=num_samples,
        seed=seed,
    )
    latents = np.concatenate([latents.mean(axis=0, keepdims=True), latents])
    module = generator_module(model.config, question.shape[1])
    params = {"params": model.space["generator"]}
    networks = np.asarray(jax.jit(module.apply)(params, latents))
    if not np.isfinite(networks).all():
        raise UserError(f"guidance scale {scale} makes weights overflow: choose a smaller one")
    return Weights(
        weights=networks[0],
        samples=networks[1:],
        task=task,
        templates=nearest_templates(model, question[0]) if template is None else {template: []},
        encoder=model.encoder_choice,
        encoder_fingerprint=model.encoder.fingerprint,
        embed_dim=question.shape[1],
        hidden_dim=model.config.adapter.hidden_dim,
        blend=model.config.adapter.blend,
        guidance_scale=float(scale),
        seed=int(seed),
    )


def nearest_templates(model: Model, question: np.ndarray) -> dict[str, list[str]]:
    """The answer templates of training with their answers, by the nearness of their sentences to a
    question [D] float32: the cosine of standardised embeddings."""
    sentences = list(model.templates)
    known = _embed(model.encoder, sentences)
    (cosine,) = question_cosine(question[None], known, moments(known))
    nearest_first = np.argsort(-cosine, stable=True)
    ordered = dict.fromkeys(model.templates[sentences[row]] for row in nearest_first)
    return {template: model.answers[template] for template in ordered}


def choose_template(templates: Mapping[str, Sequence[str]], answers: Sequence[str]) -> str:
    """The template that was trained with most of the answers, the first of equals."""
    given = {" ".join(answer.split()).casefold() for answer in answers}
    return max(
        templates, key=lambda name: len(given.intersection(map(str.casefold, templates[name])))
    )


def predict(
    weights: Weights,
    images: Sequence[str | os.PathLike | Image.Image | np.ndarray],
    *,
    answers: Sequence[str],
    template: str | None = None,
) -> Predictions:
    """Answers the task of the weights for images of any size.

    images: N files, PIL images or uint8 arrays [H, W, 3]; answers: A of them; template: None for
    the one of the weights that fits the answers best.
    """
    check_answers(answers)
    template = choose_template(weights.templates, answers) if template is None else template
    check_template(template)
    pictures = read_images(images)
    encoder = _load_encoder(weights.encoder, weights.encoder_fingerprint)
    if weights.embed_dim != encoder.config.projection_dim:
        raise UserError(
            f"the weights are of an adapter of {weights.embed_dim} features, "
            f"the encoder {weights.encoder.name} has {encoder.config.projection_dim}"
        )
    prompts = _embed_answers(encoder, template, answers)
    networks = np.concatenate([weights.weights[None], weights.samples])
    features = _encode(encoder, pictures)
    run = jax.jit(_logits, static_argnames="blend")
    logits = np.asarray(run(networks, features, prompts, blend=weights.blend))
    chosen = logits.argmax(axis=-1)
    return Predictions(
        answer=tuple(answers[row] for row in chosen[0]),
        probabilities=np.asarray(jax.nn.softmax(logits[0], axis=-1)),
        agreement=(chosen[1:] == chosen[0]).mean(axis=0, dtype=np.float32),
        template=template,
    )


def save_weights(path: str | os.PathLike, weights: Weights) -> None:
    """Writes a safetensors file in place of any other; all of it or nothing."""
    fields = dataclasses.asdict(weights)
    arrays = {name: np.ascontiguousarray(fields.pop(name)) for name in ("weights", "samples")}
    fields["templates"] = json.dumps(fields["templates"])
    fields["encoder"] = json.dumps(fields["encoder"])
    metadata = {name: str(value) for name, value in fields.items()}
    write_bytes(Path(path), save(arrays, metadata={"format": FORMAT, **metadata}))


def load_weights(path: str | os.PathLike) -> Weights:
    """Reads what save_weights wrote.

    Raises UserError where the file is missing, damaged, not of this format, or its weights are not
    finite or not those of the adapter that it names.
    """
    if not Path(path).is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged or no weights file of hyper-meta: {error}") from error
    try:
        weights = _weights_from(metadata, arrays)
    except KeyError as error:
        raise UserError(f"{path} is no weights file of hyper-meta: it has no {error}") from error
    except ValueError as error:
        raise UserError(f"{path} is no weights file of this hyper-meta: {error}") from error
    _check_arrays(path, weights)
    return weights


def _weights_from(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> Weights:
    """Raises KeyError or ValueError where something is missing or no number."""
    if metadata["format"] != FORMAT:
        raise ValueError(f"it has format {metadata['format']}, {FORMAT} is expected")
    return Weights(
        weights=arrays["weights"],
        samples=arrays["samples"],
        task=metadata["task"],
        templates=_templates_from(metadata["templates"]),
        encoder=_encoder_from(metadata["encoder"]),
        encoder_fingerprint=metadata["encoder_fingerprint"],
        embed_dim=int(metadata["embed_dim"]),
        hidden_dim=int(metadata["hidden_dim"]),
        blend=float(metadata["blend"]),
        guidance_scale=float(metadata["guidance_scale"]),
        seed=int(metadata["seed"]),
    )


def _templates_from(text: str) -> dict[str, list[str]]:
    templates = json.loads(text)
    if not isinstance(templates, dict) or not templates:
        raise ValueError(f"its templates are {text}, an object with one or more is expected")
    for template, answers in templates.items():
        check_template(template)
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise ValueError(f"the answers of its template {template!r} are no list of strings")
    return templates


def _encoder_from(text: str) -> EncoderChoice:
    choice = json.loads(text)
    if not isinstance(choice, list) or [type(part) for part in choice] != [str] * 3:
        raise ValueError(f"its encoder is {text}, name, resizing and dtype are expected")
    return EncoderChoice(*choice)


def _check_arrays(path: str | os.PathLike, weights: Weights) -> None:
    size = num_weights(weights.embed_dim, weights.hidden_dim)
    shapes = {"weights": (size,), "samples": (len(weights.samples), size)}
    for name, shape in shapes.items():
        array = getattr(weights, name)
        if array.dtype != np.float32 or array.shape != shape or not array.size:
            raise UserError(
                f"{path} does not fit the adapter that it names ({weights.embed_dim} features, "
                f"{weights.hidden_dim} hidden): its {name} are {list(array.shape)} {array.dtype}, "
                f"{size} float32 each are expected"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path} has NaN or infinity in its {name}: generate it again")


def read_images(images: Sequence[Any]) -> list[Image.Image | np.ndarray]:
    """Opens the images that are given as files; raises UserError for one that cannot be read."""
    if isinstance(images, (str, os.PathLike, Image.Image)) or not len(images):
        raise UserError(f"the images are {images!r}, a list of one or more is expected")
    return [_open(image) if isinstance(image, (str, os.PathLike)) else image for image in images]


def _open(path: str | os.PathLike) -> Image.Image:
    try:
        return decode(str(path), Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror or error}") from error
    except CorruptImage as error:
        raise UserError(f"cannot read image {error}") from error


def _noted(folder: Path, notes: Any, name: str) -> Any:
    if not isinstance(notes, dict) or name not in notes:
        raise UserError(f"{folder} is damaged, its notes.json says no {name}: run evaluate again")
    return notes[name]


@functools.lru_cache(maxsize=2)
def _load_encoder(choice: EncoderChoice, fingerprint: str) -> Encoder:
    """An encoder of this fingerprint, compiled once for all calls that use it."""
    encoder = open_encoder(choice)
    if encoder.fingerprint != fingerprint:
        raise UserError(
            f"made with another encoder ({fingerprint[:12]}) than {choice.name} "
            f"({encoder.fingerprint[:12]}): put that one back, or train and generate with this one"
        )
    return encoder


def _abstract_tree(config: ConfigDict, encoder: Encoder) -> dict[str, Any]:
    """Shapes of what the evaluation saves."""
    embed_dim, latent_dim = encoder.config.projection_dim, config.hnet.latent_dim
    latent, question = (jnp.zeros((1, dim)) for dim in (latent_dim, embed_dim))
    time, keep = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
    key = jax.random.key(0)
    generator = generator_module(config, embed_dim)
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


def _embed(encoder: Encoder, sentences: Sequence[str]) -> np.ndarray:
    """[n, D] float32."""
    return np.asarray(jax.jit(encode_texts)(encoder, tokenize(encoder, sentences)))


def _embed_answers(encoder: Encoder, template: str, answers: Sequence[str]) -> np.ndarray:
    """[A, D] float32; raises UserError where two answers are the same to the encoder."""
    prompts = [template.replace("{}", answer) for answer in answers]
    token_ids = tokenize(encoder, prompts)
    _, first, inverse = np.unique(token_ids, axis=0, return_index=True, return_inverse=True)
    for row, same in enumerate(first[inverse.ravel()]):
        if row != same:
            raise UserError(
                f"the encoder cannot tell {answers[same]!r} from {answers[row]!r}: it reads the "
                f"first {encoder.config.max_position_embeddings} tokens of {prompts[row]!r}"
            )
    return np.asarray(jax.jit(encode_texts)(encoder, token_ids))


def _encode(encoder: Encoder, images: Sequence[Image.Image | np.ndarray]) -> np.ndarray:
    """[N, D] float32, in batches of one size."""
    size = min(IMAGE_BATCH, len(images))
    run = jax.jit(encode_images)
    parts = []
    for start in range(0, len(images), size):
        pixels = preprocess(encoder, images[start : start + size])
        padded = np.concatenate([pixels, pixels[:1].repeat(size - len(pixels), axis=0)])
        parts.append(np.asarray(run(encoder, padded))[: len(pixels)])
    return np.concatenate(parts)


def _logits(
    networks: jax.Array, features: jax.Array, answers: jax.Array, *, blend: float
) -> jax.Array:
    """Networks [n, P], images [N, D], prompts [A, D] float32 -> [n, N, A] float32."""
    mask = jnp.ones(len(answers), bool)
    return jax.vmap(lambda net: adapter_logits(net, features, answers, mask, blend=blend))(networks)
