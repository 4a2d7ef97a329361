"""BERT (Devlin et al. 2019) and MPNet (Song et al. 2020), the transformers of sentence encoders, in
Flax linen.

They compute what Hugging Face transformers' `BertModel` and `MPNetModel` compute from the same
`config.json`, without the pooler. Axes: B batch, L tokens, W hidden_size.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from hyper_meta.core.types import Array, UserError
from hyper_meta.encoders.bert_config import BertConfig

PADDING = -1  # in place of a token id; no vocabulary has it
# By the names of bert_config.ACTIVATION_NAMES.
ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}
# From this distance on, MPNet's relative positions share one bucket (transformers, MPNetEncoder).
MAX_DISTANCE = 128


class Embeddings(nn.Module):
    """Token ids [B, L] int32, PADDING included -> the normalised embeddings [B, L, W]."""

    config: BertConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, token_ids: Int[Array, "B L"]) -> Float[Array, "B L W"]:
        config, init = self.config, nn.initializers.normal(0.02)
        width = config.hidden_size
        words = self.param("words", init, (config.vocab_size, width))
        positions = self.param("positions", init, (config.max_position_embeddings, width))
        x = jnp.take(words, jnp.maximum(token_ids, 0), axis=0).astype(self.dtype)
        first, length = config.first_position, token_ids.shape[1]
        x += positions[first : first + length].astype(self.dtype)
        if config.model_type == "bert":
            # Every token of a sentence by itself is of type 0.
            types = self.param("types", init, (config.type_vocab_size, width))
            x += types[0].astype(self.dtype)
        return _layer_norm(config, self.dtype, "norm")(x)


class SelfAttention(nn.Module):
    """Multi-head self-attention to the positions that are seen: [B, L, W] -> [B, L, W]."""

    config: BertConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L W"],
        seen: Bool[Array, "B L"],
        bias: Float[Array, "1 heads L L"] | None,
    ) -> Float[Array, "B L W"]:
        """bias: added to the scores of attention."""
        width, num_heads = self.config.hidden_size, self.config.num_attention_heads
        query, key, value = (
            _dense(width, self.dtype, name)(x).reshape(*x.shape[:-1], num_heads, width // num_heads)
            for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(
            query, key, value, bias=bias, mask=seen[:, None, None, :]
        )
        return _dense(width, self.dtype, "out")(mixed.reshape(x.shape))


class Layer(nn.Module):
    """Attention and two dense layers, each added and then normalised: [B, L, W] -> [B, L, W]."""

    config: BertConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L W"],
        seen: Bool[Array, "B L"],
        bias: Float[Array, "1 heads L L"] | None,
    ) -> Float[Array, "B L W"]:
        """seen, bias: of `SelfAttention`."""
        config, dtype = self.config, self.dtype
        attended = SelfAttention(config, dtype, name="attention")(x, seen, bias)
        x = _layer_norm(config, dtype, "attention_norm")(x + attended)
        hidden = _dense(config.intermediate_size, dtype, "intermediate")(x)
        hidden = _dense(config.hidden_size, dtype, "output")(ACTIVATIONS[config.hidden_act](hidden))
        return _layer_norm(config, dtype, "output_norm")(x + hidden)


class Bert(nn.Module):
    """The transformer of a sentence encoder. Parameters are float32; `dtype` is the type it
    computes in."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, token_ids: Int[Array, "B L"]) -> tuple[Float[Array, "B L W"], ...]:
        """The hidden states of sentences, `num_hidden_layers + 1` of them: the embeddings, then the
        output of each layer, in `dtype`.

        token_ids: [B, L] int32 in [0, vocab_size), behind a sentence's end PADDING, which no state
        before it depends on. Raises UserError where L is more than there are positions.
        """
        config, most = self.config, self.config.most_positions
        if token_ids.shape[1] > most:
            raise UserError(
                f"token ids have shape {token_ids.shape}, [B, L] with L <= {most} expected"
            )
        seen = token_ids != PADDING
        bias = None
        if config.model_type == "mpnet":
            shape = (config.relative_attention_num_buckets, config.num_attention_heads)
            table = self.param("relative_attention_bias", nn.initializers.normal(0.02), shape)
            buckets = relative_buckets(token_ids.shape[1], shape[0])
            bias = table[buckets].transpose(2, 0, 1)[None].astype(self.dtype)
        states = [Embeddings(config, self.dtype, name="embeddings")(token_ids)]
        for i in range(config.num_hidden_layers):
            layer = Layer(config, self.dtype, name=f"layer_{i}")
            states.append(layer(states[-1], seen, bias))
        return tuple(states)


def relative_buckets(length: int, num_buckets: int) -> Int[np.ndarray, "L L"]:
    """The bucket of each pair of positions, one row a query: half of the buckets are of keys behind
    it; of each half, half are of one distance, the others of distances that grow geometrically to
    MAX_DISTANCE (Raffel et al. 2020, section 2.1; transformers, MPNetEncoder)."""
    position = np.arange(length)
    distance = position[:, None] - position
    half = num_buckets // 2
    exact = half // 2
    size = np.abs(distance)
    # In float32, as transformers: at a border the last digit decides.
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(np.log(MAX_DISTANCE / exact)) * np.float32(half - exact)
    far = np.minimum(exact + ratio.astype(np.int64), half - 1)
    return np.where(distance < 0, half, 0) + np.where(size < exact, size, far)


def _dense(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.normal(0.02), name=name)


def _layer_norm(config: BertConfig, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    # The two-pass variance, as in clip.py.
    return nn.LayerNorm(config.layer_norm_eps, dtype=dtype, use_fast_variance=False, name=name)
