"""HyperCLIP's weight encoder: from weights to the space of questions (method.md section 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from hyper_meta.core.types import Array

# Radford et al. 2021, sections 2.4 and 2.5.
FIRST_SCALE, MAX_SCALE = 1 / 0.07, 100.0


class HyperCLIP(nn.Module):
    """Standardised weights [..., P] float32 -> embedding [..., Dq] float32, of any length.

    hidden_dims: widths of the softplus layers; question_dim: Dq. The first layer's 1/sqrt(P) is in
    the forward pass: with P terms to a sum, steps of Adam on a kernel of that scale would be far
    too long.
    """

    hidden_dims: Sequence[int]
    question_dim: int

    def setup(self) -> None:
        first, *others = *self.hidden_dims, self.question_dim
        unit = nn.initializers.normal(1.0)
        self.layers = [nn.Dense(first, kernel_init=unit), *map(nn.Dense, others)]
        self.log_scale = self.param(
            "log_scale", nn.initializers.constant(math.log(FIRST_SCALE)), ()
        )

    def __call__(self, weights: Float[Array, "*B P"]) -> Float[Array, "*B Dq"]:
        return self.finish(self.layers[0](weights / jnp.sqrt(weights.shape[-1])))

    def finish(self, x: Float[Array, "*B W"]) -> Float[Array, "*B Dq"]:
        """What follows the first linear layer: its output [..., 128] -> [..., Dq].

        Apart, because guidance folds the first layer into the generator's last.
        """
        for layer in self.layers[1:]:
            x = layer(nn.softplus(x))
        return x

    def scale(self) -> Float[Array, ""]:
        """The inverse temperature of the contrastive loss, [] float32, at most 100."""
        return jnp.minimum(jnp.exp(self.log_scale), MAX_SCALE)
