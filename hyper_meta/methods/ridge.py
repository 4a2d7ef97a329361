"""Ridge regression from the question to the latent: the simplest guide that generalises."""

import numpy as np

from hyper_meta.methods.interface import Method, Row, question_features
from hyper_meta.methods.spaces import latent_scores


def fit_ridge(questions: np.ndarray, latents: np.ndarray, penalty: float) -> np.ndarray:
    """[D + 1, Z] coefficients of standardised questions [T, D], and of 1, for latents [T, Z]."""
    inputs = np.concatenate([questions, np.ones((len(questions), 1))], axis=1)
    penalties = penalty * len(inputs) * np.eye(inputs.shape[1])
    penalties[-1, -1] = 0
    return np.linalg.solve(inputs.T @ inputs + penalties, inputs.T @ latents)


def _rows(setup, trained):
    space, known = trained["hnet"], setup.tables["train"].question_features
    mean, std = known.mean(axis=0), known.std(axis=0)
    score_latents = latent_scores(setup, "hnet", space)

    def score(split, penalty, shots):
        fitted = fit_ridge((known - mean) / std, space.latents.mean(axis=1), penalty)
        asked = (question_features(setup, split) - mean) / std
        latents = asked @ fitted[:-1] + fitted[-1]
        return score_latents(latents[:, None].astype(np.float32), split)

    settings = {f"{penalty:g}": penalty for penalty in (0.01, 0.1, 1, 10)}
    return [Row("ridge regression to the latent", "language", score, settings, varies="penalty")]


METHOD = Method(_rows, needs=lambda config: ("hnet",))
