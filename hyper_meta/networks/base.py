"""What is generated: a family of networks on frozen image features, each network one flat vector of
weights.

Axes: N images, A answers, D width of the image features, P weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Bool, Float, Key, Shaped

from hyper_meta.core.losses import mask_logits, normalise
from hyper_meta.core.types import Array

LOGIT_SCALE = 100.0


@dataclasses.dataclass(frozen=True)
class Layer:
    """Where a layer lies in the flat vector of weights: `size` numbers from `start` on."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class BaseNetwork:
    """A network up to its weights, which are of unit scale: the scale of each layer is in `adapt`.

    name, settings: by which `registry.make_network` makes it again; settings are JSON values.
    embed_dim: D. layers: of the weights, one after another. adapt: (weights [P], features [N, D])
    -> features [N, D], all float32.
    """

    name: str
    settings: Mapping[str, Any] = dataclasses.field(hash=False)
    embed_dim: int
    layers: tuple[Layer, ...]
    adapt: Callable[[Float[Array, " P"], Float[Array, "N D"]], Float[Array, "N D"]] = (
        dataclasses.field(compare=False)
    )

    @property
    def num_weights(self) -> int:
        """P."""
        return sum(layer.size for layer in self.layers)

    @property
    def blend(self) -> float:
        """The share alpha of the network in its logits, see `logits`."""
        return self.settings["blend"]

    def init(self, key: Key[jax.Array, ""]) -> Float[Array, " P"]:
        """Weights [P] float32 from N(0, 1)."""
        return jax.random.normal(key, (self.num_weights,))

    def logits(
        self,
        weights: Float[Array, " P"],
        features: Float[Array, "N D"],
        answers: Float[Array, "A D"],
        answer_mask: Bool[Array, " A"],
    ) -> Float[Array, "N A"]:
        """base + alpha (adapted - base), with alpha the setting "blend" and base the logits of the
        features as they are (method.md section 3).

        weights: [P] float32; features: [N, D] float32; answers: [A, D] float32; answer_mask: [A]
        bool. Returns [N, A] float32, a padded answer at `losses.MASKED_LOGIT`.
        """
        adapted = answer_logits(self.adapt(weights, features), answers, answer_mask)
        if self.blend == 1:
            return adapted
        base = answer_logits(features, answers, answer_mask)
        return base + self.blend * (adapted - base)

    def split(self, weights: Shaped[Array, "*B P"]) -> dict[str, Shaped[Array, " ..."]]:
        """The weights [..., P] by layer: {name: [..., *shape]}."""
        lead = weights.shape[:-1]
        return {
            layer.name: weights[..., layer.start : layer.start + layer.size].reshape(
                *lead, *layer.shape
            )
            for layer in self.layers
        }


def answer_logits(
    features: Float[Array, "N D"], answers: Float[Array, "A D"], answer_mask: Bool[Array, " A"]
) -> Float[Array, "N A"]:
    """100 cos(x, t_a): "CLIP as base model" when the features are CLIP's own.

    features: [N, D] float32; answers: [A, D] float32; answer_mask: [A] bool. Returns [N, A]
    float32, a padded answer at `losses.MASKED_LOGIT`.
    """
    logits = LOGIT_SCALE * normalise(features) @ normalise(answers).T
    return mask_logits(logits, answer_mask)


def lay_out(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[Layer, ...]:
    """The layers of these names and shapes, one after another."""
    layers: list[Layer] = []
    start = 0
    for name, shape in shapes:
        layers.append(Layer(name, shape, start))
        start += layers[-1].size
    return tuple(layers)
