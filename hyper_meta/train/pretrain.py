"""Contrastive pre-training of the bundled encoder on rendered scenes and sentences about them.

A training stage like the others: batches are made from the step number, so it can be interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyper_meta import parallel
from hyper_meta.data.digits_vqa.captions import make_captions, make_sentence_pairs
from hyper_meta.data.digits_vqa.scenes import NUM_DIGITS_PROBABILITY, render, sample_scenes
from hyper_meta.encoders.clip import CLIP, CLIPConfig
from hyper_meta.losses import normalise
from hyper_meta.train.loop import Stage
from hyper_meta.train.state import TrainState, create_state

# CLIP's positions start 40 times smaller than its patches; where a digit is then stays unlearnt for
# thousands of steps (with this gain the corner of a single digit takes a hundred).
POSITION_GAIN = 25.0
PAIR_SHARE = 4  # scenes to a pair of sentences
PAIR_WEIGHT = 0.5  # of the loss of pairs beside that of scenes, once it has begun
MAX_LOGIT_SCALE = 100.0  # Radford et al. 2021, section 2.5


def contrastive_sums(
    images: jax.Array,
    texts: jax.Array,
    scale: jax.Array,
    image_targets: jax.Array,
    text_targets: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """This device's part of the symmetric contrastive loss over the batches of all devices.

    A sentence that is true of several scenes of the batch is right for each of them (Yang et al.
    2022, "Unified contrastive learning in image-text-label space", equation 3); with one true pair
    a row this is CLIP's loss. images, texts: [b, D] float32, b = B / devices; scale: [] float32;
    image_targets, text_targets: [b, B] float32, for each of the device's images (sentences) the
    weights of all sentences (images) of the batch, a row sums to 1. Returns (loss sum, pairs),
    [] float32, to be added over devices and divided.
    """
    images, texts = normalise(images), normalise(texts)
    all_images, all_texts = parallel.gather((images, texts))
    losses = optax.softmax_cross_entropy(scale * images @ all_texts.T, image_targets)
    losses += optax.softmax_cross_entropy(scale * texts @ all_images.T, text_targets)
    return losses.sum() / 2, jnp.asarray(len(images), jnp.float32)


def pretraining_stage(
    config: CLIPConfig,
    *,
    tokenize: Callable[[list[str]], np.ndarray],
    preprocess: Callable[[jax.Array], jax.Array],
    num_steps: int,
    chunk_steps: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    simple_share: float,
    unpaired_share: float,
    seed: int,
) -> Stage:
    """The stage that trains a CLIP from scratch (AdamW, warm-up, cosine decay).

    tokenize: sentences -> [B, L] int32; preprocess: [B, H, W, 3] uint8 -> float32 pixels.
    simple_share: the share of the steps that it takes to grow from scenes of one digit with plain
    sentences to the benchmark's own; to learn from those alone takes far longer.
    unpaired_share: the share of the steps before the loss of pairs begins; from the first step on it
    hinders the learning of which digit has which colour and place.
    """
    model = CLIP(config)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(200, num_steps // 5), num_steps
    )
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=weight_decay, mask=_is_matrix),
    )

    def init(key: jax.Array) -> TrainState:
        pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
        tokens = jnp.full((1, 8), config.eos_token_id, jnp.int32)
        params = jax.jit(model.init)(key, pixels, tokens)["params"]
        vision = params["vision_model"]
        vision["position_embedding"] = POSITION_GAIN * vision["position_embedding"]
        return create_state(model.apply, params, tx=tx, ema_decay=None, statistics={})

    def step(state, data, x, key):
        _, (captioned, paired) = x
        pixels, tokens, image_targets, text_targets = captioned
        asked, told, targets = paired

        def loss_fn(params):
            variables = {"params": params}
            images, texts, scale = model.apply(variables, preprocess(pixels), tokens)
            scale = jnp.minimum(scale, MAX_LOGIT_SCALE)
            loss, count = contrastive_sums(images, texts, scale, image_targets, text_targets)
            asked_texts, told_texts = jnp.split(
                model.apply(variables, jnp.concatenate([asked, told]), method=CLIP.encode_text), 2
            )
            pair_loss, num_pairs = contrastive_sums(
                asked_texts, told_texts, scale, targets, targets
            )
            metrics = {"pair_loss": (pair_loss, num_pairs)}
            pair_weight = jnp.where(state.step < unpaired_steps, 0.0, PAIR_WEIGHT)
            return loss + pair_weight * pair_loss * count / num_pairs, (count, metrics)

        results = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        grads, metrics = parallel.global_mean(*results)
        return state.apply_gradients(grads=grads), metrics

    simple_steps = max(1, round(simple_share * num_steps))
    unpaired_steps = round(unpaired_share * num_steps)
    make = functools.partial(
        _make_batch, tokenize=tokenize, batch_size=batch_size, seed=seed, simple_steps=simple_steps
    )

    def batches(start: int, stop: int):
        made = [make(number) for number in range(start, stop)]
        return None, jax.tree.map(lambda *leaves: np.stack(leaves), *made)

    return Stage("encoder", num_steps, chunk_steps, init, step, None, batches, None)


def _is_matrix(params):
    """Weight decay is for matrices only, as in CLIP."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _make_batch(
    number: int, *, tokenize: Callable, batch_size: int, seed: int, simple_steps: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """What one step sees: scenes with a sentence each, and pairs of sentences.

    Returns (pixels [B, H, W, 3] uint8, token ids [B, L] int32, both targets [B, B]) and (token ids
    of both sides [Q, L], targets [Q, Q]), Q = B / PAIR_SHARE.
    """
    rng = np.random.default_rng([seed, number])
    grown = min(1.0, number / simple_steps)
    probability = (1 - grown) * np.eye(4)[0] + grown * np.array(NUM_DIGITS_PROBABILITY)
    scenes = sample_scenes(rng, batch_size, handwriting="train", num_digits_probability=probability)
    sentences, truth = make_captions(rng, scenes, plain_share=1 - grown)
    asked, told, same = make_sentence_pairs(rng, batch_size // PAIR_SHARE)
    captioned = (render(scenes), tokenize(sentences), _weights(truth), _weights(truth.T))
    return captioned, (tokenize(asked), tokenize(told), _weights(same))


def _weights(truth: np.ndarray) -> np.ndarray:
    """[n, m] bool to float32 rows that sum to 1."""
    return truth / truth.sum(axis=1, keepdims=True, dtype=np.float32)
