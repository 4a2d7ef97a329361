"""A tiny CLIP with random parameters and a tokenizer of its own, saved once per session."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import CLIPConfig, TowerConfig
from hyper_meta.encoders.folder import load_encoder, save_encoder
from hyper_meta.encoders.tokenizer import train_tokenizer


def random_params(config: CLIPConfig, *, seed: int = 0):
    """Normal noise of standard deviation 0.1 in place of every parameter of `CLIP(config)`."""
    pixels = jnp.zeros((1, config.image_size, config.image_size, 3))
    token_ids = jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(CLIP(config).init, jax.random.key(0), pixels, token_ids)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), shapes)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return [
        f"is the {colour} digit {question}?"
        for colour in ("red", "green", "blue", "yellow")
        for question in ("even", "odd", "larger than four", "a seven")
    ]


@pytest.fixture(scope="session")
def tokenizer(sentences):
    return train_tokenizer(sentences, vocab_size=600, max_length=20)


@pytest.fixture(scope="session")
def config(tokenizer) -> CLIPConfig:
    tower = TowerConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    return CLIPConfig(
        text=tower,
        vision=tower,
        projection_dim=24,
        vocab_size=len(tokenizer),
        max_position_embeddings=20,
        eos_token_id=tokenizer.eos_token_id,
        image_size=16,
        patch_size=4,
        logit_scale_init_value=2.6592,
    )


@pytest.fixture(scope="session")
def params(config):
    return random_params(config)


@pytest.fixture(scope="session")
def saved_folder(config, params, tokenizer, tmp_path_factory):
    """A folder of `save_encoder`; tests that damage it work on a copy."""
    folder = tmp_path_factory.mktemp("encoders") / "tiny_clip"
    save_encoder(
        folder,
        config=config,
        params=params,
        tokenizer=tokenizer,
        image_mean=(0.1, 0.2, 0.3),
        image_std=(0.4, 0.5, 0.6),
    )
    return folder


@pytest.fixture(scope="session")
def encoder(saved_folder):
    return load_encoder(saved_folder)
