"""The tokenizer of a sentence encoder, as its files say, without any limit of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, normalizers
from tokenizers.implementations import BertWordPieceTokenizer

from hyper_meta.core.types import UserError
from hyper_meta.encoders.bert_config import BertConfig
from hyper_meta.encoders.sentence_layout import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
    Files,
    json_of,
)

# What tokenizer_config.json calls them, and what they are where it does not say.
_SPECIAL_TOKENS = {
    "bert": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "cls_token": "[CLS]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
    },
    "mpnet": {
        "unk_token": "[UNK]",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
}


def load_tokenizer(files: Files, config: BertConfig, *, lowers: bool) -> Tokenizer:
    """The tokenizer of tokenizer.json, or where there is none of vocab.txt.

    lowers: lower-cases even where these say not to. It neither cuts nor pads. Raises UserError
    where the files are missing, damaged or do not fit the configuration.
    """
    settings = json_of(files, TOKENIZER_CONFIG_FILE) if TOKENIZER_CONFIG_FILE in files else {}
    if TOKENIZER_FILE in files:
        tokenizer = _from_json(files[TOKENIZER_FILE])
    elif VOCAB_FILE in files:
        tokenizer = _from_vocab(files[VOCAB_FILE], settings, _SPECIAL_TOKENS[config.model_type])
    else:
        raise UserError(f"neither {TOKENIZER_FILE} nor {VOCAB_FILE} is there")
    _lower(tokenizer, lowers, settings.get("do_lower_case"))
    # What it was last used with, which is no property of the encoder.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, more than vocab_size "
            f"{config.vocab_size}"
        )
    if (added := tokenizer.num_special_tokens_to_add(False)) != 2:
        raise UserError(
            f"the tokenizer puts {added} special tokens around a sentence, a first and a last one "
            "are expected"
        )
    return tokenizer


def _from_json(content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise UserError(f"{TOKENIZER_FILE} cannot be read: {error}") from error


def _from_vocab(
    content: bytes, settings: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> Tokenizer:
    """The WordPiece tokenizer that transformers makes of vocab.txt, which has a token a line."""
    try:
        lines = content.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{VOCAB_FILE} is not UTF-8: {error}") from error
    vocab = {token.rstrip("\r"): row for row, token in enumerate(lines)}
    tokens = {name: _text(settings.get(name), known) for name, known in special_tokens.items()}
    if missing := [token for token in tokens.values() if token not in vocab]:
        raise UserError(f"{VOCAB_FILE} has no {', '.join(missing)}")
    made = BertWordPieceTokenizer(
        vocab,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
        **tokens,
    )
    return Tokenizer.from_str(made.to_str())


def _text(token: Any, default: str) -> str:
    """The text of a special token, which may be given with its properties."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else default


def _lower(tokenizer: Tokenizer, lowers: bool, do_lower_case: bool | None) -> None:
    """do_lower_case: of tokenizer_config.json, None where it does not say; it has precedence over
    tokenizer.json."""
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        if do_lower_case is not None:
            normalizer.lowercase = do_lower_case
        if lowers:
            normalizer.lowercase = True
        tokenizer.normalizer = normalizer
    elif lowers:
        first = [normalizers.Lowercase()]
        rest = [normalizer] if normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence(first + rest)
