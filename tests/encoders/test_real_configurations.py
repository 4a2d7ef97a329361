"""The published checkpoints' architectures, random weights in place of theirs, against PyTorch.

The widths, patches, vocabulary and activations are the real ones, two layers deep. `python
tests/encoders/test_real_configurations.py` does the same at full depth and prints the differences.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_clip import hugging_face_embed, hugging_face_model, numpy_state

from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import clip_config_from_dict
from hyper_meta.encoders.weights import params_from_tensors

# The fields of their config.json that differ from transformers' defaults. All of OpenAI's and
# LAION's of that time have the legacy end token.
LEGACY = {"eos_token_id": 2}
LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
LARGE_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
HUGE_TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
}
HUGE_VISION = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 16,
    "num_hidden_layers": 32,
    "patch_size": 14,
}
GELU = {"hidden_act": "gelu"}
CHECKPOINTS = {
    "openai/clip-vit-base-patch32": (512, {}, {}),
    "openai/clip-vit-base-patch16": (512, {}, {"patch_size": 16}),
    "openai/clip-vit-large-patch14": (768, LARGE_TEXT, LARGE_VISION),
    "openai/clip-vit-large-patch14-336": (768, LARGE_TEXT, LARGE_VISION | {"image_size": 336}),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": (512, GELU, GELU),
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": (768, LARGE_TEXT | GELU, LARGE_VISION | GELU),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": (1024, HUGE_TEXT | GELU, HUGE_VISION | GELU),
}


def config_dict(name, *, depth=None):
    """config.json of a checkpoint, with so many layers in place of all."""
    dim, text, vision = CHECKPOINTS[name]
    layers = {} if depth is None else {"num_hidden_layers": depth}
    return {
        "model_type": "clip",
        "projection_dim": dim,
        "text_config": LEGACY | text | layers,
        "vision_config": vision | layers,
    }


def differences(name, *, depth=None):
    """{"image" | "text": (max |ours - PyTorch's|, the same in bfloat16, max |PyTorch's|)}."""
    d = config_dict(name, depth=depth)
    model, config = hugging_face_model(d), clip_config_from_dict(d)
    params = params_from_tensors(numpy_state(model), config)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(1, config.image_size, config.image_size, 3)).astype(np.float32)
    token_ids = rng.integers(3, config.vocab_size - 2, size=(2, 77)).astype(np.int32)
    token_ids[0, 9:], token_ids[1, -1] = config.vocab_size - 1, config.vocab_size - 1
    theirs = hugging_face_embed(model, pixels, token_ids)
    exact, rough = (
        jax.jit(CLIP(config, dtype).apply)({"params": params}, pixels, token_ids)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    return {
        side: tuple(float(np.abs(x).max()) for x in (a - reference, b - reference, reference))
        for side, a, b, reference in zip(
            ("image", "text"), exact[:2], rough[:2], theirs[:2], strict=True
        )
    }


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_equals_hugging_face_pytorch_at_real_widths(name):
    for side, (exact, rough, size) in differences(name, depth=2).items():
        assert exact < 1e-5, side
        assert exact < rough < 0.05 * size, side


if __name__ == "__main__":
    for checkpoint in sys.argv[1:] or CHECKPOINTS:
        for side, figures in differences(checkpoint).items():
            print(f"{checkpoint} {side}: {figures[0]:.1e} {figures[1]:.1e} of {figures[2]:.2f}")
