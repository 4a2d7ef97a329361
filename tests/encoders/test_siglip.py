"""SigLIP and SigLIP 2 against transformers in PyTorch: networks, tokenizers, images, a folder."""

import functools
import json
import shutil
from fnmatch import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import save_file

from hyper_meta.core.types import UserError
from hyper_meta.encoders import hub
from hyper_meta.encoders.folder import (
    encode_images,
    encode_questions,
    encode_texts,
    load_encoder,
    num_tokens,
    preprocess,
    tokenize,
)
from hyper_meta.encoders.siglip import SigLIP
from hyper_meta.encoders.siglip_config import siglip_config_from_dict
from hyper_meta.encoders.siglip_weights import siglip_param_shapes, siglip_params_from_tensors

END = 1
# The fields of their config.json that differ from transformers' defaults, (text, vision).
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
GIANT = {"hidden_size": 1536, "intermediate_size": 6144, "num_attention_heads": 16}
CHECKPOINTS = {
    "google/siglip-base-patch16-224": ({}, {}),
    "google/siglip-large-patch16-256": (LARGE, LARGE | {"image_size": 256}),
    "google/siglip-so400m-patch14-384": (SO400M, SO400M | {"image_size": 384, "patch_size": 14}),
    "google/siglip2-base-patch16-224": ({"vocab_size": 256_000}, {}),
    "google/siglip2-giant-opt-patch16-256": (
        SO400M | {"vocab_size": 256_000, "projection_size": 1536},
        GIANT | {"image_size": 256},
    ),
}
SMALL_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 400,
    "max_position_embeddings": 16,
    "projection_size": 64,
}
SMALL_VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
}
SMALL = {"model_type": "siglip", "text_config": SMALL_TEXT, "vision_config": SMALL_VISION}
SENTENCES = ["Is there a dog?", "what COLOUR is it, then?", "a man riding on a horse", "no"]


def config_dict(name):
    """config.json of a checkpoint two layers deep, or one if it is large, with a vocabulary that is
    soon made."""
    text, vision = CHECKPOINTS[name]
    layers = {"num_hidden_layers": 1 if "hidden_size" in text else 2}
    return {
        "model_type": "siglip",
        "text_config": text | layers | {"vocab_size": min(text.get("vocab_size", 32000), 2000)},
        "vision_config": vision | layers,
    }


@functools.cache
def small_model():
    return hugging_face(SMALL)


def hugging_face(content):
    """transformers' SiglipModel with its own random weights, biases and norms perturbed too."""
    torch = pytest.importorskip("torch")
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(**content)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def tensors_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def theirs(model, pixels, token_ids):
    """(images [B, D], sentences [B, D], states [B, L, W]) of the PyTorch model."""
    import torch

    with torch.no_grad():
        image = model.get_image_features(torch.tensor(pixels).permute(0, 3, 1, 2)).pooler_output
        text = model.get_text_features(torch.tensor(token_ids, dtype=torch.long))
        return image.numpy(), text.pooler_output.numpy(), text.last_hidden_state.numpy()


def inputs_of(config, batch=2):
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(batch, config.image_size, config.image_size, 3)).astype(np.float32)
    length = config.max_position_embeddings
    token_ids = rng.integers(3, config.vocab_size, size=(batch, length)).astype(np.int32)
    token_ids[0, 5:], token_ids[1, -1] = END, END  # the end token pads
    return pixels, token_ids


@pytest.mark.parametrize("name", ["small", *CHECKPOINTS])
def test_equals_hugging_face_pytorch(name):
    content = SMALL if name == "small" else config_dict(name)
    model = hugging_face(content)
    config = siglip_config_from_dict(content, eos_token_id=END)
    variables = {"params": siglip_params_from_tensors(tensors_of(model), config)}
    pixels, token_ids = inputs_of(config)
    image, text, states = theirs(model, pixels, token_ids)
    ours, _, _ = jax.jit(SigLIP(config).apply)(variables, pixels, token_ids)
    pooled = jax.jit(lambda v, t: SigLIP(config).apply(v, t, method="encode_text"))
    features = jax.jit(lambda v, t: SigLIP(config).apply(v, t, method="encode_tokens"))
    found = features(variables, token_ids)
    for side, mine, their in (
        ("image", ours, image),
        ("text", pooled(variables, token_ids), text),
        ("text with tokens", found.pooled, text),
        ("tokens", found.tokens[np.asarray(found.mask)], states[np.asarray(found.mask)]),
    ):
        difference = np.abs(np.asarray(mine) - their).max()
        print(f"{name}: {side} max abs difference {difference:.2e} of {np.abs(their).max():.2f}")
        assert difference < 1e-5, side
    np.testing.assert_array_equal(found.mask.sum(axis=1), [6, config.max_position_embeddings])
    assert not np.asarray(found.tokens)[~np.asarray(found.mask)].any()


def test_the_shapes_are_those_of_the_network():
    config = siglip_config_from_dict(SMALL, eos_token_id=END)
    traced = jax.eval_shape(SigLIP(config).init, jax.random.key(0), *inputs_of(config))
    expected = {path: leaf.shape for path, leaf in flatten_dict(traced["params"], sep="/").items()}
    assert siglip_param_shapes(config) == expected


def test_tensors_are_all_there_and_no_others():
    config = siglip_config_from_dict(SMALL, eos_token_id=END)
    tensors = tensors_of(small_model())
    for name in ("vision_model.head.probe", "text_model.head.bias", "logit_bias"):
        with pytest.raises(UserError, match=f"missing: {name}"):
            siglip_params_from_tensors({k: v for k, v in tensors.items() if k != name}, config)
    with pytest.raises(UserError, match="unexpected: more"):
        siglip_params_from_tensors(tensors | {"more": np.zeros(1, np.float32)}, config)


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("vision_config", {"vision_use_head": False}, "vision_use_head is off"),
        ("vision_config", {"num_channels": 1}, "num_channels 1 given"),
        ("vision_config", {"image_size": [24, 24]}, "image_size \\[24, 24\\] given, an integer"),
        ("text_config", {"projection_size": 32}, "sentences have 32 numbers and images 64"),
        ("text_config", {"hidden_act": "relu"}, "hidden_act 'relu' is not one of"),
    ],
)
def test_configurations_that_are_not_computed(part, values, said):
    content = SMALL | {part: SMALL[part] | values}
    with pytest.raises(UserError, match=said):
        siglip_config_from_dict(content, eos_token_id=END)


def write_sentencepiece(folder):
    """SigLIP's tokenizer, trained on a few sentences, as transformers writes it."""
    spm = pytest.importorskip("sentencepiece")
    from transformers import SiglipTokenizer

    text = folder / "text.txt"
    text.write_text("\n".join(sentence.lower() for sentence in SENTENCES * 20))
    spm.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "trained"),
        vocab_size=60,
        unk_id=2,
        pad_id=0,
        eos_id=1,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = SiglipTokenizer(str(folder / "trained.model"), model_max_length=16)
    tokenizer.save_pretrained(folder)
    for path in (text, folder / "trained.model", folder / "trained.vocab"):
        path.unlink()
    return tokenizer


def write_gemma(folder):
    """SigLIP 2's tokenizer with a small vocabulary, as transformers writes it."""
    from tokenizers import processors
    from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    letters = [chr(code) for code in range(97, 123)]
    tokens = [*special, *(f"<0x{code:02X}>" for code in range(256)), "▁", "?", ",", *letters, "th"]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Siglip2Tokenizer(vocab=vocab, merges=[("t", "h")], model_max_length=16)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", vocab["<eos>"])]
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(
    scope="module", params=[write_sentencepiece, write_gemma], ids=["siglip", "siglip2"]
)
def written(request, tmp_path_factory):
    """(an encoder folder as transformers writes it, its model, its tokenizer)"""
    from transformers import SiglipImageProcessorPil

    model = small_model()
    folder = tmp_path_factory.mktemp("siglip")
    tokenizer = request.param(folder)
    content = SMALL | {"text_config": SMALL_TEXT | {"eos_token_id": 49407}}
    (folder / "config.json").write_text(json.dumps(content))
    size = {"height": 24, "width": 24}
    SiglipImageProcessorPil(size=size).save_pretrained(folder)
    save_file(tensors_of(model), folder / "model.safetensors", metadata={"format": "pt"})
    return folder, model, tokenizer


def test_a_folder_gives_the_embeddings_of_hugging_face(written):
    folder, model, tokenizer = written
    encoder = load_encoder(folder)
    token_ids = tokenize(encoder, SENTENCES)
    expected = tokenizer(SENTENCES, padding="max_length", truncation=True, max_length=16)
    wanted = np.array(expected["input_ids"])
    if tokenizer.padding_side == "left":  # a processor of SigLIP pads on the right
        tokenizer.padding_side = "right"
        expected = tokenizer(SENTENCES, padding="max_length", truncation=True, max_length=16)
        wanted = np.array(expected["input_ids"])
    np.testing.assert_array_equal(token_ids, wanted)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (30, 41, 3), dtype=np.uint8) for _ in SENTENCES]
    pixels = preprocess(encoder, images)
    given = encoder.image_processor(images=[Image.fromarray(x) for x in images])["pixel_values"]
    np.testing.assert_array_equal(pixels, np.stack(given).transpose(0, 2, 3, 1))
    image, text, states = theirs(model, pixels, wanted)
    np.testing.assert_allclose(jax.jit(encode_images)(encoder, pixels), image, atol=1e-5)
    np.testing.assert_allclose(jax.jit(encode_texts)(encoder, token_ids), text, atol=1e-5)
    found = encode_questions(encoder, jnp.asarray(token_ids), with_tokens=True)
    counts = np.minimum(num_tokens(encoder, SENTENCES), 16)
    np.testing.assert_array_equal(np.asarray(found.mask).sum(axis=1), counts)
    mask = np.asarray(found.mask)
    np.testing.assert_allclose(np.asarray(found.tokens)[mask], states[mask], atol=1e-5)


def test_the_hub_gives_all_that_is_read(written):
    names = {path.name for path in written[0].iterdir()}
    fetched = {name for name in names if any(fnmatch(name, p) for p in hub.CLIP.patterns)}
    assert names - fetched <= {"special_tokens_map.json"}
    for mark in hub.CLIP.marks:
        assert names & set(mark)


def test_a_long_sentence_keeps_its_end_token(written):
    encoder = load_encoder(written[0])
    (ids,) = tokenize(encoder, ["is there a dog " * 20])
    assert len(ids) == 16 and ids[-1] == encoder.config.eos_token_id
    assert num_tokens(encoder, ["is there a dog " * 20])[0] > 16


def test_its_files_are_of_its_fingerprint(written, tmp_path):
    folder = shutil.copytree(written[0], tmp_path / "copy")
    before = load_encoder(folder).fingerprint
    for name in ("spiece.model", "tokenizer.json"):
        if (folder / name).exists():
            (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    try:
        assert load_encoder(folder).fingerprint != before
    except UserError as error:
        assert "cannot be read" in str(error)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("siglip2", "'siglip2' given, whose resolution varies: 'clip' \\(CLIP\\) and 'siglip'"),
        ("blip", "model_type 'blip' given: 'clip' \\(CLIP\\) and 'siglip' \\(SigLIP, and SigLIP 2"),
    ],
)
def test_another_architecture_is_refused_with_those_that_are_read(written, tmp_path, kind, said):
    folder = shutil.copytree(written[0], tmp_path / "copy")
    (folder / "config.json").write_text(json.dumps(SMALL | {"model_type": kind}))
    with pytest.raises(UserError, match=said):
        load_encoder(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\x01"])
def test_a_damaged_tokenizer_is_one_line(written, tmp_path, content):
    folder = shutil.copytree(written[0], tmp_path / "copy")
    name = "spiece.model" if (folder / "spiece.model").exists() else "tokenizer.json"
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} (cannot be read|has no end)") as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)
    (folder / name).unlink()
    (folder / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="there is no tokenizer, neither spiece.model nor"):
        load_encoder(folder)


def main():
    """Prints the largest differences at full depth, as rows of a table."""
    depths = {768: (12, 12), 1024: (24, 24), 1152: (27, 27), 1536: (27, 40)}
    for name, (text, vision) in CHECKPOINTS.items():
        layers = depths[vision.get("hidden_size", 768)]
        content = {
            "text_config": text | {"num_hidden_layers": layers[0]},
            "vision_config": vision | {"num_hidden_layers": layers[1]},
        }
        model = hugging_face(content)
        config = siglip_config_from_dict(content, eos_token_id=END)
        variables = {"params": siglip_params_from_tensors(tensors_of(model), config)}
        pixels, token_ids = inputs_of(config)
        expected = theirs(model, pixels, token_ids)[:2]
        found = jax.jit(SigLIP(config).apply)(variables, pixels, token_ids)[:2]
        apart = [np.abs(a - b).max() for a, b in zip(found, expected, strict=True)]
        largest = [np.abs(side).max() for side in expected]
        print(f"| `{name}` | {apart[0]:.1e} | {apart[1]:.1e} | {max(largest):.1f} |", flush=True)


if __name__ == "__main__":
    main()
