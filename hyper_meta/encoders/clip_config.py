"""The configuration of a CLIP: the contents of a Hugging Face `config.json`, read and checked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hyper_meta.core.types import UserError
from hyper_meta.encoders.config_fields import integer, number, with_defaults

# Before transformers PR 24773 every config carried this wrong eos_token_id; such configs pool the
# text at the highest token id instead.
LEGACY_EOS_TOKEN_ID = 2

# hidden_act: GELU, or an approximation: OpenAI's checkpoints were trained with the second, SigLIP
# with the third.
ACTIVATION_NAMES = ("gelu", "quick_gelu", "gelu_pytorch_tanh")

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
        if self.hidden_act not in ACTIVATION_NAMES:
            raise UserError(
                f"hidden_act {self.hidden_act!r} is not one of {list(ACTIVATION_NAMES)}"
            )
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
    text = read_section(d, "text_config", _TEXT_DEFAULTS)
    vision = read_section(d, "vision_config", _VISION_DEFAULTS)
    if vision["num_channels"] != 3:
        raise UserError(f"config.json: num_channels {vision['num_channels']!r} given, 3 expected")
    top = with_defaults(d, _CLIP_DEFAULTS)
    return CLIPConfig(
        text=read_tower(text),
        vision=read_tower(vision),
        projection_dim=integer(top, "projection_dim"),
        vocab_size=integer(text, "vocab_size"),
        max_position_embeddings=integer(text, "max_position_embeddings"),
        eos_token_id=integer(text, "eos_token_id", minimum=0),
        image_size=integer(vision, "image_size"),
        patch_size=integer(vision, "patch_size"),
        logit_scale_init_value=number(top, "logit_scale_init_value"),
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


def read_section(d: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """One tower's part of a `config.json`, with defaults for what it lacks."""
    # Old files repeat the section under "<name>_dict"; transformers lets that one win as a whole.
    given = next((d[key] for key in (f"{name}_dict", name) if d.get(key) is not None), {})
    if not isinstance(given, Mapping):
        raise UserError(f"config.json: {name} is a {type(given).__name__}, an object was expected")
    return with_defaults(given, defaults)


def read_tower(section: Mapping[str, Any]) -> TowerConfig:
    """The transformer of such a part."""
    return TowerConfig(
        hidden_size=integer(section, "hidden_size"),
        intermediate_size=integer(section, "intermediate_size"),
        num_hidden_layers=integer(section, "num_hidden_layers"),
        num_attention_heads=integer(section, "num_attention_heads"),
        hidden_act=section["hidden_act"],
        layer_norm_eps=number(section, "layer_norm_eps"),
    )
