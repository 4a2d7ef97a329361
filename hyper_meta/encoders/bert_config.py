"""The configuration of a BERT or an MPNet: the contents of a Hugging Face `config.json`, read and
checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyper_meta.core.types import UserError
from hyper_meta.encoders.config_fields import integer, number, with_defaults

MODEL_TYPES = ("bert", "mpnet")
ACTIVATION_NAMES = ("gelu", "gelu_new", "relu")

# Of transformers' BertConfig; MPNetConfig has the same but for these.
_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "relative_attention_num_buckets": 32,
}
_MPNET_DEFAULTS = _DEFAULTS | {"vocab_size": 30527}
# The row of MPNet's position embeddings that its first token has: the rows before are of padding.
_MPNET_FIRST_POSITION = 2


@dataclass(frozen=True)
class BertConfig:
    """One transformer; the names and meanings of Hugging Face's BertConfig and MPNetConfig.

    model_type: one of MODEL_TYPES; type_vocab_size is of BERT, relative_attention_num_buckets of
    MPNet. Raises UserError for an unknown hidden_act or heads that do not divide hidden_size.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    relative_attention_num_buckets: int

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

    @property
    def first_position(self) -> int:
        """The row of the position embeddings that the first token has."""
        return _MPNET_FIRST_POSITION if self.model_type == "mpnet" else 0

    @property
    def most_positions(self) -> int:
        """The most tokens that there are positions for."""
        return self.max_position_embeddings - self.first_position


def bert_config_from_dict(d: Mapping[str, Any]) -> BertConfig:
    """Reads the contents of a Hugging Face `config.json` of model_type "bert" or "mpnet".

    A missing key takes the default that transformers documents. Raises UserError for another
    model_type and for values this module does not compute (relative positions in BERT, a decoder).
    """
    kind = d.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"config.json: model_type {kind!r} given, one of {list(MODEL_TYPES)} expected"
        )
    values = with_defaults(d, _MPNET_DEFAULTS if kind == "mpnet" else _DEFAULTS)
    if values["position_embedding_type"] != "absolute":
        raise UserError(
            f"config.json: position_embedding_type {values['position_embedding_type']!r} given, "
            "'absolute' expected"
        )
    if d.get("is_decoder"):
        raise UserError("config.json: is_decoder true given, an encoder is expected")
    counts = (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("intermediate_size", "type_vocab_size", "relative_attention_num_buckets"),
    )
    fewest = 1 + (_MPNET_FIRST_POSITION if kind == "mpnet" else 0)
    return BertConfig(
        model_type=kind,
        hidden_act=values["hidden_act"],
        max_position_embeddings=integer(values, "max_position_embeddings", fewest),
        layer_norm_eps=number(values, "layer_norm_eps"),
        **{name: integer(values, name) for name in counts},
    )
