"""Folders of sentence encoders: what their files say, what is refused, and what is told of a
sentence that is too long."""

import json
import shutil

import numpy as np
import pytest
from toy_sentence_encoder import SPECIAL, vocabulary, write_layout, write_sentence_encoder

from hyper_meta.core.types import UserError
from hyper_meta.encoders.folder import load_encoder
from hyper_meta.encoders.pooling import pool, unit_length
from hyper_meta.encoders.questions import (
    longest,
    num_tokens,
    read_questions,
    tokenize_questions,
    too_long,
)
from hyper_meta.encoders.sentence_encoder import (
    PADDING,
    encode_sentences,
    load_sentence_encoder,
    read_folder,
    tokenize_sentences,
)

SENTENCES = [
    "Which colour does the seven have?",
    "",
    "  two   spaces\tand\nlines ",
    "ÉCOLE, Été!",
    "東京 is a City",
    "a [MASK] <mask> [SEP] </s>",
    "Seven seven\u00ad \u200b",
]


@pytest.fixture(scope="module", params=["bert", "mpnet"])
def folder(request, tmp_path_factory):
    return write_sentence_encoder(tmp_path_factory.mktemp("sentence") / "encoder", request.param)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def load(folder, **choices):
    return load_sentence_encoder(read_folder(folder), "toy", **choices)


def encode(encoder, sentences, *, with_tokens=False):
    token_ids = tokenize_sentences(encoder, sentences)
    return encode_sentences(encoder, token_ids, with_tokens=with_tokens)


def change(path, **values):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def _theirs(folder):
    from transformers import BertTokenizer, MPNetTokenizer

    kind = json.loads((folder / "config.json").read_text())["model_type"]
    tokenizer = {"bert": BertTokenizer, "mpnet": MPNetTokenizer}[kind]
    return tokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
def test_tokens_are_those_of_transformers(copied, lower, form):
    change(copied / "tokenizer_config.json", do_lower_case=lower)
    theirs = _theirs(copied)
    if form == "tokenizer.json":
        theirs.save_pretrained(copied)
        (copied / "vocab.txt").unlink()
    expected = theirs(SENTENCES)["input_ids"]
    token_ids = tokenize_sentences(load(copied), SENTENCES)
    found = [row[row != PADDING].tolist() for row in token_ids]
    if form == "vocab.txt":  # it does not know which of its tokens are special in a text
        del found[5], expected[5]
    assert found == expected
    kind = json.loads((copied / "config.json").read_text())["model_type"]
    tokens = vocabulary(kind)
    assert (tokens.index("Seven") in token_ids) is not lower


def test_tokenizer_config_has_precedence_and_the_transformer_may_lower_case(copied):
    _theirs(copied).save_pretrained(copied)
    plain = tokenize_sentences(load(copied), ["Seven"])
    change(copied / "tokenizer_config.json", do_lower_case=False)
    cased = tokenize_sentences(load(copied), ["Seven"])
    change(copied / "sentence_bert_config.json", do_lower_case=True)
    lowered = tokenize_sentences(load(copied), ["Seven"])
    assert (plain != cased).any() and (plain == lowered).all()


def test_what_tokenizer_json_was_last_used_with_does_not_count(copied):
    theirs = _theirs(copied)
    before = tokenize_sentences(load(copied), SENTENCES[:1])
    theirs.backend_tokenizer.enable_truncation(5)
    theirs.backend_tokenizer.enable_padding(length=5)
    theirs.backend_tokenizer.save(str(copied / "tokenizer.json"))
    np.testing.assert_array_equal(tokenize_sentences(load(copied), SENTENCES[:1]), before)


def test_a_long_sentence_is_cut_as_transformers_cuts_it_and_is_told(folder):
    encoder = load(folder)
    sentences = ["how many " * count for count in (2, 11, 12, 40)]
    expected = _theirs(folder)(sentences, truncation=True, max_length=24)["input_ids"]
    token_ids = tokenize_sentences(encoder, sentences)
    assert [row[row != PADDING].tolist() for row in token_ids] == expected
    assert num_tokens(encoder, sentences).tolist() == [6, 24, 26, 82]
    assert longest(encoder) == encoder.longest == 24
    assert too_long(encoder, sentences) == {sentences[2]: 26, sentences[3]: 82}


def test_the_limit_is_what_the_files_say_and_there_are_positions_for(copied):
    kind = json.loads((copied / "config.json").read_text())["model_type"]
    most = {"bert": 40, "mpnet": 38}[kind]
    change(copied / "sentence_bert_config.json", max_seq_length=500)
    assert load(copied).longest == most
    change(copied / "sentence_bert_config.json", max_seq_length=None)
    assert load(copied).longest == most
    change(copied / "tokenizer_config.json", model_max_length=12)
    assert load(copied).longest == 12
    change(copied / "tokenizer_config.json", model_max_length=int(1e30))
    assert load(copied).longest == most


def test_both_encoders_tell_what_they_do_not_read(saved_folder, folder):
    """The image encoder's text tower, by the same functions."""
    clip = load_encoder(saved_folder)
    sentence = "red " * 30
    assert longest(clip) == 20 and num_tokens(clip, ["red", sentence]).tolist() == [3, 32]
    assert too_long(clip, ["red", sentence]) == {sentence: 32}
    assert tokenize_questions(clip, [sentence]).shape == (1, 20)
    for encoder in (clip, load(folder)):
        ids = tokenize_questions(encoder, ["red", "a red seven"])
        whole = read_questions(encoder, ids, with_tokens=False)
        states = read_questions(encoder, ids, with_tokens=True)
        assert whole.tokens is None and states.tokens.shape[:2] == ids.shape
        np.testing.assert_allclose(whole.pooled, states.pooled, atol=1e-5)
        counts = num_tokens(encoder, ["red", "a red seven"])
        np.testing.assert_array_equal(states.mask.sum(axis=1), counts)
        assert not np.asarray(states.tokens)[~np.asarray(states.mask)].any()


def test_a_sentence_is_read_alike_in_any_batch(folder):
    encoder = load(folder)
    alone = encode(encoder, SENTENCES[:1], with_tokens=True)
    beside = encode(encoder, [SENTENCES[0], "how many " * 40], with_tokens=True)
    count = int(alone.mask.sum())
    np.testing.assert_allclose(beside.pooled[0], alone.pooled[0], atol=1e-5)
    np.testing.assert_allclose(beside.tokens[0, :count], alone.tokens[0, :count], atol=1e-5)


def test_the_layer_is_that_of_the_tokens_alone(folder):
    last, first = load(folder), load(folder, layer=0)
    ids = tokenize_sentences(last, SENTENCES)
    np.testing.assert_array_equal(*(_read(e, ids).pooled for e in (last, first)))
    assert np.abs(_read(last, ids).tokens - _read(first, ids).tokens).max() > 0.1
    np.testing.assert_array_equal(_read(load(folder, layer=3), ids).tokens, _read(last, ids).tokens)
    for layer in (4, -2):
        with pytest.raises(UserError, match=f"question_layer={layer} given, it has 3 layers"):
            load(folder, layer=layer)


def _read(encoder, token_ids):
    return encode_sentences(encoder, token_ids, with_tokens=True)


def test_a_prefix_is_read_before_every_sentence(folder):
    plain, prefixed = load(folder), load(folder, prefix="query: ")
    np.testing.assert_array_equal(
        tokenize_sentences(prefixed, ["seven"]), tokenize_sentences(plain, ["query: seven"])
    )
    assert num_tokens(prefixed, ["seven"]) > num_tokens(plain, ["seven"])


def test_whatever_changes_a_feature_changes_the_fingerprint(copied):
    found = [
        load(copied).fingerprint,
        load(copied, layer=2).fingerprint,
        load(copied, prefix="query: ").fingerprint,
        load(copied, dtype="bfloat16").fingerprint,
    ]
    assert load(copied, layer=3).fingerprint == found[0]
    (copied / "README.md").write_text("# an encoder")
    assert load(copied).fingerprint == found[0]
    for name in ("sentence_bert_config.json", "1_Pooling/config.json", "tokenizer_config.json"):
        change(copied / name, something="else")
        found.append(load(copied).fingerprint)
    assert len(set(found)) == len(found) and {len(value) for value in found} == {64}


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ["cls"]),
        ({"pooling_mode_mean_tokens": True}, ["mean"]),
        ({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}, ["cls", "max"]),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ["mean_sqrt_len_tokens"]),
        ({"word_embedding_dimension": 16}, ["mean"]),
        # Since version 6 of sentence-transformers.
        ({"embedding_dimension": 16, "pooling_mode": "lasttoken"}, ["lasttoken"]),
        ({"pooling_mode": ["max", "cls"]}, ["max", "cls"]),
    ],
)
def test_pooled_as_the_folder_says(copied, pooling, modes):
    write_layout(copied, modules=("Transformer", "Pooling"), pooling=pooling)
    encoder = load(copied)
    ids = tokenize_sentences(encoder, SENTENCES)
    found = _read(encoder, ids)
    np.testing.assert_allclose(found.pooled, pool(found.tokens, found.mask, modes), atol=1e-6)
    write_layout(copied, pooling=pooling)
    normalised = _read(load(copied), ids).pooled
    np.testing.assert_allclose(normalised, unit_length(found.pooled), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normalised, axis=1), 1, atol=1e-6)


def test_a_plain_folder_of_transformers_is_pooled_by_the_mean_and_says_so(copied):
    (copied / "modules.json").unlink()
    encoder = load(copied)
    assert encoder.layout.is_assumed and not encoder.layout.normalises
    found = encode(encoder, SENTENCES, with_tokens=True)
    np.testing.assert_allclose(found.pooled, pool(found.tokens, found.mask, ["mean"]), atol=1e-6)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling_mode .'median',. given"),
        ("1_Pooling/config.json", {"pooling_mode": []}, "some of .'cls', 'max', 'mean'"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "'token_embedd"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length 2 given, .* >= 3"),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {"method_output_name": "pooler_output"}}},
            "takes 'pooler_output', 'last_hidden_state' expected",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
            "its default prompt is 'query: ': give it",
        ),
        ("config.json", {"model_type": "t5"}, "'t5' given"),
        ("config.json", {"vocab_size": 7}, "tokens, more than vocab_size 7"),
        ("tokenizer_config.json", {"sep_token": "[end]"}, r"vocab.txt has no \[end\]"),
    ],
)
def test_files_that_are_not_what_is_computed_are_refused(copied, file, values, message):
    (copied / file).parent.mkdir(exist_ok=True)
    change(copied / file, **values)
    with pytest.raises(UserError, match=f"sentence encoder toy: .*{message}") as caught:
        load(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "modules",
    [
        ("Transformer", "Pooling", "Dense"),
        ("Transformer", "Pooling", "Normalize", "Dense"),
        ("Transformer",),
        ("WordEmbeddings", "Pooling"),
    ],
)
def test_other_modules_are_refused(copied, modules):
    write_layout(copied, modules=modules)
    with pytest.raises(UserError, match=f"has the modules {', '.join(modules)}: a Transformer"):
        load(copied)


def test_a_prefix_that_is_left_out_of_the_pooling_is_refused(copied):
    change(copied / "1_Pooling" / "config.json", include_prompt=False)
    load(copied)
    with pytest.raises(UserError, match="leaves its prompt out of the pooling"):
        load(copied, prefix="query: ")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json"]
)
def test_a_missing_or_cut_file_is_named(copied, name):
    if name != "vocab.txt":  # half of a vocabulary is one
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="sentence encoder toy: "):
            load(copied)
    (copied / name).unlink()
    missing = "neither tokenizer.json nor vocab.txt" if name == "vocab.txt" else f"{name} is miss"
    with pytest.raises(UserError, match=missing):
        load(copied)


def test_a_pickle_is_not_read(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle, which can run code"):
        load(copied)
    (copied / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="model.safetensors is missing$"):
        load(copied)
    with pytest.raises(UserError, match="nowhere of a sentence encoder does not exist"):
        load(copied / "nowhere")


@pytest.mark.parametrize("sentences", [[], "a string", [1], ["\ud800"]])
def test_other_than_sentences_are_refused(folder, sentences):
    for use in (tokenize_sentences, num_tokens):
        with pytest.raises(UserError, match="sentences"):
            use(load(folder), sentences)


def test_special_tokens_are_where_they_belong(folder):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    tokens = vocabulary(kind)
    first, last = {"bert": ("[CLS]", "[SEP]"), "mpnet": ("<s>", "</s>")}[kind]
    assert {first, last} <= set(SPECIAL[kind])
    (ids,) = tokenize_sentences(load(folder), ["seven"])
    expected = [tokens.index(token) for token in (first, "seven", last)]
    assert ids.tolist() == expected + [PADDING] * 5
