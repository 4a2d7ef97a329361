"""BERT and MPNet against transformers' PyTorch models, on the architectures of published sentence
encoders with random weights in place of theirs; and the poolings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_sentence_encoder import TINY, random_tensors, vocabulary, write_layout

from hyper_meta.core.types import UserError
from hyper_meta.encoders.bert import PADDING, Bert, relative_buckets
from hyper_meta.encoders.bert_config import bert_config_from_dict
from hyper_meta.encoders.bert_weights import bert_params_from_tensors
from hyper_meta.encoders.pooling import POOLINGS, pool, unit_length
from hyper_meta.encoders.sentence_encoder import (
    encode_sentences,
    load_sentence_encoder,
    num_tokens,
    read_folder,
    tokenize_sentences,
)

# The fields of their config.json that differ from transformers' defaults, but for a smaller
# vocabulary; and whether the first token is pooled, in place of the mean.
SMALL = {"hidden_size": 384, "intermediate_size": 1536}
MPNET = {"model_type": "mpnet", "max_position_embeddings": 514, "layer_norm_eps": 1e-5}
PUBLISHED = {
    "sentence-transformers/all-MiniLM-L6-v2": (SMALL | {"num_hidden_layers": 6}, False),
    "BAAI/bge-small-en-v1.5": (SMALL, True),
    "thenlper/gte-base": ({}, False),
    "sentence-transformers/all-mpnet-base-v2": (MPNET, False),
}
VOCAB_SIZE = 500
SENTENCES = [
    "Which colour does the seven have?",
    "How many digits are there?",
    "seven",
    "is the digit to the left of the digit that is seven a digit that is there, " * 2,
]


def pytorch_model(d, *, seed=0):
    """transformers' model of a config.json, every parameter away from its initial value."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel

    kinds = {"bert": (BertConfig, BertModel), "mpnet": (MPNetConfig, MPNetModel)}
    config, model = kinds[d["model_type"]]
    torch.manual_seed(seed)
    model = model(config(**d)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = 1 if "relative" in name else 0.05 if parameter.ndim == 1 else 0.02
            parameter.add_(size * torch.randn_like(parameter))
    return model


def pytorch_states(model, token_ids):
    """Every hidden state [B, L, W] of token ids with PADDING, by PyTorch, numpy."""
    torch = pytest.importorskip("torch")
    mask = token_ids != PADDING
    ids = np.where(mask, token_ids, model.config.pad_token_id)
    with torch.no_grad():
        found = model(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask.astype(int)),
            output_hidden_states=True,
        )
    return [state.numpy() for state in found.hidden_states]


@jax.jit
def _run(encoder, token_ids):
    """Every hidden state, and the features."""
    states = Bert(encoder.config).apply({"params": encoder.params}, token_ids)
    return states, encode_sentences(encoder, token_ids, with_tokens=True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_hugging_face_pytorch_at_every_layer(name, tmp_path):
    """A folder that transformers writes: every hidden state, with padding, and the vector."""
    config, is_cls = PUBLISHED[name]
    d = {"model_type": "bert", **config, "vocab_size": VOCAB_SIZE}
    model = pytorch_model(d)
    model.save_pretrained(tmp_path)
    tokens = vocabulary(d["model_type"], size=VOCAB_SIZE)
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    pooling = {"pooling_mode_cls_token": is_cls, "pooling_mode_mean_tokens": not is_cls}
    write_layout(tmp_path, pooling=pooling, longest=384)
    encoder = load_sentence_encoder(read_folder(tmp_path), name)
    token_ids = tokenize_sentences(encoder, SENTENCES)
    mask = token_ids != PADDING
    counts = num_tokens(encoder, SENTENCES)
    assert mask.sum(axis=1).tolist() == counts.tolist() and counts.min() < counts.max() / 4
    expected = pytorch_states(model, token_ids)
    ours, found = _run(encoder, token_ids)
    assert len(ours) == len(expected) == model.config.num_hidden_layers + 1
    apart = [np.abs(a - b)[mask].max() for a, b in zip(ours, expected, strict=True)]
    print(f"{name}: {' '.join(f'{value:.1e}' for value in apart)}")
    assert max(apart) < 1e-5
    states, shown = expected[-1], mask[..., None]
    pooled = states[:, 0] if is_cls else (states * shown).sum(axis=1) / shown.sum(axis=1)
    pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    assert np.abs(found.pooled - pooled).max() < 1e-5
    np.testing.assert_array_equal(found.mask, mask)
    assert np.abs(found.tokens - states * shown).max() < 1e-5


def test_relative_buckets_equal_those_of_transformers():
    torch = pytest.importorskip("torch")
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    for length in (1, 9, 128, 514):
        place = torch.arange(length)
        theirs = MPNetEncoder.relative_position_bucket(place - place[:, None], num_buckets=32)
        np.testing.assert_array_equal(relative_buckets(length, 32), theirs.numpy())


@pytest.fixture(params=["bert", "mpnet"])
def tiny(request):
    """(config.json, tensors)"""
    d = {"model_type": request.param, **TINY, "vocab_size": 50}
    return d, random_tensors(d)


def _states(tiny, token_ids, dtype=jnp.float32):
    d, tensors = tiny
    config = bert_config_from_dict(d)
    params = bert_params_from_tensors(tensors, config)
    return Bert(config, dtype).apply({"params": params}, np.asarray(token_ids, np.int32))


def test_what_is_behind_the_end_changes_no_state(tiny):
    ids = np.random.default_rng(0).integers(5, 50, size=(2, 6))
    alone = _states(tiny, ids)
    padded = _states(tiny, np.pad(ids, ((0, 0), (0, 7)), constant_values=PADDING))
    for one, other in zip(alone, padded, strict=True):
        np.testing.assert_allclose(other[:, :6], one, atol=1e-5)


def test_bfloat16_computes_about_the_same(tiny):
    ids = np.random.default_rng(0).integers(5, 50, size=(2, 6))
    exact, rough = (_states(tiny, ids, dtype)[-1] for dtype in (jnp.float32, jnp.bfloat16))
    assert rough.dtype == jnp.bfloat16
    assert 0 < np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()


def test_more_tokens_than_positions_are_refused(tiny):
    most = 40 if tiny[0]["model_type"] == "bert" else 38
    _states(tiny, np.full((1, most), 7))
    with pytest.raises(UserError, match=f"L <= {most} expected"):
        _states(tiny, np.full((1, most + 1), 7))


def test_the_tensor_that_is_wrong_is_named(tiny):
    d, tensors = tiny
    load = functools.partial(bert_params_from_tensors, config=bert_config_from_dict(d))
    kind = {"bert": "BERT", "mpnet": "MPNet"}[d["model_type"]]
    name = "encoder.layer.1.intermediate.dense.weight"
    without = {key: value for key, value in tensors.items() if key != name}
    with pytest.raises(UserError, match=f"{kind} weights do not have .* missing: {name}"):
        load(without)
    with pytest.raises(UserError, match="unexpected: encoder.layer.3.output.dense.bias"):
        load(tensors | {"encoder.layer.3.output.dense.bias": np.zeros(16, np.float32)})
    with pytest.raises(UserError, match=rf"{name} \(16, 24\), not \(24, 16\)"):
        load(tensors | {name: tensors[name].T})
    with pytest.raises(UserError, match=f"floating point: {name} int32"):
        load(tensors | {name: tensors[name].astype(np.int32)})
    other = {"bert": "mpnet", "mpnet": "bert"}[d["model_type"]]
    with pytest.raises(UserError, match="missing: .*unexpected: "):
        bert_params_from_tensors(tensors, bert_config_from_dict(d | {"model_type": other}))


def test_what_no_state_reads_may_be_there_and_halves_become_float32(tiny):
    d, tensors = tiny
    more = {
        "embeddings.position_ids": np.arange(40)[None],
        "pooler.dense.weight": np.zeros((16, 16), np.float32),
        "pooler.dense.bias": np.zeros(16, np.float32),
    }
    halves = {name: array.astype(np.float16) for name, array in tensors.items()}
    params = bert_params_from_tensors(halves | more, bert_config_from_dict(d))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "xlm-roberta"}, r"'xlm-roberta' given, one of \['bert', 'mpnet'\]"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' given, 'absolute' expected"),
        ({"hidden_act": "silu"}, r"'silu' is not one of \['gelu', 'gelu_new', 'relu'\]"),
        ({"num_attention_heads": 5}, "hidden_size 16 is not a multiple of num_attention_heads 5"),
        ({"is_decoder": True}, "an encoder is expected"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0 given, an integer >= 1"),
        ({"vocab_size": "many"}, "vocab_size 'many' given"),
    ],
)
def test_what_is_not_computed_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        bert_config_from_dict({"model_type": "bert", **TINY, **change})


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_defaults_are_those_of_transformers(kind):
    from transformers import BertConfig, MPNetConfig

    theirs = {"bert": BertConfig, "mpnet": MPNetConfig}[kind]().to_dict()
    ours = bert_config_from_dict({"model_type": kind})
    assert ours == bert_config_from_dict(theirs)
    assert ours.vocab_size == theirs["vocab_size"]


def test_poolings_are_their_definitions():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3, 5, 4)).astype(np.float32)
    mask = np.arange(5) < np.array([5, 2, 1])[:, None]
    for row, count in enumerate((5, 2, 1)):
        read = states[row, :count]
        place = np.arange(1, count + 1)[:, None]
        expected = {
            "cls": read[0],
            "max": read.max(axis=0),
            "mean": read.mean(axis=0),
            "mean_sqrt_len_tokens": read.sum(axis=0) / np.sqrt(count),
            "weightedmean": (place * read).sum(axis=0) / place.sum(),
            "lasttoken": read[-1],
        }
        assert expected.keys() == POOLINGS.keys()
        for mode, vector in expected.items():
            found = pool(jnp.asarray(states), jnp.asarray(mask), [mode])
            np.testing.assert_allclose(found[row], vector, atol=1e-6)
    both = pool(jnp.asarray(states), jnp.asarray(mask), ["cls", "max"])
    np.testing.assert_array_equal(both[:, :4], states[:, 0])
    assert both.shape == (3, 8)


def test_unit_length():
    vectors = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_length(vectors), [[0.6, 0.8], [0, 0]], atol=1e-7)
