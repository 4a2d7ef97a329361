"""SigLIP (Zhai et al. 2023) and SigLIP 2 of a fixed resolution (Tschannen et al. 2025), in Flax
linen: what transformers' `SiglipModel` computes from the same `config.json`.

Unlike CLIP, every token attends to every token, padding included; a sentence is the state of the
last one, an image what a learnt query reads of all patches. Axes: as in `clip`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from hyper_meta.core.types import Array, SentenceFeatures, UserError
from hyper_meta.encoders.clip import (
    MLP,
    TextTower,
    Transformer,
    check_pixels,
    layer_norm,
    split_patches,
)
from hyper_meta.encoders.siglip_config import SigLIPConfig


class PoolingHead(nn.Module):
    """What a learnt query reads of the patches [B, S, W], and a residual block: [B, W]."""

    config: SigLIPConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B S W"]) -> Float[Array, "B W"]:
        tower = self.config.vision
        width, heads = tower.hidden_size, tower.num_attention_heads
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
        asking = jnp.broadcast_to(probe.astype(self.dtype), (len(x), 1, width))
        project = nn.Dense(3 * width, dtype=self.dtype, name="in_proj")
        parts = jnp.split(project(asking), 3, axis=-1)[:1] + jnp.split(project(x), 3, axis=-1)[1:]
        query, key, value = (part.reshape(*part.shape[:-1], heads, -1) for part in parts)
        mixed = jax.nn.dot_product_attention(query, key, value).reshape(asking.shape)
        pooled = nn.Dense(width, dtype=self.dtype, name="out_proj")(mixed)
        normed = layer_norm(tower, self.dtype, "layernorm")(pooled)
        return (pooled + MLP(tower, self.dtype, name="mlp")(normed))[:, 0]


class VisionTower(nn.Module):
    """Normalised pixels [B, H, W, 3] float32 -> the pooled state [B, W]."""

    config: SigLIPConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels: Float[Array, "B height width 3"]) -> Float[Array, "B W"]:
        config, tower = self.config, self.config.vision
        patches = split_patches(pixels.astype(self.dtype), config.patch_size)
        embed = nn.Dense(tower.hidden_size, dtype=self.dtype, name="patch_embedding")
        positions = self.param(
            "position_embedding",
            nn.initializers.normal(tower.hidden_size**-0.5),
            (patches.shape[1], tower.hidden_size),
        )
        x = embed(patches) + positions.astype(self.dtype)
        x = Transformer(tower, False, self.dtype, name="encoder")(x, None)
        x = layer_norm(tower, self.dtype, "post_layernorm")(x)
        return PoolingHead(config, self.dtype, name="head")(x)


class SigLIP(nn.Module):
    """The dual encoder. Parameters are float32; `dtype` is the type it computes in. `logit_scale`
    and `logit_bias` are kept as the checkpoint has them; cosines do not need them."""

    config: SigLIPConfig
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.vision_model = VisionTower(self.config, self.dtype)
        self.text_model = TextTower(self.config, self.dtype, causal=False)
        self.text_head = nn.Dense(self.config.projection_dim, dtype=self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.zeros, (1,))
        self.logit_bias = self.param("logit_bias", nn.initializers.zeros, (1,))

    def encode_image(self, pixels: Float[Array, " ..."]) -> Float[Array, "B D"]:
        """As `clip.CLIP.encode_image`."""
        check_pixels(pixels, self.config.image_size)
        return self.vision_model(pixels).astype(jnp.float32)

    def encode_text(self, token_ids: Int[Array, " ..."]) -> Float[Array, "B D"]:
        """Embeds sentences.

        token_ids: [B, L] int32 in [0, vocab_size), L = max_position_embeddings, padded. Returns
        [B, D] float32, not normalised. Raises UserError for other shapes.
        """
        self._check_tokens(token_ids)
        last = jnp.full(len(token_ids), token_ids.shape[1] - 1)
        return self.text_head(self.text_model(token_ids, last)[:, 0]).astype(jnp.float32)

    def encode_tokens(self, token_ids: Int[Array, " ..."]) -> SentenceFeatures:
        """The embeddings of sentences with the states of their tokens.

        token_ids: as of `encode_text`. Returns float32 pooled [B, D], mask [B, L], True up to the
        first end token, and tokens [B, L, W], the text tower's last states after its final layer
        norm, zero behind that.
        """
        self._check_tokens(token_ids)
        end = jnp.argmax(token_ids == self.config.eos_token_id, axis=-1)
        mask = jnp.arange(token_ids.shape[1]) <= end[:, None]
        states = self.text_model(token_ids, None)
        return SentenceFeatures(
            pooled=self.text_head(states[:, -1]).astype(jnp.float32),
            tokens=jnp.where(mask[..., None], states, 0).astype(jnp.float32),
            mask=mask,
        )

    def _check_tokens(self, token_ids: jax.Array) -> None:
        length = self.config.max_position_embeddings
        if token_ids.ndim != 2 or token_ids.shape[1] != length:
            raise UserError(f"token ids have shape {token_ids.shape}, [B, {length}] expected")

    def __call__(
        self, pixels: Float[Array, " ..."], token_ids: Int[Array, " ..."]
    ) -> tuple[Float[Array, "B D"], Float[Array, "n D"], Float[Array, ""]]:
        """(image [B, D], text [n, D], the factor of cosines []), as `clip.CLIP`, and the bias of
        SigLIP left out, which is the same for all pairs."""
        scale = jnp.exp(self.logit_scale[0])
        return self.encode_image(pixels), self.encode_text(token_ids), scale
