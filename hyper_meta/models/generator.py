"""The generator: an MLP from a latent, or from a question embedding, to adapter weights
(method.md section 4)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Float

from hyper_meta.core.types import Array


class Generator(nn.Module):
    """[..., Z] float32 -> [..., P] float32 adapter weights.

    hidden_dims: widths of the ReLU layers (He-normal, zero bias); the last layer has gain 1.
    """

    hidden_dims: Sequence[int]
    num_weights: int

    @nn.compact
    def __call__(self, latent: Float[Array, "*B Z"]) -> Float[Array, "*B P"]:
        x = latent
        for width in self.hidden_dims:
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(self.num_weights, kernel_init=nn.initializers.lecun_normal())(x)


def split_layers(params: Any) -> tuple[list[dict], dict]:
    """The parameters of a Generator as (hidden layers, last layer), each {"kernel", "bias"}."""
    layers = [params[f"Dense_{number}"] for number in range(len(params))]
    return layers[:-1], layers[-1]


def join_layers(hidden: Sequence[dict], last: dict) -> dict:
    """The parameters of a Generator with these layers: what `split_layers` takes apart."""
    return {f"Dense_{number}": layer for number, layer in enumerate([*hidden, last])}


def apply_hidden(layers: Sequence[dict], x: Float[Array, "*B Z"]) -> Float[Array, "*B W"]:
    """What the last layer of a Generator sees: [..., Z] float32 -> [..., width] float32."""
    for layer in layers:
        x = nn.relu(x @ layer["kernel"] + layer["bias"])
    return x


@dataclasses.dataclass(frozen=True)
class Factors:
    """A generator taken apart: weights = hidden(params, latent) @ kernel + bias.

    hidden: (generator params, latent [..., Z]) -> [..., W]; head: generator params -> (kernel
    [W, P], bias [P]).
    """

    hidden: Callable[[Any, jax.Array], jax.Array]
    head: Callable[[Any], tuple[jax.Array, jax.Array]]


# Of a Generator, whose params are the generator params.
GENERATOR = Factors(
    hidden=lambda params, latent: apply_hidden(split_layers(params)[0], latent),
    head=lambda params: (split_layers(params)[1]["kernel"], split_layers(params)[1]["bias"]),
)


def generate_weights(
    factors: Factors, params: Any, latents: Float[Array, "*B Z"]
) -> Float[Array, "*B P"]:
    """[..., Z] -> [..., P] float32, for the generator params."""
    kernel, bias = factors.head(params)
    return factors.hidden(params, latents) @ kernel + bias
