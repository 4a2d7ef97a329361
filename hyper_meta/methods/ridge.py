"""Ridge regression from the question to the latent: the simplest guide that generalises."""

import numpy as np

from hyper_meta.diffusion.latent_sampling import moments
from hyper_meta.methods.interface import Method, Row, question_features
from hyper_meta.methods.spaces import latent_scores


def fit_ridge(questions: np.ndarray, latents: np.ndarray, penalty: float) -> np.ndarray:
    """[D + 1, Z] coefficients of standardised questions [T, D], and of 1, for latents [T, Z]."""
    inputs = np.concatenate([questions, np.ones((len(questions), 1))], axis=1)
    penalties = penalty * len(inputs) * np.eye(inputs.shape[1])
    penalties[-1, -1] = 0
    return np.linalg.solve(inputs.T @ inputs + penalties, inputs.T @ latents)


def predict_latents(
    known: np.ndarray, latents: np.ndarray, asked: np.ndarray, penalty: float
) -> np.ndarray:
    """[n, Z] float32: of the questions asked [n, D], from latents [T, Z] of those known [T, D]."""
    mean, std = (np.asarray(moment) for moment in moments(known))
    fitted = fit_ridge((known - mean) / std, latents, penalty)
    return ((asked - mean) / std @ fitted[:-1] + fitted[-1]).astype(np.float32)


def _rows(setup, trained):
    space, known = trained["hnet"], setup.tables["train"].question_features
    score_latents = latent_scores(setup, "hnet", space)

    def score(split, penalty, shots):
        asked = question_features(setup, split)
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
