"""Encoder folders: agreement with transformers, strictness, and life without PyTorch."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from toy_encoder_files import sharded

from hyper_meta.core.types import UserError
from hyper_meta.encoders.clip_config import clip_config_to_dict
from hyper_meta.encoders.folder import (
    TOKENIZER_FILES,
    bundled_encoder_path,
    encode_images,
    encode_questions,
    encode_texts,
    load_encoder,
    preprocess,
    save_encoder,
    tokenize,
)

WITHOUT_TORCH = """
import socket, sys
sys.modules["torch"] = sys.modules["torchvision"] = None
def refuse(*args, **kwargs):
    raise OSError("no network")
socket.socket.connect = refuse
import jax
import numpy as np
from hyper_meta.encoders.folder import (
    TOKENIZER_FILES,
    encode_images, encode_texts, load_encoder, preprocess, tokenize
)
encoder = load_encoder(sys.argv[1])
image = jax.jit(encode_images)(encoder, preprocess(encoder, [np.zeros((5, 9, 3), np.uint8)]))
text = jax.jit(encode_texts)(encoder, tokenize(encoder, ["is the red digit even?"]))
assert sys.modules["torch"] is None
print(image.shape, text.shape, encoder.fingerprint)
"""


@pytest.fixture
def copied_folder(saved_folder, tmp_path):
    return shutil.copytree(saved_folder, tmp_path / "copy")


embed_images, embed_texts = jax.jit(encode_images), jax.jit(encode_texts)


def random_images():
    """Images of several sizes and modes, some smaller than the model's 16 pixels."""
    rng = np.random.default_rng(0)
    shapes = [(16, 16, 3), (8, 8, 3), (40, 23, 3), (17, 90, 3), (1, 7, 3), (28, 28), (28, 28, 1)]
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


def test_load_returns_what_was_saved(encoder, config, params):
    assert encoder.config == config
    jax.tree.map(np.testing.assert_array_equal, encoder.params, params)


def test_hugging_face_reads_the_folder(saved_folder, encoder, sentences):
    torch = pytest.importorskip("torch")
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(saved_folder).eval()
    padded = AutoTokenizer.from_pretrained(saved_folder)(sentences, padding=True)
    pixels = preprocess(encoder, random_images())
    with torch.no_grad():
        image = model.get_image_features(torch.tensor(pixels).permute(0, 3, 1, 2)).pooler_output
        ids, mask = torch.tensor(padded["input_ids"]), torch.tensor(padded["attention_mask"])
        text = model.get_text_features(ids, attention_mask=mask).pooler_output
    assert np.abs(embed_images(encoder, pixels) - image.numpy()).max() < 1e-5
    ours = embed_texts(encoder, tokenize(encoder, sentences))
    assert np.abs(ours - text.numpy()).max() < 1e-5


def test_reads_a_folder_of_hugging_face(encoder, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import CLIPConfig, CLIPModel

    model = CLIPModel(CLIPConfig(**clip_config_to_dict(encoder.config))).eval()
    model.half().save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    encoder.image_processor.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.config == encoder.config
    pixels = preprocess(loaded, random_images())
    np.testing.assert_array_equal(pixels, preprocess(encoder, random_images()))
    with torch.no_grad():
        channels_first = torch.tensor(pixels).permute(0, 3, 1, 2)
        expected = model.float().get_image_features(channels_first).pooler_output.numpy()
    assert np.abs(embed_images(loaded, pixels) - expected).max() < 1e-5


def test_reads_what_transformers_5_saves(encoder, copied_folder):
    """CLIPProcessor's one file for images, and weights in parts."""
    from transformers import CLIPProcessor

    own = load_encoder(copied_folder)  # saving changes its tokenizer
    processor = CLIPProcessor(own.image_processor, own.tokenizer)
    for name in ("preprocessor_config.json", *TOKENIZER_FILES):
        (copied_folder / name).unlink(missing_ok=True)
    processor.save_pretrained(copied_folder)
    for name, content in sharded(copied_folder).items():
        (copied_folder / name).write_bytes(content)
    (copied_folder / "model.safetensors").unlink()
    assert not (copied_folder / "preprocessor_config.json").exists()
    loaded = load_encoder(copied_folder)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, encoder.params)
    images, questions = random_images(), ["is the red digit even?"]
    np.testing.assert_array_equal(preprocess(loaded, images), preprocess(encoder, images))
    np.testing.assert_array_equal(tokenize(loaded, questions), tokenize(encoder, questions))
    assert loaded.fingerprint != encoder.fingerprint
    # Every part counts.
    part = copied_folder / "model-00002-of-00002.safetensors"
    save_file({k: v + 1 for k, v in load_file(part).items()}, part)
    assert load_encoder(copied_folder).fingerprint != loaded.fingerprint


def test_preprocesses_as_hugging_face(saved_folder, encoder):
    from transformers import CLIPImageProcessorPil

    images = [Image.fromarray(image) for image in random_images()[:-1]]
    theirs = CLIPImageProcessorPil.from_pretrained(saved_folder)(images, return_tensors="np")
    ours = preprocess(encoder, random_images()[:-1])
    assert ours.shape == (6, 16, 16, 3) and ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs["pixel_values"].transpose(0, 2, 3, 1))


def test_squeezes_to_a_square_as_hugging_face_and_pillow(saved_folder):
    from transformers import CLIPImageProcessorPil

    encoder = load_encoder(saved_folder, resize="square")
    images = [Image.fromarray(image) for image in random_images()[:-1]]
    theirs = CLIPImageProcessorPil.from_pretrained(
        saved_folder, size={"height": 16, "width": 16}, do_center_crop=False
    )(images, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    ours = preprocess(encoder, images)
    np.testing.assert_array_equal(ours, theirs)
    squeezed = [image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC) for image in images]
    np.testing.assert_array_equal(ours, preprocess(load_encoder(saved_folder), squeezed))


@pytest.mark.parametrize("change", [{"resize": "square"}, {"dtype": "bfloat16"}])
def test_a_choice_changes_the_fingerprint_and_the_features(saved_folder, encoder, change):
    other = load_encoder(saved_folder, **change)
    assert other.fingerprint != encoder.fingerprint
    assert load_encoder(saved_folder, **change).fingerprint == other.fingerprint
    images = random_images()[2:4]
    plain, changed = (embed_images(e, preprocess(e, images)) for e in (encoder, other))
    assert changed.dtype == np.float32
    assert 0 < np.abs(plain - changed).max()


@pytest.mark.parametrize("change", [{"resize": "stretch"}, {"dtype": "float16"}])
def test_an_unknown_choice_is_refused(saved_folder, change):
    with pytest.raises(UserError, match="given, one of .* is expected"):
        load_encoder(saved_folder, **change)


def test_an_image_of_the_right_size_is_only_normalised(encoder):
    image = random_images()[0]
    expected = (image / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.4, 0.5, 0.6])
    np.testing.assert_allclose(preprocess(encoder, [image])[0], expected, atol=1e-5)


def test_grey_and_palette_images_are_accepted(encoder):
    grey = random_images()[5]
    variants = [grey, grey[..., None], np.dstack([grey] * 3), Image.fromarray(grey)]
    variants.append(Image.fromarray(grey).convert("RGBA"))
    pixels = preprocess(encoder, variants)
    for other in pixels[1:]:
        np.testing.assert_array_equal(other, pixels[0])
    assert preprocess(encoder, [Image.fromarray(grey).convert("P")]).shape == (1, 16, 16, 3)


def test_resizing_is_bicubic_on_the_shorter_edge(encoder):
    image = Image.fromarray(random_images()[2])
    resized = image.resize((16, 27), Image.Resampling.BICUBIC).crop((0, 5, 16, 21))
    np.testing.assert_array_equal(preprocess(encoder, [image]), preprocess(encoder, [resized]))


def test_reads_the_settings_of_older_versions(copied_folder, encoder):
    settings = {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_resize": True,
        "size": 16,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 16,
        "do_normalize": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (copied_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    older = preprocess(load_encoder(copied_folder), random_images())
    np.testing.assert_array_equal(older, preprocess(encoder, random_images()))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        ([np.zeros((4, 4, 3), np.float32)], "float32"),
        ([np.zeros((3, 4, 4), np.uint8)], r"\(3, 4, 4\)"),
    ],
)
def test_refuses_other_images(encoder, images, message):
    with pytest.raises(UserError, match=message):
        preprocess(encoder, images)


def test_tokenize_pads_to_a_multiple_of_eight(encoder, sentences):
    end = encoder.tokenizer.eos_token_id
    token_ids = tokenize(encoder, ["red", sentences[2], ""])
    assert token_ids.shape == (3, 16) and token_ids.dtype == np.int32
    assert (token_ids[:, 0] == encoder.tokenizer.bos_token_id).all()
    assert (token_ids[2, 1:] == end).all()
    assert tokenize(encoder, ["red"]).shape == (1, 8)


def test_tokenize_cuts_a_long_sentence_and_keeps_its_end(encoder):
    token_ids = tokenize(encoder, ["red " * 1000, "blue"])
    assert token_ids.shape == (2, 20)
    assert list(token_ids[0] == encoder.tokenizer.eos_token_id) == [False] * 19 + [True]
    assert np.isfinite(embed_texts(encoder, token_ids)).all()


def test_a_sentence_embeds_alike_in_any_batch(encoder):
    alone = embed_texts(encoder, tokenize(encoder, ["red"]))
    beside = embed_texts(encoder, tokenize(encoder, ["red", "red " * 1000]))
    np.testing.assert_allclose(beside[0], alone[0], atol=1e-6)


def test_questions_are_encoded_with_or_without_their_tokens(encoder, config):
    """Tokens [B, L, W] as long as each sentence, the same beside a longer one."""
    encode = jax.jit(encode_questions, static_argnames="with_tokens")
    texts = ["red", "is the red digit even?"]
    token_ids = tokenize(encoder, texts)
    whole, tokens = (encode(encoder, token_ids, with_tokens=flag) for flag in (False, True))
    assert whole.tokens is None and whole.mask is None
    np.testing.assert_array_equal(whole.pooled, embed_texts(encoder, token_ids))
    np.testing.assert_allclose(tokens.pooled, whole.pooled, atol=1e-6)
    assert tokens.tokens.shape == (*token_ids.shape, config.text.hidden_size)
    counts = [len(encoder.tokenizer(text)["input_ids"]) for text in texts]
    np.testing.assert_array_equal(tokens.mask.sum(axis=1), counts)
    alone = encode(encoder, tokenize(encoder, texts[:1]), with_tokens=True)
    kept = np.asarray(alone.mask[0])
    beside = tokens.tokens[0, : len(kept)]
    np.testing.assert_allclose(beside[kept], alone.tokens[0, kept], atol=1e-5)
    assert np.abs(np.asarray(alone.tokens)[0, kept]).min(axis=0).max() > 0


@pytest.mark.parametrize("given", ["red", [], [3], [None], ["half a pair \ud800"]])
def test_tokenize_refuses_other_than_sentences(encoder, given):
    with pytest.raises(UserError, match="sentences"):
        tokenize(encoder, given)


def test_pmap_equals_jit(encoder, sentences):
    pixels, token_ids = preprocess(encoder, random_images()), tokenize(encoder, sentences)
    for embed_fn, inputs in ((encode_images, pixels), (encode_texts, token_ids)):
        jitted = jax.jit(embed_fn)(encoder, inputs)
        mapped = jax.pmap(embed_fn, in_axes=(None, 0))(encoder, inputs[None])
        np.testing.assert_allclose(mapped[0], jitted, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ],
)
def test_fingerprint_depends_on_every_file(copied_folder, encoder, name):
    assert load_encoder(copied_folder).fingerprint == encoder.fingerprint
    content = (copied_folder / name).read_bytes()
    if name == "model.safetensors":
        changed = content[:-1] + bytes([content[-1] ^ 1])
    else:
        changed = content + b"\n"
    (copied_folder / name).write_bytes(changed)
    assert load_encoder(copied_folder).fingerprint != encoder.fingerprint


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]
)
def test_refuses_a_missing_or_cut_file(copied_folder, name):
    content = (copied_folder / name).read_bytes()
    for cut in (content[: len(content) // 2], b""):
        (copied_folder / name).write_bytes(cut)
        with pytest.raises(UserError, match=name) as caught:
            load_encoder(copied_folder)
        assert "\n" not in str(caught.value) and str(copied_folder) in str(caught.value)
    (copied_folder / name).unlink()
    missing = "vocab.json" if name == "tokenizer.json" else name
    with pytest.raises(UserError, match=f"{missing} is missing"):
        load_encoder(copied_folder)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"model_type": "bert"}, "'bert' given"),
        ("config.json", {"projection_dim": 25}, "not have the shapes"),
        ("preprocessor_config.json", {"crop_size": {"height": 8, "width": 8}}, "8 x 8 pixels"),
        ("preprocessor_config.json", {"size": "large"}, "preprocessor_config.json"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "preprocessor_config.json"),
        ("tokenizer.json", {"model": {"type": "Unknown"}}, "tokenizer files"),
    ],
)
def test_refuses_contradicting_files(copied_folder, name, changes, message):
    edit_json(copied_folder / name, **changes)
    with pytest.raises(UserError, match=message):
        load_encoder(copied_folder)


def test_refuses_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_encoder(tmp_path / "nowhere")


def save_arguments(encoder):
    return {
        "config": encoder.config,
        "params": encoder.params,
        "tokenizer": encoder.tokenizer,
        "image_mean": encoder.image_processor.image_mean,
        "image_std": encoder.image_processor.image_std,
    }


def test_save_keeps_what_exists(copied_folder, encoder):
    with pytest.raises(UserError, match="exists"):
        save_encoder(copied_folder, **save_arguments(encoder))
    assert load_encoder(copied_folder).fingerprint == encoder.fingerprint


def test_saving_after_use_gives_the_same_files(encoder, tmp_path):
    encoder.tokenizer(["red", "a red one"], padding=True, truncation=True, max_length=9)
    save_encoder(tmp_path / "new" / "again", **save_arguments(encoder))
    assert load_encoder(tmp_path / "new" / "again").fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_std": (0.0, 1.0, 1.0)}, "image_std"),
        ({"image_mean": (0.5,)}, "image_mean"),
        ({"params": {}}, "not those of a CLIP"),
    ],
)
def test_a_refused_save_leaves_nothing(encoder, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        save_encoder(tmp_path / "refused", **save_arguments(encoder) | changes)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_nothing(encoder, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hyper_meta.encoders.folder.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_encoder(tmp_path / "interrupted", **save_arguments(encoder))
    assert not list(tmp_path.iterdir())


def test_refuses_a_tokenizer_of_another_model(encoder, tmp_path):
    for changes, message in (
        ({"eos_token_id": 5}, "end token"),
        ({"vocab_size": 100}, "more than"),
    ):
        config = dataclasses.replace(encoder.config, **changes)
        with pytest.raises(UserError, match=message):
            save_encoder(tmp_path / "refused", **save_arguments(encoder) | {"config": config})


def test_works_without_torch_and_network(saved_folder, encoder):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(saved_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["(1,", "24)", "(1,", "24)", encoder.fingerprint]


def test_bundled_path_is_in_the_package():
    assert bundled_encoder_path().parts[-3:] == ("hyper_meta", "encoders", "digits_clip")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("config.json", {"model_type": ["clip"]}, "model_type \\['clip'\\] given"),
        ("config.json", {"logit_scale_init_value": float("nan")}, "nan given, a number expected"),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}, "pixels that are no finite numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_values_that_make_no_encoder(saved_folder, tmp_path, name, values, said):
    folder = shutil.copytree(saved_folder, tmp_path / "copy")
    content = json.loads((folder / name).read_text()) | values
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        load_encoder(folder)


def test_a_giant_image_size_is_refused_before_anything_is_made(saved_folder, tmp_path):
    folder = shutil.copytree(saved_folder, tmp_path / "copy")
    content = json.loads((folder / "config.json").read_text())
    content["vision_config"] |= {"image_size": 1_000_000, "patch_size": 500_000}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="image_size 1000000 given, at most 8192 is read"):
        load_encoder(folder)
