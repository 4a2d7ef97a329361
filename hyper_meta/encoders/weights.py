"""Hugging Face CLIP tensors to Flax parameters and back: one table, strict in both directions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float, Shaped

from hyper_meta.core.types import UserError
from hyper_meta.encoders.clip_config import CLIPConfig, TowerConfig
from hyper_meta.encoders.tensors import SAME, TRANSPOSED, AxisChange, Row, params_of, rows_of


def _patch_rows(kernel: np.ndarray) -> np.ndarray:
    """[W, 3, p, p] -> [p*p*3, W], in the order in which the vision tower flattens a patch."""
    return kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0])


def _patch_kernel(rows: np.ndarray) -> np.ndarray:
    """[p*p*3, W] -> [W, 3, p, p], the inverse of `_patch_rows`."""
    side = round((rows.shape[0] / 3) ** 0.5)
    return rows.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


PATCH = AxisChange(_patch_rows, _patch_kernel)

# {scope: rows of (Hugging Face name, Flax path, layout)}, names and paths relative to the scope.
TABLE = {
    "model": (
        ("logit_scale", "logit_scale", SAME),
        ("text_projection.weight", "text_projection/kernel", TRANSPOSED),
        ("visual_projection.weight", "visual_projection/kernel", TRANSPOSED),
    ),
    "text_model": (
        ("embeddings.token_embedding.weight", "token_embedding/embedding", SAME),
        ("embeddings.position_embedding.weight", "position_embedding", SAME),
        ("final_layer_norm.weight", "final_layer_norm/scale", SAME),
        ("final_layer_norm.bias", "final_layer_norm/bias", SAME),
    ),
    "vision_model": (
        ("embeddings.class_embedding", "class_embedding", SAME),
        ("embeddings.patch_embedding.weight", "patch_embedding/kernel", PATCH),
        ("embeddings.position_embedding.weight", "position_embedding", SAME),
        ("pre_layrnorm.weight", "pre_layernorm/scale", SAME),
        ("pre_layrnorm.bias", "pre_layernorm/bias", SAME),
        ("post_layernorm.weight", "post_layernorm/scale", SAME),
        ("post_layernorm.bias", "post_layernorm/bias", SAME),
    ),
    "layer": (
        ("layer_norm1.weight", "layer_norm1/scale", SAME),
        ("layer_norm1.bias", "layer_norm1/bias", SAME),
        ("self_attn.q_proj.weight", "self_attn/q_proj/kernel", TRANSPOSED),
        ("self_attn.q_proj.bias", "self_attn/q_proj/bias", SAME),
        ("self_attn.k_proj.weight", "self_attn/k_proj/kernel", TRANSPOSED),
        ("self_attn.k_proj.bias", "self_attn/k_proj/bias", SAME),
        ("self_attn.v_proj.weight", "self_attn/v_proj/kernel", TRANSPOSED),
        ("self_attn.v_proj.bias", "self_attn/v_proj/bias", SAME),
        ("self_attn.out_proj.weight", "self_attn/out_proj/kernel", TRANSPOSED),
        ("self_attn.out_proj.bias", "self_attn/out_proj/bias", SAME),
        ("layer_norm2.weight", "layer_norm2/scale", SAME),
        ("layer_norm2.bias", "layer_norm2/bias", SAME),
        ("mlp.fc1.weight", "mlp/fc1/kernel", TRANSPOSED),
        ("mlp.fc1.bias", "mlp/fc1/bias", SAME),
        ("mlp.fc2.weight", "mlp/fc2/kernel", TRANSPOSED),
        ("mlp.fc2.bias", "mlp/fc2/bias", SAME),
    ),
}


def params_from_tensors(
    tensors: Mapping[str, Shaped[np.ndarray, " ..."]], config: CLIPConfig
) -> dict[str, Any]:
    """The parameters of `CLIP(config)`, from the tensors of a Hugging Face CLIP checkpoint.

    The result is the tree of `CLIP(config).apply({"params": params}, ...)`, float32 arrays on JAX's
    default device.

    Args:
      tensors: {Hugging Face name: float16, bfloat16 or float32 array}. Buffers position_ids of old
        checkpoints are ignored.
      config: the configuration of the checkpoint.

    Raises:
      UserError: tensors are missing, unexpected, of other shapes than config implies, or not
        floating point; the message names them.
    """
    rows, shapes = tower_rows(TABLE, config.text, config.vision), param_shapes(config)
    given = {name: array for name, array in tensors.items() if not name.endswith(".position_ids")}
    return params_of(given, rows, shapes, "CLIP")


def tensors_from_params(
    params: Mapping[str, Any], config: CLIPConfig
) -> dict[str, Float[np.ndarray, " ..."]]:
    """{Hugging Face name: contiguous float32 host array}, the inverse of `params_from_tensors`.

    Raises:
      UserError: params is not the tree of `CLIP(config)`.
    """
    rows, shapes = tower_rows(TABLE, config.text, config.vision), param_shapes(config)
    flat = {path: np.asarray(array) for path, array in flatten_dict(params, sep="/").items()}
    if {path: array.shape for path, array in flat.items()} != shapes:
        raise UserError("the parameters are not those of a CLIP with the given config")
    return {
        name: np.array(layout.to_hf(flat[path]), np.float32, order="C")
        for name, (path, layout) in rows.items()
    }


def tower_rows(
    table: Mapping[str, Sequence[Row]], text: TowerConfig, vision: TowerConfig
) -> dict[str, tuple[str, AxisChange]]:
    """{Hugging Face name: (Flax path, layout)}: a table like TABLE with one row for every tensor of
    two towers, whose blocks are those of TABLE."""
    scopes = [("", "", table["model"])]
    for tower, depth in (
        ("text_model", text.num_hidden_layers),
        ("vision_model", vision.num_hidden_layers),
    ):
        scopes.append((f"{tower}.", f"{tower}/", table[tower]))
        for i in range(depth):
            layer = (f"{tower}.encoder.layers.{i}.", f"{tower}/encoder/layers_{i}/", TABLE["layer"])
            scopes.append(layer)
    return rows_of(scopes)


def param_shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    """{Flax path: shape} of the parameters of `CLIP(config)`. Tracing it would take long."""
    text, vision = config.text.hidden_size, config.vision.hidden_size
    num_patches = (config.image_size // config.patch_size) ** 2
    shapes = {
        "logit_scale": (),
        "text_projection/kernel": (text, config.projection_dim),
        "visual_projection/kernel": (vision, config.projection_dim),
        "text_model/token_embedding/embedding": (config.vocab_size, text),
        "text_model/position_embedding": (config.max_position_embeddings, text),
        "vision_model/class_embedding": (vision,),
        "vision_model/patch_embedding/kernel": (3 * config.patch_size**2, vision),
        "vision_model/position_embedding": (num_patches + 1, vision),
        **dense_shapes("text_model/final_layer_norm/scale", text),
        **dense_shapes("vision_model/pre_layernorm/scale", vision),
        **dense_shapes("vision_model/post_layernorm/scale", vision),
    }
    return (
        shapes
        | layer_shapes("text_model", config.text)
        | layer_shapes("vision_model", config.vision)
    )


def layer_shapes(name: str, tower: TowerConfig) -> dict[str, tuple[int, ...]]:
    """{Flax path: shape} of the blocks of a tower of this name."""
    shapes: dict[str, tuple[int, ...]] = {}
    width, inner = tower.hidden_size, tower.intermediate_size
    for i in range(tower.num_hidden_layers):
        layer = f"{name}/encoder/layers_{i}"
        for part in ("layer_norm1", "layer_norm2"):
            shapes |= dense_shapes(f"{layer}/{part}/scale", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= dense_shapes(f"{layer}/self_attn/{part}/kernel", width, width)
        shapes |= dense_shapes(f"{layer}/mlp/fc1/kernel", width, inner)
        shapes |= dense_shapes(f"{layer}/mlp/fc2/kernel", inner, width)
    return shapes


def dense_shapes(path: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """Those of a kernel or a scale, and of the bias beside it."""
    return {path: shape, f"{path.rpartition('/')[0]}/bias": shape[-1:]}
