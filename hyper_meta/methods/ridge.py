"""Ridge regression from the question to the latent: the simplest guide that generalises."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import Array, SentenceFeatures
from hyper_meta.methods.guides import Guide, GuideMaker, adapted_rows, guide_of, guide_row
from hyper_meta.methods.interface import Method, Row, Setup
from hyper_meta.methods.spaces import latent_generate, space_learner, space_shapes, space_title
from hyper_meta.methods.trained import Trained
from hyper_meta.models.sentences import measure_sentences, standardise_sentences, without_tokens
from hyper_meta.networks.base import BaseNetwork

PENALTIES = (0.01, 0.1, 1, 10)


def fit_ridge(
    questions: Float[np.ndarray, "T Dq"], latents: Float[np.ndarray, "T Z"], penalty: float
) -> Float[np.ndarray, "Dq+1 Z"]:
    """[D + 1, Z] coefficients of standardised questions [T, D], and of 1, for latents [T, Z]."""
    inputs = np.concatenate([questions, np.ones((len(questions), 1))], axis=1)
    penalties = penalty * len(inputs) * np.eye(inputs.shape[1])
    penalties[-1, -1] = 0
    return np.linalg.solve(inputs.T @ inputs + penalties, inputs.T @ latents)


def predict_latents(
    fitted: Float[Array, "Dq1 Z"], questions: Float[Array, "n Dq"]
) -> Float[Array, "n Z"]:
    """[n, Z] float32: of standardised questions [n, D], from what `fit_ridge` returns."""
    return (questions @ fitted[:-1] + fitted[-1]).astype(np.float32)


def _model(space_name: str, setup: Setup, trained: Trained) -> dict[str, Any]:
    space, known = trained.space(space_name), without_tokens(setup.tables["train"].questions)
    measured = jax.tree.map(np.asarray, measure_sentences(known))
    inputs = np.asarray(standardise_sentences(measured, known).pooled)
    latents = space.latents.mean(axis=1)
    fitted = {f"{penalty:g}": fit_ridge(inputs, latents, penalty) for penalty in PENALTIES}
    return {"space": space.params, "questions": measured, "fitted": fitted}


def _shapes(
    space_name: str, config: RunSettings, network: BaseNetwork, sentence: SentenceFeatures
) -> dict[str, Any]:
    space = space_shapes(config, network, space_name)
    size = (sentence.pooled.shape[-1] + 1, *space["e0"].shape)
    return {
        "space": space,
        "questions": jax.eval_shape(
            measure_sentences, SentenceFeatures(jnp.asarray(sentence.pooled)[None])
        ),
        "fitted": {f"{p:g}": jax.ShapeDtypeStruct(size, np.float64) for p in PENALTIES},
    }


def _guide(
    name: str, space_name: str, config: RunSettings, network: BaseNetwork, model: Any
) -> Guide:
    def sample(
        model: Any, questions: SentenceFeatures, penalty: float, num: int, seed: int
    ) -> np.ndarray:
        asked = standardise_sentences(model["questions"], without_tokens(questions)).pooled
        latents = predict_latents(model["fitted"][f"{penalty:g}"], np.asarray(asked))
        return latents[:, None].repeat(num, axis=1)

    return Guide(
        name=name,
        title=f"ridge regression to the latent of {space_title(space_name)}",
        network=network,
        model=model,
        sample_fn=sample,
        generate=latent_generate(space_name),
        settings={f"{penalty:g}": penalty for penalty in PENALTIES},
        varies="penalty",
        space=space_name,
        learner=space_learner(space_name, network),
        learner_params=model["space"],
    )


def regressed(space_name: str) -> Method:
    """Ridge regression in the space that the method space_name leaves."""
    name = "ridge" if space_name == "hnet" else f"{space_name}_ridge"
    maker = GuideMaker(
        model=functools.partial(_model, space_name),
        shapes=functools.partial(_shapes, space_name),
        make=functools.partial(_guide, name, space_name),
    )

    def rows(setup: Setup, trained: Trained) -> list[Row]:
        guide = guide_of(setup, trained, name, maker)
        return [guide_row(setup, guide), *adapted_rows(setup, guide)]

    return Method(
        rows,
        needs=lambda config: (space_name,),
        summary=f"ridge regression from the question to the latent of {space_title(space_name)}",
        guide=maker,
    )
