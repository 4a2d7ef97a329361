"""Features of sentences as every model that reads a question takes them: standardised, compared, or
left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float

from hyper_meta.core.losses import normalise
from hyper_meta.core.moments import floor_deviation, moments
from hyper_meta.core.types import Array, SentenceFeatures


def take(sentences: SentenceFeatures, rows: Any) -> SentenceFeatures:
    """The sentences at rows of the first axis: numbers, a slice, or None for an axis of one."""
    return jax.tree.map(lambda leaf: leaf[rows], sentences)


def stack_sentences(sentences: Sequence[SentenceFeatures]) -> SentenceFeatures:
    """n sentences as one record with leading axis n, numpy; their tokens padded to the most of any
    of them."""
    if sentences[0].tokens is None:
        return SentenceFeatures(np.stack([sentence.pooled for sentence in sentences]))
    longest = max(len(sentence.mask) for sentence in sentences)

    def padded(leaf: np.ndarray) -> np.ndarray:
        return np.pad(leaf, [(0, longest - len(leaf)), *[(0, 0)] * (np.ndim(leaf) - 1)])

    return SentenceFeatures(
        pooled=np.stack([sentence.pooled for sentence in sentences]),
        tokens=np.stack([padded(sentence.tokens) for sentence in sentences]),
        mask=np.stack([padded(sentence.mask) for sentence in sentences]),
    )


@struct.dataclass
class SentenceMoments:
    """mean, std: [Dq] float32, of the pooled features of the training questions; token_mean,
    token_std: [W] float32, of the states of their tokens, None where they have none."""

    mean: Float[Array, "*devices Dq"]
    std: Float[Array, "*devices Dq"]
    token_mean: Float[Array, "*devices W"] | None = None
    token_std: Float[Array, "*devices W"] | None = None


def measure_sentences(sentences: SentenceFeatures) -> SentenceMoments:
    """The moments of n sentences, leading axis n."""
    if sentences.tokens is None:
        return SentenceMoments(*moments(sentences.pooled))
    return SentenceMoments(*moments(sentences.pooled), *_token_moments(sentences))


def _token_moments(sentences: SentenceFeatures) -> tuple[Float[Array, " W"], Float[Array, " W"]]:
    """As `moments`, of the tokens that are not padded."""
    mask = jnp.asarray(sentences.mask)[..., None]
    count = jnp.maximum(mask.sum(axis=(0, 1)), 1)

    def mean_of(values: jax.Array) -> jax.Array:
        return jnp.where(mask, values, 0).sum(axis=(0, 1)) / count

    mean = mean_of(sentences.tokens)
    return mean, floor_deviation(jnp.sqrt(mean_of((sentences.tokens - mean) ** 2)))


def standardise_sentences(
    measured: SentenceMoments, sentences: SentenceFeatures
) -> SentenceFeatures:
    """Pooled features [..., Dq] and token states [..., L, W] at mean 0 and deviation 1 over the
    measured ones; what stands behind the mask is no signal, before and after."""
    pooled = (sentences.pooled - measured.mean) / measured.std
    if sentences.tokens is None or measured.token_mean is None:  # then nothing reads the tokens
        return sentences.replace(pooled=pooled)
    tokens = (sentences.tokens - measured.token_mean) / measured.token_std
    return sentences.replace(pooled=pooled, tokens=tokens)


def without_tokens(sentences: SentenceFeatures) -> SentenceFeatures:
    """The sentences as one pooled vector each."""
    return SentenceFeatures(sentences.pooled)


def says_something(sentences: SentenceFeatures) -> Bool[Array, "*B"]:
    """[...] bool: False for the null sentence, see `keep_sentences`."""
    if sentences.tokens is None:
        return jnp.any(sentences.pooled != 0, axis=-1)
    return jnp.any(sentences.mask, axis=-1)


def sentence_cosine(
    measured: SentenceMoments, asked: SentenceFeatures, known: SentenceFeatures
) -> Float[Array, "n m"]:
    """[n, m] float32: cosine of the standardised pooled features of sentences asked, leading axis
    n, and known, leading axis m."""
    rows, columns = (
        normalise(standardise_sentences(measured, sentences).pooled) for sentences in (asked, known)
    )
    return rows @ columns.T


def keep_sentences(sentences: SentenceFeatures, keep: Bool[Array, " B"]) -> SentenceFeatures:
    """The sentences [B, ...] where keep [B] is True, elsewhere the null sentence: zeros, and no
    token."""

    def kept(leaf: jax.Array) -> jax.Array:
        return jnp.where(keep.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(kept, sentences)


def noise_sentences(
    rng: np.random.Generator, known: SentenceFeatures, count: int
) -> SentenceFeatures:
    """count sentences of Gaussian noise, numpy, with the moments of known ones: of their pooled
    features and of their tokens, and as many tokens as one of them has."""

    def noise(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        mean, std = (np.asarray(moment) for moment in moments(values))
        return (mean + std * rng.normal(size=(*shape, len(mean)))).astype(np.float32)

    pooled = noise(known.pooled, (count,))
    if known.tokens is None:
        return SentenceFeatures(pooled)
    mask = known.mask[rng.integers(len(known.mask), size=count)]
    return SentenceFeatures(pooled, noise(known.tokens[known.mask], mask.shape), mask)
