"""A CLIP tokenizer trained on one's own sentences (byte-level BPE; Radford et al. 2021, 2.4)."""

import json
from collections.abc import Sequence

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer

from hyper_meta.core.types import UserError

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
END_OF_WORD = "</w>"
# Each of the 256 bytes inside a word and at its end, and the two special tokens.
SMALLEST_VOCAB = 2 * 256 + 2


def train_tokenizer(sentences: Sequence[str], *, vocab_size: int, max_length: int) -> CLIPTokenizer:
    """Learns the merges of a byte-pair encoding from `sentences`.

    Splitting and lower-casing are CLIP's own, and every byte is a token, so any sentence has an
    encoding without an unknown token. The two special tokens have the highest ids, the end token
    the very highest; it also pads. `vocab_size` is an upper bound: few sentences yield fewer
    merges, `len` of the result is the vocab_size to configure the model with. `max_length` is the
    number of token ids per sentence, special tokens included. Raises UserError where vocab_size is
    less than 514 or max_length less than 3.
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
    """The merges that, most useful first, extend the base tokens to vocab_size tokens at most."""
    backend = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        # Not special at all, but given so that their ids, and with them the choice among equally
        # frequent merges, do not depend on the order in which a hash table yields the words.
        special_tokens=base_tokens,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
