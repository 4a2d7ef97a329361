"""The encoder that is shipped in the package."""

import json

import jax
import numpy as np
import pytest

from hyper_meta.core.losses import normalise
from hyper_meta.data.digits_vqa.questions import all_questions
from hyper_meta.data.digits_vqa.scenes import render, sample_scenes
from hyper_meta.encoders.folder import (
    bundled_encoder_path,
    encode_images,
    encode_texts,
    load_encoder,
    preprocess,
    tokenize,
)
from hyper_meta.workflows.pretrain_encoder import measure_encoder


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(bundled_encoder_path())


def test_it_is_small_and_has_a_card():
    folder = bundled_encoder_path()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6
    assert "hyper-meta pretrain" in (folder / "README.md").read_text()


def test_hugging_face_loads_it_and_agrees(encoder):
    torch = pytest.importorskip("torch")
    from transformers import CLIPModel

    scenes = sample_scenes(np.random.default_rng(0), 16, handwriting="test")
    pixels = preprocess(encoder, list(render(scenes)))
    tokens = tokenize(encoder, [question.text for question in all_questions()[::40]])
    model = CLIPModel.from_pretrained(bundled_encoder_path()).eval()
    with torch.no_grad():
        theirs = model(
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)),
            input_ids=torch.tensor(tokens.astype(np.int64)),
        )
    ours = (
        normalise(encode_images(encoder, pixels)),
        normalise(encode_texts(encoder, tokens)),
    )
    for mine, other in zip(ours, (theirs.image_embeds, theirs.text_embeds), strict=True):
        np.testing.assert_allclose(np.asarray(mine), other.numpy(), atol=1e-5)


def test_the_card_is_what_is_measured(encoder):
    card = json.loads((bundled_encoder_path() / "measured.json").read_text())
    measured = jax.tree.map(float, measure_encoder(encoder))
    for name in ("retrieval", "chance"):
        # Up to three of a thousand sentences may fall otherwise on another processor.
        assert abs(measured[name] - card[name]) < 0.35
