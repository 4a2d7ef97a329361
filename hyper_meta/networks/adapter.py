"""The base network: a residual adapter on frozen CLIP embeddings (CLIP-Adapter, Gao et al. 2021;
method.md section 3), as a pure function of one flat vector of weights."""

import jax
import jax.numpy as jnp

from hyper_meta.core.losses import mask_logits, normalise

LOGIT_SCALE = 100.0


def num_weights(embed_dim: int, hidden_dim: int) -> int:
    """P = 2 D H + H + D."""
    return 2 * embed_dim * hidden_dim + hidden_dim + embed_dim


def split_weights(weights: jax.Array, embed_dim: int) -> tuple[jax.Array, ...]:
    """Cuts [..., P] float32 into w1 [..., D, H], b1 [..., H], w2 [..., H, D], b2 [..., D]."""
    hidden_dim = (weights.shape[-1] - embed_dim) // (2 * embed_dim + 1)
    size, lead = embed_dim * hidden_dim, weights.shape[:-1]
    w1, b1, w2, b2 = jnp.split(weights, [size, size + hidden_dim, 2 * size + hidden_dim], axis=-1)
    return (
        w1.reshape(*lead, embed_dim, hidden_dim),
        b1,
        w2.reshape(*lead, hidden_dim, embed_dim),
        b2,
    )


def adapt_features(weights: jax.Array, features: jax.Array) -> jax.Array:
    """y = x + W2 relu(W1 x / sqrt(D) + b1) / sqrt(H) + b2.

    weights: [P] float32 of unit scale; features: [N, D] float32. Returns [N, D] float32.
    """
    w1, b1, w2, b2 = split_weights(weights, features.shape[-1])
    hidden = jax.nn.relu(features @ w1 / jnp.sqrt(w1.shape[0]) + b1)
    return features + hidden @ w2 / jnp.sqrt(w2.shape[0]) + b2


def answer_logits(features: jax.Array, answers: jax.Array, answer_mask: jax.Array) -> jax.Array:
    """100 cos(x, t_a): "CLIP as base model" when the features are CLIP's own.

    features: [N, D] float32; answers: [A, D] float32; answer_mask: [A] bool. Returns [N, A]
    float32, a padded answer at `losses.MASKED_LOGIT`.
    """
    logits = LOGIT_SCALE * normalise(features) @ normalise(answers).T
    return mask_logits(logits, answer_mask)


def adapter_logits(
    weights: jax.Array,
    features: jax.Array,
    answers: jax.Array,
    answer_mask: jax.Array,
    *,
    blend: float = 1.0,
) -> jax.Array:
    """Logits of the adapted features; shapes as in `adapt_features` and `answer_logits`.

    blend: alpha of base + alpha (adapted - base), where base are the logits of CLIP alone
    (method.md section 3): 0 is CLIP, 1 the adapter.
    """
    adapted = answer_logits(adapt_features(weights, features), answers, answer_mask)
    if blend == 1:
        return adapted
    base = answer_logits(features, answers, answer_mask)
    return base + blend * (adapted - base)
