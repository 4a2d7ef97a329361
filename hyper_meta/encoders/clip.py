"""CLIP, the dual encoder of images and sentences (Radford et al. 2021, section 2.4), in Flax linen.

One module serves the bundled tiny CLIP and OpenAI's checkpoints: it computes what Hugging Face
transformers' `CLIPModel` computes from the same `config.json`. Axes: B batch, L tokens, S sequence
positions (tokens or patches), W a tower's hidden_size, D projection_dim.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from hyper_meta.core.types import Array, SentenceFeatures, UserError
from hyper_meta.encoders.clip_config import LEGACY_EOS_TOKEN_ID, CLIPConfig, TowerConfig


def quick_gelu(x: Float[Array, " ..."]) -> Float[Array, " ..."]:
    """OpenAI CLIP's approximation of GELU, x * sigmoid(1.702 x); any shape and float dtype."""
    return x * nn.sigmoid(1.702 * x)


# By the names of clip_config.ACTIVATION_NAMES.
ACTIVATIONS = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
}


class SelfAttention(nn.Module):
    """Multi-head self-attention: [B, S, W] -> [B, S, W], or [B, 1, W] of one position in each row,
    `at` [B]; a position sees only itself and earlier ones where `causal`."""

    config: TowerConfig
    causal: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S W"], at: Int[Array, " B"] | None
    ) -> Float[Array, "B _ W"]:
        width, num_heads = self.config.hidden_size, self.config.num_attention_heads
        out_std = width**-0.5
        in_std = out_std * (2 * self.config.num_hidden_layers) ** -0.5
        asking = _take(x, at)
        query, key, value = (
            _dense(width, in_std, self.dtype, name)(inputs).reshape(
                *inputs.shape[:-1], num_heads, width // num_heads
            )
            for name, inputs in (("q_proj", asking), ("k_proj", x), ("v_proj", x))
        )
        seen = None
        if self.causal and at is not None:
            seen = (jnp.arange(x.shape[1]) <= at[:, None])[:, None, None]
        mixed = jax.nn.dot_product_attention(
            query, key, value, mask=seen, is_causal=self.causal and at is None
        )
        return _dense(width, out_std, self.dtype, "out_proj")(mixed.reshape(asking.shape))


class MLP(nn.Module):
    """Two dense layers with the tower's activation between: [B, S, W] -> [B, S, W]."""

    config: TowerConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B S W"]) -> Float[Array, "B S W"]:
        config, width = self.config, self.config.hidden_size
        hidden = _dense(config.intermediate_size, (2 * width) ** -0.5, self.dtype, "fc1")(x)
        out_std = width**-0.5 * (2 * config.num_hidden_layers) ** -0.5
        return _dense(width, out_std, self.dtype, "fc2")(ACTIVATIONS[config.hidden_act](hidden))


class Block(nn.Module):
    """One pre-layer-norm residual block: [B, S, W] -> [B, S, W], or [B, 1, W] as SelfAttention."""

    config: TowerConfig
    causal: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S W"], at: Int[Array, " B"] | None
    ) -> Float[Array, "B _ W"]:
        config, dtype = self.config, self.dtype
        normed = layer_norm(config, dtype, "layer_norm1")(x)
        attended = SelfAttention(config, self.causal, dtype, name="self_attn")(normed, at)
        x = _take(x, at) + attended
        normed = layer_norm(config, dtype, "layer_norm2")(x)
        return x + MLP(config, dtype, name="mlp")(normed)


class Transformer(nn.Module):
    """The blocks in sequence: [B, S, W] -> [B, S, W], or [B, 1, W], the state at one position of
    each row.

    Of one position, the last block computes nothing else: 7% of the work in 12 layers.
    """

    config: TowerConfig
    causal: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S W"], at: Int[Array, " B"] | None
    ) -> Float[Array, "B _ W"]:
        """at: [B] int32 in [0, S), None for all positions."""
        last = self.config.num_hidden_layers - 1
        for i in range(self.config.num_hidden_layers):
            block = Block(self.config, self.causal, self.dtype, name=f"layers_{i}")
            x = block(x, at if i == last else None)
        return x


def _take(x: jax.Array, at: jax.Array | None) -> jax.Array:
    """[B, S, W] -> [B, 1, W], what lies at [B]; everything where that is None."""
    return x if at is None else jnp.take_along_axis(x, at[:, None, None], axis=1)


class TextTower(nn.Module):
    """Token ids [B, L] int32 -> the normalised hidden states [B, L, W], or [B, 1, W] of one
    position in each row; a token sees only itself and earlier ones where `causal`."""

    config: Any  # of a CLIP or a SigLIP
    dtype: jnp.dtype
    causal: bool = True

    @nn.compact
    def __call__(
        self, token_ids: Int[Array, "B L"], at: Int[Array, " B"] | None
    ) -> Float[Array, "B _ W"]:
        """at: as of `Transformer`."""
        config, tower = self.config, self.config.text
        init = nn.initializers.normal(0.02)
        positions = self.param(
            "position_embedding", init, (config.max_position_embeddings, tower.hidden_size)
        )
        embed = nn.Embed(
            config.vocab_size,
            tower.hidden_size,
            dtype=self.dtype,
            embedding_init=init,
            name="token_embedding",
        )
        x = embed(token_ids) + positions[: token_ids.shape[1]].astype(self.dtype)
        states = Transformer(tower, self.causal, self.dtype, name="encoder")(x, at)
        return layer_norm(tower, self.dtype, "final_layer_norm")(states)


class VisionTower(nn.Module):
    """Normalised pixels [B, H, W, 3] float32 -> the class token's normalised state [B, W]."""

    config: CLIPConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B W"]:
        config, tower, width = self.config, self.config.vision, self.config.vision.hidden_size
        patches = split_patches(pixels.astype(self.dtype), config.patch_size)
        embed = nn.Dense(
            width,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.02),
            name="patch_embedding",
        )
        class_token = self.param("class_embedding", nn.initializers.normal(width**-0.5), (width,))
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.02), (patches.shape[1] + 1, width)
        )
        first = jnp.broadcast_to(class_token.astype(self.dtype), (pixels.shape[0], 1, width))
        x = jnp.concatenate([first, embed(patches)], axis=1) + positions.astype(self.dtype)
        x = layer_norm(tower, self.dtype, "pre_layernorm")(x)
        first = jnp.zeros(len(x), jnp.int32)
        pooled = Transformer(tower, False, self.dtype, name="encoder")(x, first)[:, 0]
        return layer_norm(tower, self.dtype, "post_layernorm")(pooled)


class CLIP(nn.Module):
    """The dual encoder. Parameters are float32 and initialised as transformers initialises CLIP;
    `dtype` is the type it computes in (jnp.bfloat16 halves the activations)."""

    config: CLIPConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        config = self.config
        self.vision_model = VisionTower(config, self.dtype)
        self.text_model = TextTower(config, self.dtype)
        self.visual_projection = _projection(config.vision, config.projection_dim, self.dtype)
        self.text_projection = _projection(config.text, config.projection_dim, self.dtype)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(config.logit_scale_init_value), ()
        )

    def encode_image(self, pixels: Float[Array, " ..."]) -> Float[Array, "B D"]:
        """Embeds images.

        pixels: [B, image_size, image_size, 3] float32, normalised by the encoder's mean and std.
        Returns [B, D] float32, not normalised. Raises UserError for another image shape.
        """
        check_pixels(pixels, self.config.image_size)
        return self.visual_projection(self.vision_model(pixels)).astype(jnp.float32)

    def encode_text(self, token_ids: Int[Array, " ..."]) -> Float[Array, "B D"]:
        """Embeds sentences; what follows a sentence's end token does not change its embedding.

        token_ids: [B, L] int32 in [0, vocab_size), L at most max_position_embeddings, each row
        with an end token (legacy configs: the highest id, see `LEGACY_EOS_TOKEN_ID`). Returns
        [B, D] float32, not normalised. Raises UserError for other shapes.
        """
        self._check_tokens(token_ids)
        end = _end_position(token_ids, self.config.eos_token_id)
        pooled = self.text_model(token_ids, end)[:, 0]
        return self.text_projection(pooled).astype(jnp.float32)

    def encode_tokens(self, token_ids: Int[Array, " ..."]) -> SentenceFeatures:
        """The embeddings of sentences with the states of their tokens, at the cost of a whole last
        block.

        token_ids: as of `encode_text`. Returns float32 pooled [B, D], mask [B, L], True up to the
        end token, and tokens [B, L, W], the text tower's last states after its final layer norm,
        zero behind the end token.
        """
        self._check_tokens(token_ids)
        end = _end_position(token_ids, self.config.eos_token_id)
        mask = jnp.arange(token_ids.shape[1]) <= end[:, None]
        states = self.text_model(token_ids, None)
        return SentenceFeatures(
            pooled=self.text_projection(_take(states, end)[:, 0]).astype(jnp.float32),
            tokens=jnp.where(mask[..., None], states, 0).astype(jnp.float32),
            mask=mask,
        )

    def _check_tokens(self, token_ids: jax.Array) -> None:
        longest = self.config.max_position_embeddings
        if token_ids.ndim != 2 or token_ids.shape[1] > longest:
            raise UserError(
                f"token ids have shape {token_ids.shape}, [B, L] with L <= {longest} expected"
            )

    def __call__(
        self, pixels: Float[Array, " ..."], token_ids: Int[Array, " ..."]
    ) -> tuple[Float[Array, "B D"], Float[Array, "n D"], Float[Array, ""]]:
        """Embeds both sides; the inputs are those of `encode_image` and `encode_text`.

        Returns (image [B, D], text [n, D], logit_scale []), float32: the unnormalised embeddings
        and the factor (already exponentiated) by which CLIP multiplies cosine similarities.
        """
        return (
            self.encode_image(pixels),
            self.encode_text(token_ids),
            jnp.exp(self.logit_scale),
        )


def check_pixels(pixels: Float[Array, " ..."], size: int) -> None:
    """Raises UserError for another shape than [B, size, size, 3]."""
    if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
        raise UserError(f"pixels have shape {pixels.shape}, [B, {size}, {size}, 3] expected")


def _dense(features: int, std: float, dtype: jnp.dtype, name: str) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.normal(std), name=name)


def _projection(tower: TowerConfig, projection_dim: int, dtype: jnp.dtype) -> nn.Dense:
    init = nn.initializers.normal(tower.hidden_size**-0.5)
    return nn.Dense(projection_dim, use_bias=False, dtype=dtype, kernel_init=init)


def layer_norm(tower: TowerConfig, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """The layer norm of a tower."""
    # The two-pass variance: E[x^2] - E[x]^2 loses the digits that parity with PyTorch needs.
    return nn.LayerNorm(tower.layer_norm_eps, dtype=dtype, use_fast_variance=False, name=name)


def split_patches(
    pixels: Float[Array, "B height width 3"], patch_size: int
) -> Float[Array, "B S _"]:
    """[B, H, W, 3] -> [B, (H/p)(W/p), p*p*3] in reading order: a dense layer on these equals a
    convolution with kernel and stride p. What is left at the edges is not read."""
    b, h, w, c = pixels.shape
    rows, columns = h // patch_size, w // patch_size
    whole = pixels[:, : rows * patch_size, : columns * patch_size]
    grid = whole.reshape(b, rows, patch_size, columns, patch_size, c)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, -1)


def _end_position(token_ids: jax.Array, eos_token_id: int) -> jax.Array:
    """[B, L] -> [B] int32, the position whose state stands for the sentence: the first end token,
    or under the legacy end token 2 the first highest id (transformers, CLIPTextModel.forward)."""
    if eos_token_id == LEGACY_EOS_TOKEN_ID:
        return jnp.argmax(token_ids, axis=-1)
    return jnp.argmax(token_ids == eos_token_id, axis=-1)
