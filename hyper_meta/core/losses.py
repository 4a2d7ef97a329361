"""Losses and scores.

Each returns values per example or a (sum, count) pair, so that padded batches and several devices
divide once, at the end.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from hyper_meta.core.types import Array, Scalar

MASKED_LOGIT = -1e9


def mask_logits(
    logits: Float[Array, "*B N A"], answer_mask: Bool[Array, "*B A"]
) -> Float[Array, "*B N A"]:
    """The logits, padded answers at MASKED_LOGIT; answer_mask: False where padded."""
    return jnp.where(answer_mask[..., None, :], logits, MASKED_LOGIT)


def cross_entropy_sum(
    logits: Float[Array, "*B N A"], label: Int[Array, "*B N"], mask: Bool[Array, "*B N"]
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """(sum, count): the cross-entropy of the unpadded examples, in nats.

    logits: padded answers at MASKED_LOGIT.
    label: an index into the answers.
    mask: False where padded.
    """
    values = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.where(mask, values, 0).sum(-1), mask.sum(-1).astype(jnp.float32)


def correct_sum(
    logits: Float[Array, "*B N A"], label: Int[Array, "*B N"], mask: Bool[Array, "*B N"]
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """(sum, count): how many of the unpadded examples are classified correctly.

    Arguments as in `cross_entropy_sum`.
    """
    right = (jnp.argmax(logits, axis=-1) == label) & mask
    return right.sum(-1).astype(jnp.float32), mask.sum(-1).astype(jnp.float32)


def normalise(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """x at unit length; a zero vector (padding) stays zero, with zero gradient."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    present = squared > 1e-12
    return x * jnp.where(present, jax.lax.rsqrt(jnp.where(present, squared, 1)), 0)


def info_nce(
    images: Float[Array, "B D"], texts: Float[Array, "B D"], scale: Scalar
) -> Float[Array, ""]:
    """CLIP's symmetric contrastive loss in nats (Radford et al. 2021, figure 3).

    images, texts: row i of one belongs to row i of the other.
    scale: the inverse temperature.
    """
    logits = scale * normalise(images) @ normalise(texts).T
    label = jnp.arange(len(logits))
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    columns = optax.softmax_cross_entropy_with_integer_labels(logits.T, label)
    return (rows.mean() + columns.mean()) / 2


def gaussian_kl(mean: Float[Array, "*B Z"], logvar: Float[Array, "*B Z"]) -> Float[Array, "*B"]:
    """KL(N(mean, diag exp(logvar)) || N(0, I)) in nats (Kingma and Welling 2014, appendix B)."""
    return 0.5 * jnp.sum(jnp.exp(logvar) + jnp.square(mean) - 1 - logvar, axis=-1)
