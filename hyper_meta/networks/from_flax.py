"""Any flax module that maps features to features, as a network that can be generated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hyper_meta.core.types import Array, UserError
from hyper_meta.networks.base import BaseNetwork, lay_out

VECTOR_SCALE = 0.1


def from_flax(
    name: str, module: nn.Module, embed_dim: int, settings: Mapping[str, Any]
) -> BaseNetwork:
    """The network whose `adapt` is this module: [N, D] float32 -> [N, D] float32.

    Generated weights u are of unit scale. A matrix of the module is u / sqrt(fan-in), which is all
    of its dimensions but the last; a vector (a bias, the scale of a norm) is its initial value
    plus 0.1 u. A residual connection is the module's own affair.

    Args:
      name: in the registry.
      module: with parameters only, no other collection.
      embed_dim: D.
      settings: that the registry makes it with; "blend" among them.

    Raises:
      UserError: the module has no parameters, or other collections, or returns another shape.
    """
    key, example = jax.random.key(0), jnp.zeros((1, embed_dim))
    variables = jax.eval_shape(module.init, key, example)
    if set(variables) != {"params"}:
        raise UserError(
            f"network {name!r} has the collections {sorted(variables)}: a module with parameters "
            "('params'), and nothing but them, is expected"
        )
    returned = jax.eval_shape(module.apply, variables, example).shape
    if returned != example.shape:
        raise UserError(
            f"network {name!r} maps features [N, {embed_dim}] to {list(returned)} for N = 1, "
            f"[N, {embed_dim}] is expected"
        )
    first = module.init(key, example)["params"]
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(first), strict=True)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    layers = lay_out([(n, leaf.shape) for n, leaf in zip(names, leaves, strict=True)])
    structure = jax.tree.structure(first)
    centres, scales = zip(*map(_centre_and_scale, leaves), strict=True)

    def adapt(weights: jax.Array, features: jax.Array) -> jax.Array:
        params = [
            centre + scale * weights[layer.start : layer.start + layer.size].reshape(layer.shape)
            for layer, centre, scale in zip(layers, centres, scales, strict=True)
        ]
        return module.apply({"params": jax.tree.unflatten(structure, params)}, features)

    return BaseNetwork(name, settings, embed_dim, layers, adapt)


def _centre_and_scale(first: jax.Array) -> tuple[np.ndarray | float, float]:
    """What a parameter is when its generated weights are zero, and what one unit of them adds."""
    if first.ndim < 2:
        return np.asarray(first), VECTOR_SCALE
    return 0.0, 1 / math.sqrt(math.prod(first.shape[:-1]))


class TwoLayers(nn.Module):
    """x + W3 relu(W2 relu(norm(W1 x))): two hidden layers with a layer norm, [N, D] -> [N, D].

    hidden_dim: width of both.
    """

    hidden_dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        hidden = nn.relu(nn.LayerNorm()(nn.Dense(self.hidden_dim)(x)))
        hidden = nn.relu(nn.Dense(self.hidden_dim)(hidden))
        return x + nn.Dense(x.shape[-1])(hidden)


def two_layers(embed_dim: int, *, hidden_dim: int, blend: float) -> BaseNetwork:
    """`TwoLayers` as a network."""
    settings = {"hidden_dim": hidden_dim, "blend": blend}
    return from_flax("two_layers", TwoLayers(hidden_dim), embed_dim, settings)
