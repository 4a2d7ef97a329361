"""FiLM (Perez et al. 2018): a question scales and shifts the hidden units of one adapter."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from hyper_meta.core.types import Array


class Film(nn.Module):
    """Question [..., Dq] float32 -> scale and shift of the hidden units, each [..., H] float32.

    hidden_dims: widths of the ReLU layers; adapter_dim: H. The last layer starts at zero and the
    scale at one, so an untrained Film leaves the adapter as it is.
    """

    hidden_dims: Sequence[int]
    adapter_dim: int

    @nn.compact
    def __call__(
        self, question: Float[Array, "*B Dq"]
    ) -> tuple[Float[Array, "*B H"], Float[Array, "*B H"]]:
        x = question
        for width in self.hidden_dims:
            x = nn.relu(nn.Dense(width, kernel_init=nn.initializers.he_normal())(x))
        x = nn.Dense(2 * self.adapter_dim, kernel_init=nn.initializers.zeros)(x)
        scale, shift = jnp.split(x, 2, axis=-1)
        return 1 + scale, shift
