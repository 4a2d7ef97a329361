"""What the trainings of methods leave, for their own rows and for the methods that need them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from hyper_meta.meta.learners import Learner, latent_learner
from hyper_meta.models.generator import Factors, generate_weights
from hyper_meta.networks.base import BaseNetwork


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained stage, numpy leaves: what learners and guides in latent spaces leave.

    params: for evaluation, as the stage's init makes them; statistics: of its TrainState.
    """

    params: Any
    statistics: Any

    def as_tree(self) -> dict[str, Any]:
        """{"params", "statistics"}, as a guide's model holds it."""
        return {"params": self.params, "statistics": self.statistics}


@dataclasses.dataclass(frozen=True)
class Space:
    """A latent space of networks: what hnet and hvae leave.

    title: "HNet" or "HVAE"; network: whose weights they are; params: {"e0": [Z], "generator":
    pytree}, numpy leaves; factors: of that generator; latents: [T, R, Z] float32, the training
    tasks adapted R times.
    """

    title: str
    network: BaseNetwork
    params: Any
    factors: Factors
    latents: Float[np.ndarray, "T R Z"]

    @property
    def generate(self) -> Callable[[Any, jax.Array], jax.Array]:
        """(generator params, latent [..., Z]) -> weights [..., P]."""
        return functools.partial(generate_weights, self.factors)

    def learner(self, *, pull: float = 0.0) -> Learner:
        """What adapts a latent of this space."""
        return latent_learner(self.network, self.generate, pull=pull)


@dataclasses.dataclass(frozen=True)
class AdaptedWeights:
    """The networks themselves, adapted to every training task R times: what mnet_weights leaves."""

    weights: Float[np.ndarray, "T R P"]


Left = Fitted | Space | AdaptedWeights | None
Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class Trained:
    """What the methods of one seed left, in the order of their training.

    left: by the name of the method, None for one that trains nothing.
    """

    left: dict[str, Left] = dataclasses.field(default_factory=dict)

    def fitted(self, name: str) -> Fitted:
        """The stage of a learner or of a guide in a latent space."""
        return self._of_kind(name, Fitted)

    def space(self, name: str) -> Space:
        """The latent space of "hnet" or "hvae"."""
        return self._of_kind(name, Space)

    def weights(self, name: str) -> Float[np.ndarray, "T R P"]:
        """The adapted networks of "mnet_weights"."""
        return self._of_kind(name, AdaptedWeights).weights

    def _of_kind(self, name: str, kind: type[Kind]) -> Kind:
        left = self.left.get(name)
        if not isinstance(left, kind):
            raise ValueError(f"{name!r} left {type(left).__name__}, not {kind.__name__}")
        return left
