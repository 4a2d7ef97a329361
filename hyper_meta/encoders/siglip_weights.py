"""Hugging Face SigLIP tensors to Flax parameters: one table, none missing or left."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from hyper_meta.encoders.siglip_config import SigLIPConfig
from hyper_meta.encoders.tensors import SAME, TRANSPOSED, params_of
from hyper_meta.encoders.weights import PATCH, TABLE, dense_shapes, layer_shapes, tower_rows

_POOLING = (
    ("head.probe", "head/probe", SAME),
    ("head.attention.in_proj_weight", "head/in_proj/kernel", TRANSPOSED),
    ("head.attention.in_proj_bias", "head/in_proj/bias", SAME),
    ("head.attention.out_proj.weight", "head/out_proj/kernel", TRANSPOSED),
    ("head.attention.out_proj.bias", "head/out_proj/bias", SAME),
    ("head.layernorm.weight", "head/layernorm/scale", SAME),
    ("head.layernorm.bias", "head/layernorm/bias", SAME),
    ("head.mlp.fc1.weight", "head/mlp/fc1/kernel", TRANSPOSED),
    ("head.mlp.fc1.bias", "head/mlp/fc1/bias", SAME),
    ("head.mlp.fc2.weight", "head/mlp/fc2/kernel", TRANSPOSED),
    ("head.mlp.fc2.bias", "head/mlp/fc2/bias", SAME),
)
SIGLIP_TABLE = {
    "model": (
        ("logit_scale", "logit_scale", SAME),
        ("logit_bias", "logit_bias", SAME),
        ("text_model.head.weight", "text_head/kernel", TRANSPOSED),
        ("text_model.head.bias", "text_head/bias", SAME),
    ),
    "text_model": TABLE["text_model"],
    "vision_model": (
        ("embeddings.patch_embedding.weight", "patch_embedding/kernel", PATCH),
        ("embeddings.patch_embedding.bias", "patch_embedding/bias", SAME),
        ("embeddings.position_embedding.weight", "position_embedding", SAME),
        ("post_layernorm.weight", "post_layernorm/scale", SAME),
        ("post_layernorm.bias", "post_layernorm/bias", SAME),
        *_POOLING,
    ),
}


def siglip_params_from_tensors(
    tensors: Mapping[str, Shaped[np.ndarray, " ..."]], config: SigLIPConfig
) -> dict[str, Any]:
    """The parameters of `SigLIP(config)`, float32 on JAX's default device, from the tensors of a
    Hugging Face checkpoint; as `weights.params_from_tensors`."""
    given = {name: array for name, array in tensors.items() if not name.endswith(".position_ids")}
    rows = tower_rows(SIGLIP_TABLE, config.text, config.vision)
    return params_of(given, rows, siglip_param_shapes(config), "SigLIP")


def siglip_param_shapes(config: SigLIPConfig) -> dict[str, tuple[int, ...]]:
    """{Flax path: shape} of the parameters of `SigLIP(config)`."""
    text, vision = config.text.hidden_size, config.vision.hidden_size
    inner, head = config.vision.intermediate_size, "vision_model/head"
    return {
        "logit_scale": (1,),
        "logit_bias": (1,),
        **dense_shapes("text_head/kernel", text, config.projection_dim),
        "text_model/token_embedding/embedding": (config.vocab_size, text),
        "text_model/position_embedding": (config.max_position_embeddings, text),
        **dense_shapes("text_model/final_layer_norm/scale", text),
        **dense_shapes("vision_model/patch_embedding/kernel", 3 * config.patch_size**2, vision),
        "vision_model/position_embedding": ((config.image_size // config.patch_size) ** 2, vision),
        **dense_shapes("vision_model/post_layernorm/scale", vision),
        f"{head}/probe": (1, 1, vision),
        **dense_shapes(f"{head}/in_proj/kernel", vision, 3 * vision),
        **dense_shapes(f"{head}/out_proj/kernel", vision, vision),
        **dense_shapes(f"{head}/layernorm/scale", vision),
        **dense_shapes(f"{head}/mlp/fc1/kernel", vision, inner),
        **dense_shapes(f"{head}/mlp/fc2/kernel", inner, vision),
        **layer_shapes("text_model", config.text),
        **layer_shapes("vision_model", config.vision),
    }
