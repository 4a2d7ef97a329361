"""CLIP, the dual encoder of images and sentences (Radford et al. 2021, section 2.4), in Flax linen.

One module serves the bundled tiny CLIP and OpenAI's checkpoints: it computes what Hugging Face
transformers' `CLIPModel` computes from the same `config.json`. Axes: B batch, L tokens, S sequence
positions (tokens or patches), W a tower's hidden_size, D projection_dim.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hyper_meta.core.types import UserError

# Before transformers PR 24773 every config carried this wrong eos_token_id; such configs pool the
# text at the highest token id instead.
LEGACY_EOS_TOKEN_ID = 2

_TOWER_DEFAULTS = {
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT_DEFAULTS = _TOWER_DEFAULTS | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS = _TOWER_DEFAULTS | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
_CLIP_DEFAULTS = {"projection_dim": 512, "logit_scale_init_value": 2.6592}


def quick_gelu(x: jax.Array) -> jax.Array:
    """OpenAI CLIP's approximation of GELU, x * sigmoid(1.702 x); any shape and float dtype."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": functools.partial(nn.gelu, approximate=False)}


@dataclass(frozen=True)
class TowerConfig:
    """One transformer; the names and meanings of Hugging Face's CLIPTextConfig/CLIPVisionConfig.

    Raises UserError for an unknown hidden_act or heads that do not divide hidden_size.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float

    def __post_init__(self):
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(f"hidden_act {self.hidden_act!r} is not one of {sorted(ACTIVATIONS)}")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers; the names and meanings of Hugging Face's CLIPConfig.

    image_size and patch_size are in pixels (square images); logit_scale_init_value is a logarithm.
    Raises UserError where patch_size does not divide image_size.
    """

    text: TowerConfig
    vision: TowerConfig
    projection_dim: int
    vocab_size: int
    max_position_embeddings: int
    eos_token_id: int
    image_size: int
    patch_size: int
    logit_scale_init_value: float

    def __post_init__(self):
        if self.image_size % self.patch_size:
            raise UserError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )


def clip_config_from_dict(d: Mapping[str, Any]) -> CLIPConfig:
    """Reads the contents of a Hugging Face `config.json` of model_type "clip".

    A missing key takes the default that transformers documents for CLIPConfig. Raises UserError for
    another model_type and for values this module does not compute (several end tokens, non-square
    images, channels other than 3, unknown activations).
    """
    if d.get("model_type") != "clip":
        raise UserError(f"config.json: model_type {d.get('model_type')!r} given, 'clip' expected")
    text = _section(d, "text_config", _TEXT_DEFAULTS)
    vision = _section(d, "vision_config", _VISION_DEFAULTS)
    if vision["num_channels"] != 3:
        raise UserError(f"config.json: num_channels {vision['num_channels']!r} given, 3 expected")
    top = _with_defaults(d, _CLIP_DEFAULTS)
    return CLIPConfig(
        text=_tower(text),
        vision=_tower(vision),
        projection_dim=_integer(top, "projection_dim"),
        vocab_size=_integer(text, "vocab_size"),
        max_position_embeddings=_integer(text, "max_position_embeddings"),
        eos_token_id=_integer(text, "eos_token_id", minimum=0),
        image_size=_integer(vision, "image_size"),
        patch_size=_integer(vision, "patch_size"),
        logit_scale_init_value=_number(top, "logit_scale_init_value"),
    )


def clip_config_to_dict(config: CLIPConfig) -> dict[str, Any]:
    """The contents of a `config.json` for transformers' CLIPModel and `clip_config_from_dict`."""
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init_value,
        "text_config": asdict(config.text)
        | {
            "model_type": "clip_text_model",
            "projection_dim": config.projection_dim,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "eos_token_id": config.eos_token_id,
        },
        "vision_config": asdict(config.vision)
        | {
            "model_type": "clip_vision_model",
            "projection_dim": config.projection_dim,
            "num_channels": 3,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
        },
    }


def _with_defaults(d: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return dict(defaults) | {key: d[key] for key in defaults if d.get(key) is not None}


def _section(d: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    # Old files repeat the section under "<name>_dict"; transformers lets that one win as a whole.
    given = next((d[key] for key in (f"{name}_dict", name) if d.get(key) is not None), {})
    if not isinstance(given, Mapping):
        raise UserError(f"config.json: {name} is a {type(given).__name__}, an object was expected")
    return _with_defaults(given, defaults)


def _integer(section: Mapping[str, Any], key: str, minimum: int = 1) -> int:
    value = section[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise UserError(f"config.json: {key} {value!r} given, an integer >= {minimum} expected")
    return value


def _number(section: Mapping[str, Any], key: str) -> float:
    value = section[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"config.json: {key} {value!r} given, a number expected")
    return float(value)


def _tower(section: Mapping[str, Any]) -> TowerConfig:
    return TowerConfig(
        hidden_size=_integer(section, "hidden_size"),
        intermediate_size=_integer(section, "intermediate_size"),
        num_hidden_layers=_integer(section, "num_hidden_layers"),
        num_attention_heads=_integer(section, "num_attention_heads"),
        hidden_act=section["hidden_act"],
        layer_norm_eps=_number(section, "layer_norm_eps"),
    )


class SelfAttention(nn.Module):
    """Multi-head self-attention: [B, S, W] -> [B, S, W], or [B, 1, W] of one position in each row,
    `at` [B]; a position sees only itself and earlier ones where `causal`."""

    config: TowerConfig
    causal: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, at: jax.Array | None) -> jax.Array:
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
    def __call__(self, x: jax.Array) -> jax.Array:
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
    def __call__(self, x: jax.Array, at: jax.Array | None) -> jax.Array:
        config, dtype = self.config, self.dtype
        normed = _layer_norm(config, dtype, "layer_norm1")(x)
        attended = SelfAttention(config, self.causal, dtype, name="self_attn")(normed, at)
        x = _take(x, at) + attended
        normed = _layer_norm(config, dtype, "layer_norm2")(x)
        return x + MLP(config, dtype, name="mlp")(normed)


class Transformer(nn.Module):
    """The blocks in sequence: [B, S, W] -> [B, W], the state at one position of each row.

    Nothing else is read of the last block, so nothing else is computed there: 7% of the work in 12
    layers.
    """

    config: TowerConfig
    causal: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, at: jax.Array) -> jax.Array:
        """at: [B] int32 in [0, S)."""
        last = self.config.num_hidden_layers - 1
        for i in range(self.config.num_hidden_layers):
            block = Block(self.config, self.causal, self.dtype, name=f"layers_{i}")
            x = block(x, at if i == last else None)
        return x[:, 0]


def _take(x: jax.Array, at: jax.Array | None) -> jax.Array:
    """[B, S, W] -> [B, 1, W], what lies at [B]; everything where that is None."""
    return x if at is None else jnp.take_along_axis(x, at[:, None, None], axis=1)


class TextTower(nn.Module):
    """Token ids [B, L] int32 -> the end token's normalised hidden state [B, W]."""

    config: CLIPConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, token_ids: jax.Array) -> jax.Array:
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
        end = _end_position(token_ids, config.eos_token_id)
        pooled = Transformer(tower, True, self.dtype, name="encoder")(x, end)
        return _layer_norm(tower, self.dtype, "final_layer_norm")(pooled)


class VisionTower(nn.Module):
    """Normalised pixels [B, H, W, 3] float32 -> the class token's normalised state [B, W]."""

    config: CLIPConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        config, tower, width = self.config, self.config.vision, self.config.vision.hidden_size
        patches = _patches(pixels.astype(self.dtype), config.patch_size)
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
        x = _layer_norm(tower, self.dtype, "pre_layernorm")(x)
        first = jnp.zeros(len(x), jnp.int32)
        pooled = Transformer(tower, False, self.dtype, name="encoder")(x, first)
        return _layer_norm(tower, self.dtype, "post_layernorm")(pooled)


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

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """Embeds images.

        pixels: [B, image_size, image_size, 3] float32, normalised by the encoder's mean and std.
        Returns [B, D] float32, not normalised. Raises UserError for another image shape.
        """
        size = self.config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise UserError(f"pixels have shape {pixels.shape}, [B, {size}, {size}, 3] expected")
        return self.visual_projection(self.vision_model(pixels)).astype(jnp.float32)

    def encode_text(self, token_ids: jax.Array) -> jax.Array:
        """Embeds sentences; what follows a sentence's end token does not change its embedding.

        token_ids: [B, L] int32 in [0, vocab_size), L at most max_position_embeddings, each row
        with an end token (legacy configs: the highest id, see `LEGACY_EOS_TOKEN_ID`). Returns
        [B, D] float32, not normalised. Raises UserError for other shapes.
        """
        longest = self.config.max_position_embeddings
        if token_ids.ndim != 2 or token_ids.shape[1] > longest:
            raise UserError(
                f"token ids have shape {token_ids.shape}, [B, L] with L <= {longest} expected"
            )
        return self.text_projection(self.text_model(token_ids)).astype(jnp.float32)

    def __call__(
        self, pixels: jax.Array, token_ids: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Embeds both sides; the inputs are those of `encode_image` and `encode_text`.

        Returns (image [B, D], text [B, D], logit_scale []), float32: the unnormalised embeddings
        and the factor (already exponentiated) by which CLIP multiplies cosine similarities.
        """
        return (
            self.encode_image(pixels),
            self.encode_text(token_ids),
            jnp.exp(self.logit_scale),
        )


def _dense(features: int, std: float, dtype: jnp.dtype, name: str) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.normal(std), name=name)


def _projection(tower: TowerConfig, projection_dim: int, dtype: jnp.dtype) -> nn.Dense:
    init = nn.initializers.normal(tower.hidden_size**-0.5)
    return nn.Dense(projection_dim, use_bias=False, dtype=dtype, kernel_init=init)


def _layer_norm(tower: TowerConfig, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    # The two-pass variance: E[x^2] - E[x]^2 loses the digits that parity with PyTorch needs.
    return nn.LayerNorm(tower.layer_norm_eps, dtype=dtype, use_fast_variance=False, name=name)


def _patches(pixels: jax.Array, patch_size: int) -> jax.Array:
    """[B, H, W, 3] -> [B, (H/p)(W/p), p*p*3] in reading order: a dense layer on these equals a
    convolution with kernel and stride p."""
    b, h, w, c = pixels.shape
    rows, columns = h // patch_size, w // patch_size
    grid = pixels.reshape(b, rows, patch_size, columns, patch_size, c)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, -1)


def _end_position(token_ids: jax.Array, eos_token_id: int) -> jax.Array:
    """[B, L] -> [B] int32, the position whose state stands for the sentence: the first end token,
    or under the legacy end token 2 the first highest id (transformers, CLIPTextModel.forward)."""
    if eos_token_id == LEGACY_EOS_TOKEN_ID:
        return jnp.argmax(token_ids, axis=-1)
    return jnp.argmax(token_ids == eos_token_id, axis=-1)
