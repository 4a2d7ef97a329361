"""The tokenizers of SigLIP (SentencePiece of T5) and SigLIP 2 (Gemma's, of lower-case text)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from hyper_meta.core.types import UserError
from hyper_meta.encoders.folder_files import one_line, read_object

MODEL_FILE = "spiece.model"
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
MISSING = "the package `sentencepiece` is not installed: pip install 'hyper_meta[siglip]'"


class SigLIPTokenizer(NamedTuple):
    """encode: n sentences -> ids of each, the end token last; pad_token_id: what fills a row; size:
    how many tokens there are."""

    encode: Callable[[Sequence[str]], list[list[int]]]
    pad_token_id: int
    eos_token_id: int
    size: int


def load_siglip_tokenizer(folder: Path) -> SigLIPTokenizer:
    """SigLIP's of spiece.model, else SigLIP 2's of tokenizer.json. Raises UserError where neither
    is there, or cannot be read."""
    if (folder / MODEL_FILE).exists():
        return _sentencepiece(folder)
    if not (folder / "tokenizer.json").exists():
        raise UserError(f"there is no tokenizer, neither {MODEL_FILE} nor tokenizer.json")
    return _gemma(folder)


def _sentencepiece(folder: Path) -> SigLIPTokenizer:
    try:
        import sentencepiece  # noqa: F401, transformers needs it
        from transformers import SiglipTokenizer
    except ImportError as error:
        raise UserError(MISSING) from error
    settings = {name: value for name, value in _special_tokens(folder).items() if value}
    try:
        tokenizer = SiglipTokenizer(str(folder / MODEL_FILE), **settings)
    except Exception as error:  # sentencepiece raises errors of many kinds
        raise UserError(f"{MODEL_FILE} cannot be read: {one_line(error)}") from error

    def encode(sentences: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(sentences), truncation=False, verbose=False)["input_ids"]

    return SigLIPTokenizer(
        encode, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.vocab_size
    )


def _gemma(folder: Path) -> SigLIPTokenizer:
    named = _special_tokens(folder)
    try:
        tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except Exception as error:  # the tokenizers library raises Exception itself
        raise UserError(f"tokenizer.json cannot be read: {one_line(error)}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    end, pad = (
        tokenizer.token_to_id(named.get(f"{kind}_token") or usual)
        for kind, usual in (("eos", "<eos>"), ("pad", "<pad>"))
    )
    if end is None or pad is None:
        raise UserError("tokenizer.json has no end or no pad token")
    return SigLIPTokenizer(
        functools.partial(_lower_case_ids, tokenizer, end),
        pad,
        end,
        max(tokenizer.get_vocab().values()) + 1,
    )


def _lower_case_ids(tokenizer: Tokenizer, end: int, sentences: Sequence[str]) -> list[list[int]]:
    """As SigLIP 2 was trained (see transformers' Siglip2Tokenizer), the end token once."""
    rows = [row.ids for row in tokenizer.encode_batch([text.lower() for text in sentences])]
    return [ids if ids and ids[-1] == end else [*ids, end] for ids in rows]


def _special_tokens(folder: Path) -> dict[str, Any]:
    """The texts of the end, pad and unknown tokens, as far as the files name them."""
    found: dict[str, Any] = {}
    for name in SETTINGS:
        content = read_object(folder, name) if (folder / name).exists() else {}
        for kind in ("eos_token", "pad_token", "unk_token"):
            token = content.get(kind)
            found.setdefault(kind, token.get("content") if isinstance(token, dict) else token)
            if found[kind] is not None and not isinstance(found[kind], str):
                raise UserError(f"{name}: {kind} is {json.dumps(token)}, a text is expected")
    return found
