"""The controls of an evaluation, against NumPy."""

from types import SimpleNamespace

import numpy as np

from hyper_meta.diffusion.hyperldm import Statistics
from hyper_meta.eval.metrics import MEAN_LATENT, NEAREST
from hyper_meta.evaluation import _controls


def test_controls_are_the_mean_latent_and_that_of_the_nearest_question():
    rng = np.random.default_rng(0)
    known, asked = (rng.normal(size=(num, 5)).astype(np.float32) for num in (9, 6))
    adapted = rng.normal(size=(9, 4)).astype(np.float32)
    mean, std = np.float32([3, 0, -2, 0, 1]), np.float32([0.1, 1, 5, 1, 1])
    statistics = Statistics(np.zeros(4), np.ones(4), mean, std, clip=np.float32(3))
    tables = (SimpleNamespace(question_features=rows * std + mean) for rows in (known, asked))
    controls = _controls(*tables, statistics, adapted)

    def cosine(one, other):
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    nearest = [max(range(9), key=lambda row: cosine(question, known[row])) for question in asked]  # noqa: B023
    assert len(set(nearest)) > 2
    np.testing.assert_array_equal(controls[NEAREST], adapted[nearest][:, None])
    np.testing.assert_allclose(controls[MEAN_LATENT], np.tile(adapted.mean(axis=0), (6, 1, 1)))
