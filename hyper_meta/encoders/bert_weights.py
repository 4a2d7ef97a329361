"""Hugging Face BERT and MPNet tensors to Flax parameters: one table for each, strict."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Shaped

from hyper_meta.encoders.bert import Bert
from hyper_meta.encoders.bert_config import BertConfig
from hyper_meta.encoders.tensors import SAME, TRANSPOSED, AxisChange, params_of, rows_of

# Read by no hidden state: buffers of old checkpoints, and the layer of next-sentence prediction.
UNREAD = (
    *("embeddings.position_ids", "embeddings.token_type_ids"),
    *("pooler.dense.weight", "pooler.dense.bias"),
)
NAMES = {"bert": "BERT", "mpnet": "MPNet"}


def _dense(name: str, path: str) -> tuple:
    return (
        (f"{name}.weight", f"{path}/kernel", TRANSPOSED),
        (f"{name}.bias", f"{path}/bias", SAME),
    )


def _norm(name: str, path: str) -> tuple:
    return ((f"{name}.weight", f"{path}/scale", SAME), (f"{name}.bias", f"{path}/bias", SAME))


# {model_type: {scope: rows of (Hugging Face name, Flax path, layout)}}, relative to the scope.
_EMBEDDINGS = (
    ("word_embeddings.weight", "words", SAME),
    ("position_embeddings.weight", "positions", SAME),
    *_norm("LayerNorm", "norm"),
)
_OUTPUT = (
    *_dense("intermediate.dense", "intermediate"),
    *_dense("output.dense", "output"),
    *_norm("output.LayerNorm", "output_norm"),
)
TABLE = {
    "bert": {
        "embeddings": (*_EMBEDDINGS, ("token_type_embeddings.weight", "types", SAME)),
        "model": (),
        "layer": (
            *_dense("attention.self.query", "attention/query"),
            *_dense("attention.self.key", "attention/key"),
            *_dense("attention.self.value", "attention/value"),
            *_dense("attention.output.dense", "attention/out"),
            *_norm("attention.output.LayerNorm", "attention_norm"),
            *_OUTPUT,
        ),
    },
    "mpnet": {
        "embeddings": _EMBEDDINGS,
        "model": (("encoder.relative_attention_bias.weight", "relative_attention_bias", SAME),),
        "layer": (
            *_dense("attention.attn.q", "attention/query"),
            *_dense("attention.attn.k", "attention/key"),
            *_dense("attention.attn.v", "attention/value"),
            *_dense("attention.attn.o", "attention/out"),
            *_norm("attention.LayerNorm", "attention_norm"),
            *_OUTPUT,
        ),
    },
}


def bert_params_from_tensors(
    tensors: Mapping[str, Shaped[np.ndarray, " ..."]], config: BertConfig
) -> dict[str, Any]:
    """The parameters of `Bert(config)`, from the tensors of a Hugging Face checkpoint, float32 on
    JAX's default device.

    tensors: {Hugging Face name: float16, bfloat16 or float32 array}, of which UNREAD may be there.
    Raises UserError, naming the tensors, where others are missing, unexpected, of other shapes than
    config implies, or not floating point.
    """
    given = {name: array for name, array in tensors.items() if name not in UNREAD}
    rows = rows_of_config(config)
    return params_of(given, rows, _param_shapes(config), NAMES[config.model_type])


def rows_of_config(config: BertConfig) -> dict[str, tuple[str, AxisChange]]:
    """{Hugging Face name: (Flax path, change of axes)} of every tensor of a configuration."""
    table = TABLE[config.model_type]
    scopes = [("", "", table["model"]), ("embeddings.", "embeddings/", table["embeddings"])]
    scopes += [
        (f"encoder.layer.{i}.", f"layer_{i}/", table["layer"])
        for i in range(config.num_hidden_layers)
    ]
    return rows_of(scopes)


def _param_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """{Flax path: shape}, without computing any array; of the layers, which are alike, one is
    traced."""
    shallow = Bert(replace(config, num_hidden_layers=1))
    variables = jax.eval_shape(shallow.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    shapes = {}
    for path, leaf in flatten_dict(variables["params"], sep="/").items():
        _, is_layer, rest = path.partition("layer_0/")
        layers = range(config.num_hidden_layers)
        paths = [f"layer_{i}/{rest}" for i in layers] if is_layer else [path]
        shapes |= dict.fromkeys(paths, leaf.shape)
    return shapes
