"""Losses and scores. Each returns per-example values or a (sum, count) pair, so that padded
batches and several devices divide once, at the end."""

import jax
import jax.numpy as jnp
import optax

MASKED_LOGIT = -1e9


def mask_logits(logits: jax.Array, answer_mask: jax.Array) -> jax.Array:
    """Rules out padded answers.

    logits: [..., N, A] float32; answer_mask: [..., A] bool. Returns [..., N, A] float32.
    """
    return jnp.where(answer_mask[..., None, :], logits, MASKED_LOGIT)


def cross_entropy_sum(
    logits: jax.Array, label: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy in nats over the examples that are there.

    logits: [..., N, A] float32, padded answers ruled out; label: [..., N] int32; mask: [..., N]
    bool. Returns (sum [...], count [...]) float32.
    """
    values = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.where(mask, values, 0).sum(-1), mask.sum(-1).astype(jnp.float32)


def correct_sum(
    logits: jax.Array, label: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Right answers among the examples that are there; shapes as in `cross_entropy_sum`."""
    right = (jnp.argmax(logits, axis=-1) == label) & mask
    return right.sum(-1).astype(jnp.float32), mask.sum(-1).astype(jnp.float32)


def normalise(x: jax.Array) -> jax.Array:
    """[..., D] float32 to unit length; a zero vector (padding) stays zero, with zero gradient."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    present = squared > 1e-12
    return x * jnp.where(present, jax.lax.rsqrt(jnp.where(present, squared, 1)), 0)


def info_nce(images: jax.Array, texts: jax.Array, scale: jax.Array) -> jax.Array:
    """The symmetric contrastive loss of CLIP (Radford et al. 2021, figure 3).

    images, texts: [B, D] float32, row i of one belongs to row i of the other; scale: [] float32,
    the inverse temperature. Returns the mean of both directions, [] float32, in nats.
    """
    logits = scale * normalise(images) @ normalise(texts).T
    label = jnp.arange(len(logits))
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    columns = optax.softmax_cross_entropy_with_integer_labels(logits.T, label)
    return (rows.mean() + columns.mean()) / 2


def gaussian_kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL of N(mean, diag exp(logvar)) from N(0, I): [..., Z] float32 each -> [...] in nats
    (Kingma and Welling 2014, appendix B)."""
    return 0.5 * jnp.sum(jnp.exp(logvar) + jnp.square(mean) - 1 - logvar, axis=-1)
