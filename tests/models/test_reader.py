"""The reader against a transformer in numpy, and what it must not see."""

import jax
import numpy as np
import pytest

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.models.reader import LatentReader, Reader
from hyper_meta.models.sentences import keep_sentences, says_something

WIDTH, HEADS, TOKEN_DIM = 8, 2, 5


def make_sentences(count=4, *, length=6):
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(count, 7)).astype(np.float32)
    tokens = rng.normal(size=(count, length, TOKEN_DIM)).astype(np.float32)
    mask = np.arange(length) < rng.integers(1, length, size=count)[:, None]
    return SentenceFeatures(pooled, tokens, mask)


@pytest.fixture(scope="module")
def reader():
    """(module, params that are not as they start)."""
    module = Reader(WIDTH, 2, HEADS)
    shapes = jax.eval_shape(module.init, jax.random.key(0), make_sentences())["params"]
    rng = np.random.default_rng(1)
    return module, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def _norm(x, params):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params["scale"] + params["bias"]


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _attend(x, params):
    """Vaswani et al. 2017, section 3.2, of one sentence [L, W]."""
    query, key, value = (
        np.einsum("lw,whd->hld", x, params[name]["kernel"]) for name in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
    share = np.exp(scores - scores.max(-1, keepdims=True))
    heads = share / share.sum(-1, keepdims=True) @ value
    return np.einsum("hld,hdw->lw", heads, params["out"]["kernel"])


def _read(tokens, params):
    """One sentence [L, D] without padding -> its states [1 + L, W], in float64."""
    first, last = params["Dense_0"], params["LayerNorm_4"]
    x = np.concatenate([params["summary"][None], tokens @ first["kernel"] + first["bias"]])
    for block in range(2):
        attention = params[f"MultiHeadDotProductAttention_{block}"]
        x = x + _attend(_norm(x, params[f"LayerNorm_{2 * block}"]), attention)
        up, down = params[f"Dense_{2 * block + 1}"], params[f"Dense_{2 * block + 2}"]
        hidden = _norm(x, params[f"LayerNorm_{2 * block + 1}"]) @ up["kernel"] + up["bias"]
        x = x + _gelu(hidden) @ down["kernel"] + down["bias"]
    return _norm(x, last)


def test_it_equals_a_transformer_in_numpy(reader):
    module, params = reader
    sentences = make_sentences()
    reading = jax.jit(module.apply)({"params": params}, sentences)
    exact = jax.tree.map(np.float64, params)
    for number, mask in enumerate(sentences.mask):
        expected = _read(np.float64(sentences.tokens[number][mask]), exact)
        states = np.asarray(reading.states[number][np.concatenate([[True], mask])])
        np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(reading.vector[number], reading.states[number][0])
    np.testing.assert_array_equal(reading.mask[:, 1:], sentences.mask)
    assert reading.mask[:, 0].all()


@pytest.mark.parametrize("behind", [7.0, np.inf, np.nan])
def test_what_is_behind_the_mask_changes_nothing_to_the_bit(reader, behind):
    module, params = reader
    read = jax.jit(lambda params, x: module.apply({"params": params}, x).vector)
    sentences = make_sentences()
    spoiled = np.where(sentences.mask[..., None], sentences.tokens, np.float32(behind))
    other = sentences.replace(tokens=spoiled)
    np.testing.assert_array_equal(read(params, other), read(params, sentences))

    def total(params, x):
        return (read(params, x) ** 2).sum()

    jax.tree.map(
        np.testing.assert_array_equal,
        jax.grad(total)(params, other),
        jax.grad(total)(params, sentences),
    )


def test_more_padding_changes_nothing(reader):
    module, params = reader
    sentences = make_sentences()
    longer = sentences.replace(
        tokens=np.pad(sentences.tokens, ((0, 0), (0, 3), (0, 0)), constant_values=9),
        mask=np.pad(sentences.mask, ((0, 0), (0, 3))),
    )
    one, other = (module.apply({"params": params}, x).vector for x in (sentences, longer))
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_the_null_sentence_reads_as_the_summary_alone(reader):
    module, params = reader
    sentences = make_sentences()
    keep = np.array([True, False, True, False])
    dropped = keep_sentences(sentences, keep)
    np.testing.assert_array_equal(says_something(dropped), keep)
    vector = module.apply({"params": params}, dropped).vector
    expected = _read(np.zeros((0, TOKEN_DIM)), jax.tree.map(np.float64, params))[0]
    np.testing.assert_allclose(vector[1], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(vector[1], vector[3])


def test_without_tokens_the_pooled_vector_is_the_one_token():
    module, pooled = Reader(WIDTH, 1, HEADS), make_sentences().pooled
    params = module.init(jax.random.key(0), SentenceFeatures(pooled))["params"]
    one_token = SentenceFeatures(pooled, pooled[:, None], np.ones((4, 1), bool))
    np.testing.assert_array_equal(
        module.apply({"params": params}, SentenceFeatures(pooled)).vector,
        module.apply({"params": params}, one_token).vector,
    )
    assert says_something(SentenceFeatures(pooled)).all()


def test_the_order_of_the_words_is_in_their_states():
    """The reader adds no positions: the encoder's states hold them."""
    module, sentences = Reader(WIDTH, 1, HEADS), make_sentences(1)
    sentences = sentences.replace(mask=np.ones_like(sentences.mask))
    params = module.init(jax.random.key(0), sentences)["params"]
    turned = sentences.replace(tokens=sentences.tokens[:, ::-1])
    np.testing.assert_allclose(
        module.apply({"params": params}, turned).vector,
        module.apply({"params": params}, sentences).vector,
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_latent_is_a_linear_map_of_the_vector(reader):
    module, sentences = LatentReader(Reader(WIDTH, 2, HEADS), 3), make_sentences()
    params = module.init(jax.random.key(0), sentences)["params"]
    vector = Reader(WIDTH, 2, HEADS).apply({"params": params["reader"]}, sentences).vector
    expected = vector @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    latents = module.apply({"params": params}, sentences)
    np.testing.assert_allclose(latents, expected, rtol=1e-5, atol=1e-5)
