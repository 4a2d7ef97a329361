"""The configuration of a SigLIP: the contents of a Hugging Face `config.json`, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyper_meta.core.types import UserError
from hyper_meta.encoders.clip_config import TowerConfig, read_section, read_tower
from hyper_meta.encoders.config_fields import integer

_TOWER_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_TEXT_DEFAULTS = _TOWER_DEFAULTS | {
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "projection_size": None,
}
_VISION_DEFAULTS = _TOWER_DEFAULTS | {
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}


@dataclass(frozen=True)
class SigLIPConfig:
    """Both towers; the names and meanings of Hugging Face's SiglipConfig.

    projection_dim: of the embeddings, the width of the vision tower; eos_token_id: that of the
    tokenizer, since a `config.json` of SigLIP has CLIP's; image_size and patch_size are in pixels:
    what is left of an image at its right and lower edge is not read.
    """

    text: TowerConfig
    vision: TowerConfig
    projection_dim: int
    vocab_size: int
    max_position_embeddings: int
    eos_token_id: int
    image_size: int
    patch_size: int


def siglip_config_from_dict(d: Mapping[str, Any], *, eos_token_id: int) -> SigLIPConfig:
    """Reads the contents of a Hugging Face `config.json` of model_type "siglip", which is that of
    SigLIP 2 of a fixed resolution too.

    A missing key takes the default that transformers documents for SiglipConfig. Raises UserError
    for values this module does not compute (no attention pooling, towers of unequal embeddings).
    """
    text = read_section(d, "text_config", _TEXT_DEFAULTS)
    vision = read_section(d, "vision_config", _VISION_DEFAULTS)
    if vision["num_channels"] != 3:
        raise UserError(f"config.json: num_channels {vision['num_channels']!r} given, 3 expected")
    if vision["vision_use_head"] is not True:
        raise UserError("config.json: vision_use_head is off, a SigLIP with its head is expected")
    if text["projection_size"] is None:
        text["projection_size"] = text["hidden_size"]
    towers = read_tower(text), read_tower(vision)
    projection_dim = integer(text, "projection_size")
    if projection_dim != towers[1].hidden_size:
        raise UserError(
            f"config.json: sentences have {projection_dim} numbers and images "
            f"{towers[1].hidden_size}: equal widths are expected"
        )
    return SigLIPConfig(
        *towers,
        projection_dim=projection_dim,
        vocab_size=integer(text, "vocab_size"),
        max_position_embeddings=integer(text, "max_position_embeddings"),
        eos_token_id=eos_token_id,
        image_size=integer(vision, "image_size"),
        patch_size=integer(vision, "patch_size"),
    )
