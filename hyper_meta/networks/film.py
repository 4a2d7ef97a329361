"""FiLM's rewrite of an adapter (Perez et al. 2018): its hidden units scaled and shifted."""

import jax.numpy as jnp
from jaxtyping import Float

from hyper_meta.core.types import Array
from hyper_meta.networks.adapter import split_weights


def film_weights(
    adapter: Float[Array, " P"],
    scale: Float[Array, " H"],
    shift: Float[Array, " H"],
    embed_dim: int,
) -> Float[Array, " P"]:
    """The adapter with relu(scale (W1 x / sqrt(D) + b1) + shift) for its hidden units: [P].

    adapter: [P] float32; scale, shift: [H] float32. The scale goes into the columns of W1 and into
    b1, the shift into b1, so the result is a plain adapter.
    """
    w1, b1, w2, b2 = split_weights(adapter, embed_dim)
    return jnp.concatenate([(w1 * scale).ravel(), b1 * scale + shift, w2.ravel(), b2])
