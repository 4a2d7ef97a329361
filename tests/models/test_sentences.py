"""What every reader of questions shares."""

import jax
import numpy as np
import pytest
from toy_features import random_tokens

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.models.sentences import (
    keep_sentences,
    measure_sentences,
    noise_sentences,
    sentence_cosine,
    stack_sentences,
    standardise_sentences,
    take,
)


def make_sentences(count, *, seed=0, length=4):
    pooled = np.random.default_rng(seed).normal(size=(count, 7)).astype(np.float32)
    return SentenceFeatures(3 * pooled + 5, *random_tokens(seed, count, length=length))


def test_standardised_questions_and_their_tokens_have_mean_zero_and_deviation_one():
    """Of tokens those that are not padded count, whatever stands behind the mask."""
    known = make_sentences(50)
    known = known.replace(tokens=np.where(known.mask[..., None], known.tokens, 1e9))
    standardised = standardise_sentences(measure_sentences(known), known)
    for values in (standardised.pooled, standardised.tokens[known.mask]):
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(values.std(axis=0), 1, rtol=1e-5)
    assert standardised.mask is known.mask


def test_a_token_feature_that_hardly_varies_is_no_signal():
    known = make_sentences(50)
    tokens = np.array(known.tokens)
    tokens[..., 1] = 3
    measured = measure_sentences(known.replace(tokens=tokens))
    others = np.delete(np.asarray(measured.token_std), 1)
    np.testing.assert_allclose(
        measured.token_std[1],
        0.01 * np.sqrt((others**2).sum() / len(measured.token_std)),
        rtol=1e-4,
    )


def test_a_new_sentence_that_differs_where_all_known_are_alike_does_not_explode():
    known = make_sentences(9)
    known.pooled[:, 2] = 4
    measured = measure_sentences(known)
    np.testing.assert_array_equal(standardise_sentences(measured, known).pooled[:, 2], 0)
    new = take(known, slice(0, 1))
    new = new.replace(pooled=new.pooled + np.float32(3))  # as far as known ones vary elsewhere
    deviation = np.sqrt((np.float64(known.pooled.std(axis=0)) ** 2).mean())
    found = standardise_sentences(measured, new).pooled[0, 2]
    np.testing.assert_allclose(found, 3 / (0.01 * deviation), rtol=1e-4)


def test_the_cosine_is_of_standardised_pooled_features():
    known, asked = make_sentences(6), make_sentences(3, seed=1)
    rows, columns = (
        np.float64(x.pooled - known.pooled.mean(axis=0)) / known.pooled.std(axis=0)
        for x in (asked, known)
    )
    expected = rows @ columns.T
    expected /= np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(columns, axis=1)
    found = sentence_cosine(measure_sentences(known), asked, known)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("with_tokens", [True, False])
def test_a_sentence_that_is_not_kept_is_zero_and_has_no_token(with_tokens):
    sentences = make_sentences(5)
    if not with_tokens:
        sentences = SentenceFeatures(sentences.pooled)
    keep = np.array([True, False, True, False, True])
    spoiled = sentences.replace(pooled=np.where(keep[:, None], sentences.pooled, np.nan))
    kept = keep_sentences(spoiled, keep)
    jax.tree.map(
        lambda ours, given: np.testing.assert_array_equal(ours[keep], given[keep]), kept, sentences
    )
    assert all(not np.asarray(leaf)[~keep].any() for leaf in jax.tree.leaves(kept))
    assert jax.tree.structure(kept) == jax.tree.structure(sentences)


def test_stacked_sentences_are_padded_to_the_longest():
    short, long = make_sentences(3, length=2), make_sentences(3, seed=1, length=6)
    stacked = stack_sentences([take(short, 2), take(long, 0)])
    assert stacked.tokens.shape == (2, 6, 3) and stacked.mask.dtype == bool
    np.testing.assert_array_equal(stacked.pooled, [short.pooled[2], long.pooled[0]])
    np.testing.assert_array_equal(stacked.tokens[0, :2], short.tokens[2])
    np.testing.assert_array_equal(stacked.mask[0, :2], short.mask[2])
    assert not stacked.tokens[0, 2:].any() and not stacked.mask[0, 2:].any()
    np.testing.assert_array_equal(stacked.tokens[1], long.tokens[0])
    pooled = stack_sentences([SentenceFeatures(row) for row in short.pooled])
    np.testing.assert_array_equal(pooled.pooled, short.pooled)
    assert pooled.tokens is None and pooled.mask is None


def test_noise_has_the_moments_of_known_sentences():
    known = make_sentences(40)
    noise = noise_sentences(np.random.default_rng(0), known, 20_000)
    for ours, given in (
        (noise.pooled, known.pooled),
        (noise.tokens[noise.mask], known.tokens[known.mask]),
    ):
        assert ours.dtype == np.float32
        error = 5 * given.std(axis=0) / np.sqrt(len(ours))
        assert (np.abs(ours.mean(axis=0) - given.mean(axis=0)) < error).all()
        np.testing.assert_allclose(ours.std(axis=0), given.std(axis=0), rtol=0.05)
    assert set(noise.mask.sum(axis=1)) == set(known.mask.sum(axis=1))
    plain = SentenceFeatures(known.pooled)
    alone = noise_sentences(np.random.default_rng(0), plain, 20_000)
    np.testing.assert_array_equal(alone.pooled, noise.pooled)
    assert alone.tokens is None
