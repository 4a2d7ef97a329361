"""A trained tokenizer covers every sentence and loads wherever a CLIP tokenizer does."""

import json

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from hyper_meta.core.types import UserError
from hyper_meta.encoders.tokenizer import train_tokenizer

TRICKY = [
    "",
    "   ",
    "IS the Red digit EVEN?",
    "it's   a\tseven,\nisn't it…",
    "Ünïcödé 你好 🙂👩‍👩‍👧 \x00 ½ e\u0301 ß İ",
    "מה זה ومن ไทย",
    "red " * 500,
    "x" * 5000,
]


def test_end_token_is_last_and_pads(tokenizer):
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    assert tokenizer.model_max_length == 20


def test_learns_words(tokenizer, sentences):
    assert "digit</w>" in tokenizer.tokenize(sentences[0])
    assert len(tokenizer.tokenize(sentences[0])) < 10


def test_every_byte_has_a_token(tokenizer):
    # Any character that is neither space, letter nor digit survives CLIP's splitting; the bytes
    # that valid UTF-8 lacks (0xC0, 0xC1, 0xF5 and up) cannot occur.
    special = set(tokenizer.all_special_ids)
    for start in range(0, 0x110000, 0x101):
        characters = [chr(c) for c in (start, start + 1) if not 0xD800 <= c < 0xE000]
        ids = tokenizer("a".join(characters), add_special_tokens=False)["input_ids"]
        assert not special & set(ids)


@pytest.mark.parametrize("sentence", TRICKY)
def test_saved_files_give_identical_ids(tokenizer, tmp_path, sentence):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    expected = tokenizer(sentence)["input_ids"]
    for loader in (CLIPTokenizer, AutoTokenizer):
        loaded = loader.from_pretrained(tmp_path)
        assert loaded(sentence)["input_ids"] == expected
        assert len(loaded) == len(tokenizer)


def test_older_files_give_identical_ids(tokenizer, tmp_path, sentences):
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    older = CLIPTokenizer.from_pretrained(tmp_path)
    for sentence in [*sentences, *TRICKY]:
        assert older(sentence)["input_ids"] == tokenizer(sentence)["input_ids"]


def test_decodes_to_the_lower_case_words(tokenizer):
    for sentence in ("is the red digit even", "ünïcödé 你好 🙂"):
        ids = tokenizer(sentence.upper())["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == sentence


def test_training_is_deterministic(tokenizer, sentences):
    again = train_tokenizer(sentences, vocab_size=600, max_length=20)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_vocab_size_is_an_upper_bound(sentences):
    small = train_tokenizer(sentences, vocab_size=520, max_length=20)
    assert len(small) == 520
    assert len(train_tokenizer(["ab"], vocab_size=10_000, max_length=20)) == 514


@pytest.mark.parametrize(
    ("vocab_size", "max_length", "message"), [(513, 20, "514 or more"), (600, 2, "max_length 2")]
)
def test_refuses_too_little_room(vocab_size, max_length, message, sentences):
    with pytest.raises(UserError, match=message):
        train_tokenizer(sentences, vocab_size=vocab_size, max_length=max_length)
