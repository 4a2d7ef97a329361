"""Training of a CLIP tokenizer (byte-level BPE; Radford et al. 2021, section 2.4)."""

import json
from collections.abc import Sequence

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer

from hyper_meta.core.types import UserError

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
END_OF_WORD = "</w>"
# The 256 bytes inside a word, the 256 bytes at its end, and the two special tokens.
SMALLEST_VOCAB = 2 * 256 + 2


def train_tokenizer(sentences: Sequence[str], *, vocab_size: int, max_length: int) -> CLIPTokenizer:
    """A tokenizer whose byte-pair merges are learnt from sentences.

    Splitting and lower-casing are CLIP's own, and every byte is a token, so any sentence has an
    encoding without an unknown token. The two special tokens have the highest ids; the end token
    has the highest of all, and also pads.

    Args:
      sentences: the training text.
      vocab_size: the largest number of tokens, at least 514. Few sentences yield fewer merges;
        `len` of the result is the vocab_size of the model.
      max_length: the number of token ids per sentence, special tokens included, at least 3.

    Raises:
      UserError: vocab_size or max_length is too small.
    """
    if vocab_size < SMALLEST_VOCAB:
        raise UserError(
            f"vocab_size {vocab_size} given, {SMALLEST_VOCAB} or more expected: every byte, inside "
            "a word and at its end, and the two special tokens"
        )
    if max_length < 3:
        raise UserError(f"max_length {max_length} given, 3 or more expected")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    last_bytes = [byte + END_OF_WORD for byte in alphabet]
    merges = _learn_merges(sentences, [*alphabet, *last_bytes], vocab_size - 2)
    # Two merges may spell the same token, which then has one id.
    tokens = [*alphabet, *last_bytes, *(left + right for left, right in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*tokens, START_TOKEN, END_TOKEN]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def _learn_merges(
    sentences: Sequence[str], base_tokens: list[str], vocab_size: int
) -> list[tuple[str, str]]:
    """The merges that extend the base tokens to vocab_size tokens or fewer, most frequent first."""
    backend = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        # The base tokens are not special. Given here, their ids do not depend on the order of a
        # hash table, and neither does the choice among equally frequent merges.
        special_tokens=base_tokens,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
