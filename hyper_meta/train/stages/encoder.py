"""Contrastive pre-training of the bundled encoder on rendered scenes and sentences about them.

Batches are functions of the step number, so training can be interrupted, as in every stage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from hyper_meta.core import parallel
from hyper_meta.core.losses import normalise
from hyper_meta.core.settings import EncoderSettings
from hyper_meta.core.types import Array, Scalar
from hyper_meta.data.digits_vqa.captions import make_captions, make_sentence_pairs
from hyper_meta.data.digits_vqa.scenes import NUM_DIGITS_PROBABILITY, render, sample_scenes
from hyper_meta.encoders.clip import CLIP
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.parts import is_matrix, schedule_of, update
from hyper_meta.train.state import TrainState, create_state

# CLIP's positions start 40 times smaller than its patches; where a digit is then stays unlearnt for
# thousands of steps (with this gain the corner of a single digit takes a hundred).
POSITION_GAIN = 25.0
PAIR_SHARE = 4  # scenes to a pair of sentences
PAIR_WEIGHT = 0.5  # of the loss of pairs beside that of scenes, once it has begun
MAX_LOGIT_SCALE = 100.0  # Radford et al. 2021, section 2.5


def contrastive_sums(
    images: Float[Array, "b D"],
    texts: Float[Array, "b D"],
    scale: Scalar,
    image_targets: Float[Array, "b B"],
    text_targets: Float[Array, "b B"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum, pairs), [] float32 each: this device's part of the symmetric contrastive loss.

    The loss is over the batches of all devices: both are to be added over devices and divided. A
    sentence that is true of several scenes of the batch is a target of each of them (Yang et al.
    2022, "Unified contrastive learning in image-text-label space", equation 3). With one true pair
    in each row this is CLIP's loss.

    Args:
      images, texts: b = B / devices.
      scale: [] float32, the inverse temperature.
      image_targets: for each image of this device the weights of all sentences of
        the batch; a row sums to 1.
      text_targets: the same for each sentence and all images.
    """
    images, texts = normalise(images), normalise(texts)
    all_images, all_texts = parallel.all_gather((images, texts))
    losses = optax.softmax_cross_entropy(scale * images @ all_texts.T, image_targets)
    losses += optax.softmax_cross_entropy(scale * texts @ all_images.T, text_targets)
    return losses.sum() / 2, jnp.asarray(len(images), jnp.float32)


def pretraining_stage(
    config: EncoderSettings,
    model: CLIP,
    *,
    tokenize: Callable[[list[str]], np.ndarray],
    preprocess: Callable[[jax.Array], jax.Array],
) -> Stage:
    """The stage that trains a CLIP from scratch (AdamW, warm-up, cosine decay).

    config: as `configs/encoder.py` has it; tokenize: sentences -> [B, L] int32; preprocess:
    [B, H, W, 3] uint8 -> float32 pixels.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, min(200, config.num_steps // 5), config.num_steps
    )
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay, mask=is_matrix),
    )

    def init(key: jax.Array) -> TrainState:
        size = model.config.image_size
        tokens = jnp.full((1, 8), model.config.eos_token_id, jnp.int32)
        params = jax.jit(model.init)(key, jnp.zeros((1, size, size, 3)), tokens)["params"]
        vision = params["vision_model"]
        vision["position_embedding"] = POSITION_GAIN * vision["position_embedding"]
        return create_state(model.apply, params, tx=tx, ema_decay=None, statistics={})

    return Stage(
        name="encoder",
        num_steps=config.num_steps,
        chunk_steps=config.chunk_steps,
        most_at_once=8,
        init=init,
        step=functools.partial(_contrastive_step, config, model, preprocess),
        data=None,
        schedule=schedule_of(functools.partial(_make_batch, config, tokenize)),
        validate=None,
    )


def _contrastive_step(
    config: EncoderSettings, model: CLIP, preprocess: Callable, state: TrainState, data, x, key
) -> tuple[TrainState, dict]:
    """One update on the scenes and the pairs of sentences of `_make_batch`."""
    (pixels, tokens, image_targets, text_targets), (asked, told, pair_targets) = x[1]
    begun = state.step >= round(config.unpaired_share * config.num_steps)

    def loss_fn(params):
        variables = {"params": params}
        images, texts, scale = model.apply(variables, preprocess(pixels), tokens)
        scale = jnp.minimum(scale, MAX_LOGIT_SCALE)
        loss, count = contrastive_sums(images, texts, scale, image_targets, text_targets)
        sentences = jnp.concatenate([asked, told])
        left, right = jnp.split(model.apply(variables, sentences, method=CLIP.encode_text), 2)
        pair_loss, num_pairs = contrastive_sums(left, right, scale, pair_targets, pair_targets)
        loss += begun * PAIR_WEIGHT * pair_loss * count / num_pairs
        return loss, (count, {"pair_loss": (pair_loss, num_pairs)})

    return update(state, loss_fn)


def _make_batch(
    config: EncoderSettings, tokenize: Callable, number: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """The batch of step `number`: scenes with a sentence each, and pairs of sentences.

    Returns:
      (pixels [B, H, W, 3] uint8, token ids [B, L] int32, image targets [B, B], text targets
      [B, B]), and (token ids of the first sentences [Q, L], of the second [Q, L], targets [Q, Q]),
      Q = B / PAIR_SHARE.
    """
    rng = np.random.default_rng([config.seed, number])
    grown = min(1.0, number / max(1, round(config.simple_share * config.num_steps)))
    probability = (1 - grown) * np.eye(4)[0] + grown * np.array(NUM_DIGITS_PROBABILITY)
    size = config.batch_size
    scenes = sample_scenes(rng, size, handwriting="train", num_digits_probability=probability)
    sentences, truth = make_captions(rng, scenes, plain_share=1 - grown)
    asked, told, same = make_sentence_pairs(rng, size // PAIR_SHARE)
    captioned = (render(scenes), tokenize(sentences), _weights(truth), _weights(truth.T))
    return captioned, (tokenize(asked), tokenize(told), _weights(same))


def _weights(truth: np.ndarray) -> np.ndarray:
    """The rows of truth [n, m] bool, as float32 weights that sum to 1."""
    return truth / truth.sum(axis=1, keepdims=True, dtype=np.float32)
