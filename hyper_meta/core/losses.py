"""Losses and scores.

Each returns values per example or a (sum, count) pair, so that padded batches and several devices
divide once, at the end.
"""

import jax
import jax.numpy as jnp
import optax

MASKED_LOGIT = -1e9


def mask_logits(logits: jax.Array, answer_mask: jax.Array) -> jax.Array:
    """The logits [..., N, A] float32, padded answers at MASKED_LOGIT.

    logits: [..., N, A] float32.
    answer_mask: [..., A] bool, False where padded.
    """
    return jnp.where(answer_mask[..., None, :], logits, MASKED_LOGIT)


def cross_entropy_sum(
    logits: jax.Array, label: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(sum, count), each [...] float32: the cross-entropy of the unpadded examples, in nats.

    logits: [..., N, A] float32, padded answers at MASKED_LOGIT.
    label: [..., N] int32, an index into the answers.
    mask: [..., N] bool, False where padded.
    """
    values = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.where(mask, values, 0).sum(-1), mask.sum(-1).astype(jnp.float32)


def correct_sum(
    logits: jax.Array, label: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(sum, count), each [...] float32: how many of the unpadded examples are classified correctly.

    Arguments as in `cross_entropy_sum`.
    """
    right = (jnp.argmax(logits, axis=-1) == label) & mask
    return right.sum(-1).astype(jnp.float32), mask.sum(-1).astype(jnp.float32)


def normalise(x: jax.Array) -> jax.Array:
    """x [..., D] float32 at unit length; a zero vector (padding) stays zero, with zero gradient."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    present = squared > 1e-12
    return x * jnp.where(present, jax.lax.rsqrt(jnp.where(present, squared, 1)), 0)


def info_nce(images: jax.Array, texts: jax.Array, scale: jax.Array) -> jax.Array:
    """CLIP's symmetric contrastive loss, [] float32 in nats (Radford et al. 2021, figure 3).

    images, texts: [B, D] float32; row i of one belongs to row i of the other.
    scale: [] float32, the inverse temperature.
    """
    logits = scale * normalise(images) @ normalise(texts).T
    label = jnp.arange(len(logits))
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    columns = optax.softmax_cross_entropy_with_integer_labels(logits.T, label)
    return (rows.mean() + columns.mean()) / 2


def gaussian_kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(N(mean, diag exp(logvar)) || N(0, I)), [...] float32 in nats (Kingma and Welling 2014,
    appendix B).

    mean, logvar: [..., Z] float32.
    """
    return 0.5 * jnp.sum(jnp.exp(logvar) + jnp.square(mean) - 1 - logvar, axis=-1)
