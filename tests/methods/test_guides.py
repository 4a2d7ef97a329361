"""Points of samples, and their mean."""

import numpy as np

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.methods.guides import mean_points


def test_the_mean_of_sentences_keeps_their_mask():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    mask = np.arange(4) < np.array([2, 4])[:, None]
    points = SentenceFeatures(tokens[:, :, 0], tokens, np.stack([mask] * 3, axis=1))
    mean = mean_points(points)
    np.testing.assert_allclose(mean.tokens, tokens.mean(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(mean.mask, mask[:, None])
    assert mean.mask.dtype == bool
