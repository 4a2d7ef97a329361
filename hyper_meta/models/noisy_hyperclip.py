"""HyperCLIP at every noise level: diffused latents and sentences in one space (method.md section
5), so that it can guide a sampler from within."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from hyper_meta.core.losses import normalise
from hyper_meta.core.types import Array, SentenceFeatures
from hyper_meta.models.denoiser import time_embedding
from hyper_meta.models.reader import Reader


class NoisyHyperCLIP(nn.Module):
    """Diffused latents [B, Z] at steps [B] -> [B, E] float32, of any length; and, by `read`,
    standardised sentences -> [B, E], of length 1.

    Their products are the logits of sentences given a latent: the length of the first is their
    inverse temperature, which the step decides, as a latent of noise says nothing. The networks'
    weights are a function of the latent, and that function is of no use far from the latents that
    it was trained on: the latent itself is read.

    hidden_dims: widths of the softplus layers. embed_dim: E. reader: reads the tokens of a
    sentence; None: its pooled features are read. time_dim: even width of the time embedding.
    """

    hidden_dims: Sequence[int]
    embed_dim: int
    reader: Reader | None = None
    time_dim: int = 100

    def setup(self) -> None:
        self.layers = [nn.Dense(width) for width in (*self.hidden_dims, self.embed_dim)]
        self.project = nn.Dense(self.embed_dim)

    def __call__(self, latent: Float[Array, "B Z"], t: Int[Array, "#B"]) -> Float[Array, "B E"]:
        time = time_embedding(t, dim=self.time_dim)
        x = jnp.concatenate([latent, jnp.broadcast_to(time, (len(latent), self.time_dim))], axis=-1)
        for layer in self.layers[:-1]:
            x = nn.softplus(layer(x))
        return self.layers[-1](x)

    def read(self, sentence: SentenceFeatures) -> Float[Array, "*B E"]:
        vector = sentence.pooled if self.reader is None else self.reader(sentence).vector
        return normalise(self.project(vector))

    def both(
        self, latent: Float[Array, "B Z"], t: Int[Array, "#B"], sentence: SentenceFeatures
    ) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
        """(of the latents, of the sentences)."""
        return self(latent, t), self.read(sentence)


def log_probability(
    embedded: Float[Array, "B E"], asked: Float[Array, "B E"], known: Float[Array, "T E"]
) -> Float[Array, " B"]:
    """[B] float32: log p(the sentence asked | the latent), among it and T known sentences that are
    as likely before the latent is seen."""
    own = jnp.sum(embedded * asked, axis=-1)
    others = jax.nn.logsumexp(embedded @ known.T, axis=-1)
    return own - jnp.logaddexp(own, others)
