"""Ridge regression from the question to the latent: the simplest guide that generalises."""

import jax
import numpy as np

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.methods.interface import Method, Row, questions_of
from hyper_meta.methods.spaces import latent_scores
from hyper_meta.models.sentences import measure_sentences, standardise_sentences


def fit_ridge(questions: np.ndarray, latents: np.ndarray, penalty: float) -> np.ndarray:
    """[Dq + 1, Z] coefficients of standardised questions [T, Dq], and of 1, for latents [T, Z]."""
    inputs = np.concatenate([questions, np.ones((len(questions), 1))], axis=1)
    penalties = penalty * len(inputs) * np.eye(inputs.shape[1])
    penalties[-1, -1] = 0
    return np.linalg.solve(inputs.T @ inputs + penalties, inputs.T @ latents)


def predict_latents(
    known: SentenceFeatures, latents: np.ndarray, asked: SentenceFeatures, penalty: float
) -> np.ndarray:
    """[n, Z] float32: of n questions asked, from latents [T, Z] of the T known ones."""
    measured = jax.tree.map(np.asarray, measure_sentences(known))
    known, asked = (standardise_sentences(measured, part).pooled for part in (known, asked))
    fitted = fit_ridge(known, latents, penalty)
    return (asked @ fitted[:-1] + fitted[-1]).astype(np.float32)


def _rows(setup, trained):
    space, known = trained["hnet"], setup.tables["train"].questions
    score_latents = latent_scores(setup, "hnet", space)

    def score(split, penalty, shots):
        asked = questions_of(setup, split)
        latents = predict_latents(known, space.latents.mean(axis=1), asked, penalty)
        return score_latents(latents[:, None], split)

    settings = {f"{penalty:g}": penalty for penalty in (0.01, 0.1, 1, 10)}
    title = "ridge regression to the latent"
    return [Row("ridge", title, "language", score, settings, varies="penalty")]


METHOD = Method(
    _rows,
    needs=lambda config: ("hnet",),
    summary="ridge regression from the question to the latent of HNet",
)
