"""Sentence encoders of the BERT family (MiniLM, E5, BGE, GTE: BERT; MPNet) in the Hugging Face
format: read and used without PyTorch.

Axes: B batch, L tokens, W the config's hidden_size, Dq that of what is pooled.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Int
from tokenizers import Tokenizer

from hyper_meta.core.types import Array, SentenceFeatures, UserError
from hyper_meta.encoders.bert import PADDING, Bert
from hyper_meta.encoders.bert_config import BertConfig, bert_config_from_dict
from hyper_meta.encoders.bert_weights import bert_params_from_tensors
from hyper_meta.encoders.folder import DTYPES
from hyper_meta.encoders.pooling import pool, unit_length
from hyper_meta.encoders.sentence_layout import (
    CONFIG_FILE,
    PATTERNS,
    Files,
    Layout,
    json_of,
    read_layout,
)
from hyper_meta.encoders.token_rows import check_sentences, pad_rows
from hyper_meta.encoders.weights_files import INDEX_FILE, WHOLE_FILE, read_weights
from hyper_meta.encoders.wordpiece import load_tokenizer

PICKLES = ("pytorch_model*.bin", "*.pt", "*.ckpt")
LAST = -1  # as a layer: the last one


@struct.dataclass
class SentenceEncoder:
    """A sentence encoder ready for use. As a pytree its leaves are `params`; all else is static.

    params: the tree of `Bert(config)`, float32; tokenizer: neither cuts nor pads; layout: how it
    pools; longest: the most tokens of a sentence that are read, the first and the last included;
    layer: whose states are those of the tokens, 0 the embeddings; prefix: put before every
    sentence; dtype: that it computes in; fingerprint: 64 hex digits that change whenever a file
    that is read, the layer, the prefix or the dtype does.
    """

    params: Any
    config: BertConfig = struct.field(pytree_node=False)
    tokenizer: Tokenizer = struct.field(pytree_node=False)
    layout: Layout = struct.field(pytree_node=False)
    longest: int = struct.field(pytree_node=False)
    layer: int = struct.field(pytree_node=False)
    prefix: str = struct.field(pytree_node=False)
    dtype: str = struct.field(pytree_node=False)
    fingerprint: str = struct.field(pytree_node=False)


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a sentence encoder in a folder, by their names in it. Raises UserError where
    there is no such folder or it has no weights as safetensors."""
    if not folder.is_dir():
        raise UserError(f"folder {folder} of a sentence encoder does not exist")
    paths = [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]
    names = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    if WHOLE_FILE not in names and INDEX_FILE not in names:
        pickles = sorted(
            path.name
            for path in folder.iterdir()
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in PICKLES)
        )
        told = f"{WHOLE_FILE} is missing"
        if pickles:
            told += (
                f"; {pickles[0]} is a pickle, which can run code and is not read: convert it with "
                "transformers' save_pretrained"
            )
        raise UserError(f"sentence encoder {folder}: {told}")
    try:
        return {name: path.read_bytes() for name, path in names.items()}
    except OSError as error:
        raise UserError(f"sentence encoder {folder}: {error}") from error


def load_sentence_encoder(
    files: Files, name: str, *, layer: int = LAST, prefix: str = "", dtype: str = "float32"
) -> SentenceEncoder:
    """A sentence encoder from its files.

    files: {name in the folder: content}; name: of the encoder, for messages; layer: whose states
    are those of the tokens, 0 the embeddings, k the output of the k-th, LAST that of the last;
    prefix: put before every sentence, such as "query: " of E5; dtype: one of DTYPES. Raises
    UserError where a file is missing, damaged, or contradicts the others.
    """
    if dtype not in DTYPES:
        raise UserError(f"{dtype!r} given, one of {list(DTYPES)} is expected")
    try:
        config, layout = bert_config_from_dict(json_of(files, CONFIG_FILE)), read_layout(files)
        _check_prefix(layout, prefix)
        return SentenceEncoder(
            config=config,
            tokenizer=load_tokenizer(files, config, lowers=layout.lowers),
            params=bert_params_from_tensors(read_weights(files, files.__getitem__), config),
            layout=layout,
            longest=min(layout.longest or config.most_positions, config.most_positions),
            layer=_checked_layer(layer, config),
            prefix=prefix,
            dtype=dtype,
            fingerprint=_fingerprint(files, config, layer, prefix, dtype),
        )
    except UserError as error:
        raise UserError(f"sentence encoder {name}: {error}") from error


def tokenize_sentences(
    encoder: SentenceEncoder, sentences: Sequence[str]
) -> Int[np.ndarray, "B L"]:
    """Token ids of sentences with the prefix, [B, L] int32, first and last special token included,
    PADDING behind.

    Of a sentence that has more tokens than `longest` (see `num_tokens`) the beginning is kept, and
    its last token. L is the longest one rounded up to a multiple of 8, at most `longest`. Raises
    UserError for no sentences or other than strings.
    """
    longest = encoder.longest
    rows = [
        ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]
        for ids in _token_ids(encoder, sentences)
    ]
    return pad_rows(rows, longest=longest, fill=PADDING)


def num_tokens(encoder: SentenceEncoder, sentences: Sequence[str]) -> Int[np.ndarray, " B"]:
    """How many tokens each sentence has, prefix, first and last one included: [B] int. More than
    `encoder.longest` are not read."""
    return np.array([len(ids) for ids in _token_ids(encoder, sentences)])


def encode_sentences(
    encoder: SentenceEncoder, token_ids: Int[Array, "B L"], *, with_tokens: bool
) -> SentenceFeatures:
    """[B, L] int32 of `tokenize_sentences` -> the features of B sentences, float32. Pure, for the
    caller to jit or pmap: the encoder is a pytree and may be an argument.

    pooled [B, Dq] is that of the last layer; with_tokens: also the states [B, L, W] of the tokens
    at the encoder's layer, zero at PADDING, with their mask.
    """
    network = Bert(encoder.config, jnp.dtype(encoder.dtype))
    states = network.apply({"params": encoder.params}, token_ids)
    mask = jnp.asarray(token_ids != PADDING)
    pooled = pool(states[-1].astype(jnp.float32), mask, encoder.layout.poolings)
    if encoder.layout.normalises:
        pooled = unit_length(pooled)
    if not with_tokens:
        return SentenceFeatures(pooled)
    tokens = jnp.where(mask[..., None], states[encoder.layer], 0).astype(jnp.float32)
    return SentenceFeatures(pooled, tokens, mask)


def _token_ids(encoder: SentenceEncoder, sentences: Sequence[str]) -> list[list[int]]:
    check_sentences(sentences)
    texts = [encoder.prefix + sentence for sentence in sentences]
    return [encoding.ids for encoding in encoder.tokenizer.encode_batch(texts)]


def _check_prefix(layout: Layout, prefix: str) -> None:
    if layout.prompt and not prefix:
        raise UserError(
            f"its default prompt is {layout.prompt!r}: give it, or another, as "
            "--config.question_prefix"
        )
    if prefix and not layout.pools_prompt:
        raise UserError("it leaves its prompt out of the pooling, which is not computed here")


def _checked_layer(layer: int, config: BertConfig) -> int:
    """The layer from 0 on."""
    most = config.num_hidden_layers
    if not LAST <= layer <= most:
        raise UserError(
            f"question_layer={layer} given, it has {most} layers: {LAST} (the last) to {most} "
            "(0: the embeddings) is expected"
        )
    return most if layer == LAST else layer


def _fingerprint(files: Files, config: BertConfig, layer: int, prefix: str, dtype: str) -> str:
    """What `sha256sum FILES | sha256sum` prints in the folder, the files in alphabetical order; and
    after them a line for whatever is not the default."""
    listing = hashlib.sha256()
    for name in sorted(files):
        listing.update(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n".encode())
    if layer not in (LAST, config.num_hidden_layers):
        listing.update(f"layer {layer}\n".encode())
    if prefix:
        listing.update(f"prefix {prefix!r}\n".encode())
    if dtype != DTYPES[0]:
        listing.update(f"{dtype}\n".encode())
    return listing.hexdigest()
