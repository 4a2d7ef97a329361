"""The latent data set that guides in a latent space are trained on, and their validation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import Array
from hyper_meta.data.table import TaskTable
from hyper_meta.meta import scoring
from hyper_meta.models.generator import Factors, generate_weights
from hyper_meta.train.stages.parts import stage_network
from hyper_meta.train.stages.passes import compile_configured_pass


@dataclasses.dataclass(frozen=True)
class LatentData:
    """Networks of the training tasks in a latent space, and the tables of tasks.

    latents: [T, R, Z] float32, the training tasks adapted R times.
    space: {"e0": [Z], "generator": generator params}.
    factors: of that generator.
    train, validation: the tables.
    """

    latents: Float[Array, "T R Z"]
    space: Any
    factors: Factors
    train: TaskTable
    validation: TaskTable

    @property
    def generate(self) -> Callable[[Any, jax.Array], jax.Array]:
        """(generator params, latents [..., Z]) -> weights [..., P]."""
        return functools.partial(generate_weights, self.factors)


def compile_accuracy(config: RunSettings, data: LatentData) -> Callable[[Any, np.ndarray], float]:
    """Compiles (replicated space, latents [T, K, Z]) -> the mean accuracy of their networks over
    the validation tasks."""
    method = scoring.latent_method(stage_network(config, data.validation), data.generate)
    score = compile_configured_pass(config, scoring.scores_of(method), data.validation)
    return lambda space, latents: float(np.mean(score(space, latents).accuracy))
