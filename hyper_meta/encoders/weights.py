"""Hugging Face CLIP tensors to Flax parameters and back: one table, strict in both directions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float, Shaped

from hyper_meta.core.types import UserError
from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import CLIPConfig
from hyper_meta.encoders.tensors import SAME, TRANSPOSED, AxisChange, params_of, rows_of


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
    rows, shapes = _rows(config), _param_shapes(config)
    given = {name: array for name, array in tensors.items() if not name.endswith(".position_ids")}
    return params_of(given, rows, shapes, "CLIP")


def tensors_from_params(
    params: Mapping[str, Any], config: CLIPConfig
) -> dict[str, Float[np.ndarray, " ..."]]:
    """{Hugging Face name: contiguous float32 host array}, the inverse of `params_from_tensors`.

    Raises:
      UserError: params is not the tree of `CLIP(config)`.
    """
    rows, shapes = _rows(config), _param_shapes(config)
    flat = {path: np.asarray(array) for path, array in flatten_dict(params, sep="/").items()}
    if {path: array.shape for path, array in flat.items()} != shapes:
        raise UserError("the parameters are not those of a CLIP with the given config")
    return {
        name: np.array(layout.to_hf(flat[path]), np.float32, order="C")
        for name, (path, layout) in rows.items()
    }


def _rows(config: CLIPConfig) -> dict[str, tuple[str, AxisChange]]:
    """{Hugging Face name: (Flax path, layout)}, TABLE with one row for every tensor of `config`."""
    scopes = [("", "", TABLE["model"])]
    for tower, depth in (
        ("text_model", config.text.num_hidden_layers),
        ("vision_model", config.vision.num_hidden_layers),
    ):
        scopes.append((f"{tower}.", f"{tower}/", TABLE[tower]))
        for i in range(depth):
            layer = (f"{tower}.encoder.layers.{i}.", f"{tower}/encoder/layers_{i}/", TABLE["layer"])
            scopes.append(layer)
    return rows_of(scopes)


def _param_shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    """{Flax path: shape}, without computing any array; of the layers, which are alike, one is
    traced."""
    towers = {"text_model": config.text, "vision_model": config.vision}
    text, vision = (replace(tower, num_hidden_layers=1) for tower in towers.values())
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    token_ids = jnp.zeros((1, 1), jnp.int32)
    shallow = CLIP(replace(config, text=text, vision=vision))
    variables = jax.eval_shape(shallow.init, jax.random.key(0), pixels, token_ids)
    shapes = {}
    for path, leaf in flatten_dict(variables["params"], sep="/").items():
        tower, _, rest = path.partition("/encoder/layers_0/")
        paths = [path]
        if rest:
            depth = towers[tower].num_hidden_layers
            paths = [f"{tower}/encoder/layers_{i}/{rest}" for i in range(depth)]
        shapes |= dict.fromkeys(paths, leaf.shape)
    return shapes
