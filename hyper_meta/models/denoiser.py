"""Denoisers of latents: multilayer perceptrons that see the noisy latent, the step and a sentence.

Axes: B batch, Dq question, Z latent.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from hyper_meta.core.types import Array, SentenceFeatures
from hyper_meta.models.reader import Reader
from hyper_meta.models.sentences import keep_sentences


def time_embedding(
    t: Int[Array, " B"], *, dim: int, max_period: float = 1e4
) -> Float[Array, "B dim"]:
    """[B, dim] float32 in [-1, 1]: [cos(t w), sin(t w)] at dim / 2 frequencies w.

    The frequencies fall geometrically from 1 towards 1 / max_period radians a step (Vaswani et al.
    2017, section 3.5).

    Args:
      dim: even.

    Raises:
      ValueError: dim is odd.
    """
    if dim % 2:
        raise ValueError(f"the width of the time embedding must be even, got {dim}")
    frequency = max_period ** (-2 * jnp.arange(dim // 2, dtype=jnp.float32) / dim)
    angle = t.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class JoinedDense(nn.Module):
    """nn.Dense of concatenated inputs: one kernel, of which each input meets its own slice of rows.

    The inputs [B or 1, any] float32 are multiplied separately and summed: [B, features] float32. So
    a sampler multiplies the condition once, before its scan over steps, and a step that all rows
    share as a single row.
    """

    features: int

    @nn.compact
    def __call__(self, *inputs):
        ends = np.cumsum([x.shape[-1] for x in inputs])
        shape = (int(ends[-1]), self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return sum((x @ w for x, w in zip(inputs, jnp.split(kernel, ends[:-1]), strict=True)), bias)


class HiddenLayer(nn.Module):
    """Linear, layer norm, ReLU, dropout: inputs [B or 1, any] float32, side by side ->
    [B, features] float32.

    dropout_rate: in [0, 1).
    """

    features: int
    dropout_rate: float

    @nn.compact
    def __call__(self, *inputs, deterministic):
        x = nn.relu(nn.LayerNorm()(JoinedDense(self.features, name="Dense_0")(*inputs)))
        return nn.Dropout(self.dropout_rate)(x, deterministic=deterministic)


class DenoiserV1(nn.Module):
    """HyperLDM's first denoiser: condition and step enter once, beside the latent.

    latent_dim: Z. hidden_dim: width of the hidden layers. num_blocks: how many of them (the paper:
    2 of 128). time_dim: even width of the time embedding. dropout_rate: in [0, 1), after every
    hidden layer. reader: reads the tokens of the sentence; None: its pooled features enter. The
    last layer starts at zero, so an untrained denoiser outputs zero.
    """

    latent_dim: int
    hidden_dim: int
    num_blocks: int
    time_dim: int = 100
    dropout_rate: float = 0.0
    reader: Reader | None = None

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "B Z"],
        t: Int[Array, "#B"],
        condition: SentenceFeatures,
        keep: Bool[Array, " B"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B Z"]:
        """[B, Z] float32: the prediction for noisy latents.

        Args:
          z: noisy latents.
          t: a step for each row, or one that all rows share.
          condition: standardised sentences, leading axis B.
          keep: [B] bool; where False the condition is replaced by the null sentence, zeros.
          deterministic: False turns dropout on and needs a "dropout" rng. One rng covers the whole
            batch; vmap over rows with a key each where splitting a batch must change nothing.
        """
        question = keep_sentences(condition, keep)
        vector = question.pooled if self.reader is None else self.reader(question).vector
        context = vector, time_embedding(t, dim=self.time_dim)
        x = self.blocks(z, context, deterministic)
        return nn.Dense(self.latent_dim, kernel_init=nn.initializers.zeros)(x)

    def blocks(
        self, z: Float[Array, "B Z"], context: tuple, deterministic: bool
    ) -> Float[Array, "B W"]:
        """[B, Z] latents and ([B, Dq] question, [B or 1, time_dim] step) -> [B, hidden_dim]."""
        inputs = z, *context
        for _ in range(self.num_blocks):
            layer = HiddenLayer(self.hidden_dim, self.dropout_rate)
            inputs = (layer(*inputs, deterministic=deterministic),)
        return inputs[0]


class DenoiserV2(DenoiserV1):
    """HyperLDM's second denoiser: every block sees condition and step, and adds to a linear map.

    x <- W x + dropout(relu(norm(V [x, condition, time])))
    """

    def blocks(
        self, z: Float[Array, "B Z"], context: tuple, deterministic: bool
    ) -> Float[Array, "B W"]:
        """As that of DenoiserV1."""
        x = z
        for _ in range(self.num_blocks):
            layer = HiddenLayer(self.hidden_dim, self.dropout_rate)
            update = layer(x, *context, deterministic=deterministic)
            x = nn.Dense(self.hidden_dim)(x) + update
        return x


DENOISERS = {"v1": DenoiserV1, "v2": DenoiserV2}


def denoiser_class(version: str) -> type[nn.Module]:
    """The flax module of this version: a key of DENOISERS.

    Raises:
      ValueError: unknown version.
    """
    if version not in DENOISERS:
        raise ValueError(f"unknown denoiser {version!r}, expected one of {list(DENOISERS)}")
    return DENOISERS[version]
