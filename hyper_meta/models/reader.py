"""The reader: a small transformer over the token states of a sentence (method.md section 4)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float

from hyper_meta.core.types import Array, SentenceFeatures


@struct.dataclass
class Reading:
    """What the reader makes of a sentence.

    vector: the whole sentence, for what needs one vector; states, mask: of the summary and of each
    token, keys and values for what attends. The summary is the first state and never masked.
    """

    vector: Float[Array, "*B W"]
    states: Float[Array, "*B L1 W"]
    mask: Bool[Array, "*B L1"]


class Reader(nn.Module):
    """A sentence -> `Reading`: pre-norm transformer blocks (Vaswani et al. 2017; Xiong et al. 2020)
    over a learnt summary state and the sentence's tokens.

    The tokens are standardised states of any encoder, of any width; a sentence that has none is
    read as one token, its pooled vector. The null sentence, none of whose tokens is unmasked, reads
    as the summary alone.

    width: of the states, a multiple of num_heads. num_blocks: at least 1. num_heads: of the
    attention. The hidden layer of a block is twice as wide.
    """

    width: int
    num_blocks: int
    num_heads: int

    @nn.compact
    def __call__(self, sentence: SentenceFeatures) -> Reading:
        tokens, mask = tokens_of(sentence)
        # What stands behind the mask may be anything, NaN too: 0 * NaN would be NaN.
        tokens = jnp.where(mask[..., None], tokens, 0)
        x = nn.Dense(self.width)(tokens)
        summary = self.param("summary", nn.initializers.normal(1.0), (self.width,))
        first = jnp.broadcast_to(summary, (*x.shape[:-2], 1, self.width))
        x = jnp.concatenate([first, x], axis=-2)
        mask = jnp.concatenate([jnp.ones_like(mask[..., :1]), mask], axis=-1)
        for _ in range(self.num_blocks):
            x = x + self._attend(nn.LayerNorm()(x), mask)
            hidden = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(hidden)
        states = nn.LayerNorm()(x)
        return Reading(states[..., 0, :], states, mask)

    def _attend(
        self, x: Float[Array, "*B L1 W"], mask: Bool[Array, "*B L1"]
    ) -> Float[Array, "*B L1 W"]:
        # A bias of the keys would have no gradient but rounding, which Adam takes for a direction.
        attention = nn.MultiHeadDotProductAttention(self.num_heads, use_bias=False)
        return attention(x, mask=mask[..., None, None, :])


def tokens_of(
    sentence: SentenceFeatures,
) -> tuple[Float[Array, "*B L W"], Bool[Array, "*B L"]]:
    """(token states, mask) of a sentence; the pooled vector as one token where it has none."""
    if sentence.tokens is None:
        pooled = sentence.pooled[..., None, :]
        return pooled, jnp.ones(pooled.shape[:-1], bool)
    return sentence.tokens, sentence.mask


class LatentReader(nn.Module):
    """A sentence -> a latent [..., Z] float32: a linear map of what the reader makes of it."""

    reader: Reader
    latent_dim: int

    @nn.compact
    def __call__(self, sentence: SentenceFeatures) -> Float[Array, "*B Z"]:
        return nn.Dense(self.latent_dim)(self.reader(sentence).vector)
