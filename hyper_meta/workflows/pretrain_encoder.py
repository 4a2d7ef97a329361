"""Pre-training of the bundled encoder: tokenizer, CLIP, measured model card, folder."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hyper_meta.core.losses import normalise
from hyper_meta.core.settings import EncoderSettings
from hyper_meta.core.settings.encoder import TowerSettings
from hyper_meta.data.digits_vqa.captions import make_captions, trained_concepts
from hyper_meta.data.digits_vqa.families import FAMILIES
from hyper_meta.data.digits_vqa.questions import fill
from hyper_meta.data.digits_vqa.scenes import render, sample_scenes
from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import CLIPConfig, TowerConfig
from hyper_meta.encoders.folder import (
    Encoder,
    encode_images,
    encode_texts,
    load_encoder,
    preprocess,
    save_encoder,
    tokenize,
)
from hyper_meta.encoders.tokenizer import train_tokenizer
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages.encoder import pretraining_stage

NUM_TOKENIZER_SENTENCES = 20_000
NUM_CARD_SCENES = 1000


def pretrain_encoder(config: EncoderSettings, workdir: Path, out: Path) -> dict:
    """Trains the encoder that the config describes and writes its folder, card included.

    Resumes in workdir. Returns the measurements of the card. Raises UserError where out is taken.
    """
    rng = np.random.default_rng(config.seed)
    scenes = sample_scenes(rng, NUM_TOKENIZER_SENTENCES, handwriting="train")
    sentences, _ = make_captions(rng, scenes)
    tokenizer = train_tokenizer(
        sentences, vocab_size=config.vocab_size, max_length=config.max_tokens
    )
    clip_config = make_clip_config(config, len(tokenizer), tokenizer.eos_token_id)

    def fixed_tokens(sentences: list[str]) -> np.ndarray:
        padded = tokenizer(
            sentences, truncation=True, padding="max_length", max_length=config.max_tokens
        )
        return np.asarray(padded["input_ids"], np.int32)

    def normalised(pixels: jax.Array) -> jax.Array:
        return (pixels.astype(jnp.float32) / 255 - config.image_mean) / config.image_std

    stage = pretraining_stage(
        config, CLIP(clip_config), tokenize=fixed_tokens, preprocess=normalised
    )
    state, _ = run_stage(
        stage,
        workdir / "encoder",
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        progress=True,
    )
    save_encoder(
        out,
        config=clip_config,
        params=state.params,
        tokenizer=tokenizer,
        image_mean=[config.image_mean] * 3,
        image_std=[config.image_std] * 3,
    )
    measured = measure_encoder(load_encoder(out))
    (out / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")
    return measured


def make_clip_config(config: EncoderSettings, vocab_size: int, eos_token_id: int) -> CLIPConfig:
    """The CLIP that the config describes, for a tokenizer of this size and end token."""

    def tower(settings: TowerSettings) -> TowerConfig:
        return TowerConfig(
            hidden_size=settings.width,
            intermediate_size=settings.mlp,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        )

    return CLIPConfig(
        text=tower(config.text),
        vision=tower(config.vision),
        projection_dim=config.embed_dim,
        vocab_size=vocab_size,
        max_position_embeddings=config.max_tokens,
        eos_token_id=eos_token_id,
        image_size=config.image_size,
        patch_size=config.patch_size,
        logit_scale_init_value=float(np.log(1 / 0.07)),
    )


def measure_encoder(encoder: Encoder) -> dict:
    """The measurements of the model card, in percent, on scenes in held-out handwriting.

    Returns a dict:
      "retrieval": how often a sentence is true of the nearest of 1,000 images.
      "chance": how often a sentence is true of a random image.
      "families": {family: accuracy on trained concepts of the answer nearest to the image, after
        its question}.
      "image_norm": the mean length of an image embedding, not in percent.
    """
    rng = np.random.default_rng(0)
    scenes = sample_scenes(rng, NUM_CARD_SCENES, handwriting="test")
    pixels = preprocess(encoder, list(render(scenes)))
    images = np.asarray(jax.jit(encode_images)(encoder, pixels))
    embed_texts = jax.jit(encode_texts)

    def cosines(sentences: list[str]) -> np.ndarray:
        texts = normalise(embed_texts(encoder, tokenize(encoder, sentences)))
        return np.asarray(normalise(images) @ texts.T)

    sentences, truth = make_captions(rng, scenes)
    right = truth[cosines(sentences).argmax(axis=0), np.arange(len(sentences))]
    families = {family.name: [] for family in FAMILIES}
    for family, referent in trained_concepts():
        name = family.referents[referent]
        question = fill(family.train[0], r=name)
        prompts = [f"{question} {family.template.format(a)}" for a in family.answers]
        chosen = cosines(prompts).argmax(axis=1)
        answers = family.answer_fn(scenes, referent)
        families[family.name].append((chosen == answers)[answers >= 0].mean())
    return {
        "retrieval": 100 * float(right.mean()),
        "chance": 100 * float(truth.mean()),
        "families": {name: 100 * float(np.mean(values)) for name, values in families.items()},
        "image_norm": float(np.linalg.norm(images, axis=1).mean()),
    }
