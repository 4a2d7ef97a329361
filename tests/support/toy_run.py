"""What a finished run leaves for generating, random and small."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from adapters import make_adapter, num_weights
from PIL import Image

import hyper_meta
from hyper_meta.core.configuration import execute_file, write_settings
from hyper_meta.core.settings import RunSettings, read_settings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.latent_sampling import Statistics
from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import CLIPConfig, TowerConfig
from hyper_meta.encoders.folder import (
    load_encoder,
    save_encoder,
)
from hyper_meta.encoders.tokenizer import train_tokenizer
from hyper_meta.models.sentences import SentenceMoments
from hyper_meta.train import checkpoints
from hyper_meta.train.stages.hyperldm import denoiser_module
from hyper_meta.train.stages.meta_learning import generator_module

REPOSITORY = Path(hyper_meta.__file__).parents[1]
EMBED_DIM, HIDDEN_DIM, LATENT_DIM = 12, 5, 6
SIZE = num_weights(EMBED_DIM, HIDDEN_DIM)
SCALE, BLEND = 1.5, 0.7
TEMPLATES = {
    "Which colour is the one?": "the one is {}",
    "How many digits are there?": "there are {} digits",
    "Where is the red digit?": "the red digit is {}",
}
ANSWERS = ("red", "green", "blue")
KNOWN = {
    "the one is {}": ["blue", "red"],
    "there are {} digits": ["one", "two"],
    "the red digit is {}": ["left", "Top Right"],
}


def make_config(encoder: Path) -> RunSettings:
    """The full run's settings, those that generating reads as small as they can be."""
    config = execute_file(REPOSITORY / "configs" / "digits_vqa.py")
    config.update(seed=3, encoder=str(encoder))
    config.network.update(hidden_dim=HIDDEN_DIM, blend=BLEND)
    config.hnet.update(latent_dim=LATENT_DIM, hidden_dims=(7, 8))
    config.hyperldm.update(hidden_dim=8, num_blocks=1, diffusion_steps=20, sampling_steps=3)
    config.hyperldm.num_samples = 4
    return read_settings(config)


def random_like(shapes, *, seed=0, scale=0.3):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), shapes)


def make_encoder(folder: Path, *, seed=0) -> Path:
    """A random CLIP of EMBED_DIM dimensions for images of 8 x 8 pixels."""
    tokenizer = train_tokenizer(list(TEMPLATES) * 2, vocab_size=514, max_length=32)
    tower = TowerConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    config = CLIPConfig(
        text=tower,
        vision=tower,
        projection_dim=EMBED_DIM,
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
        eos_token_id=tokenizer.eos_token_id,
        image_size=8,
        patch_size=4,
        logit_scale_init_value=2.6592,
    )
    pixels, tokens = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(CLIP(config).init, jax.random.key(0), pixels, tokens)["params"]
    save_encoder(
        folder,
        config=config,
        params=random_like(shapes, seed=seed),
        tokenizer=tokenizer,
        image_mean=[0.5] * 3,
        image_std=[0.3] * 3,
    )
    return folder


def make_run(folder: Path) -> Path:
    """What a finished run leaves for generating: config.json and the model of its first seed, which
    is random; its encoder is beside it."""
    config = make_config(make_encoder(folder / "encoder"))
    latent, question = jnp.zeros((1, LATENT_DIM)), jnp.zeros((1, EMBED_DIM))
    key, generator = (
        jax.random.key(0),
        generator_module(config, make_adapter(EMBED_DIM, HIDDEN_DIM)),
    )
    denoiser = denoiser_module(config, LATENT_DIM)
    time, keep = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
    statistics = random_like(
        Statistics(
            latent[0], latent[0], SentenceMoments(question[0], question[0]), clip=jnp.zeros(())
        )
    )
    questions = statistics.questions
    statistics = statistics.replace(
        latent_std=np.abs(statistics.latent_std) + 0.5,
        questions=questions.replace(std=np.abs(questions.std) + 0.5),
        clip=np.float32(3),
    )
    condition = SentenceFeatures(question)
    params = jax.eval_shape(denoiser.init, key, latent, time, condition, keep)["params"]
    tree = {
        "space": {
            "e0": np.full(LATENT_DIM, 2, np.float32),
            "generator": random_like(jax.eval_shape(generator.init, key, latent)["params"]),
        },
        "hyperldm": {"params": random_like(params), "statistics": statistics},
    }
    notes = {
        "guidance_scale": SCALE,
        "encoder": load_encoder(folder / "encoder").fingerprint,
        "templates": TEMPLATES,
        "answers": KNOWN,
    }
    workdir = folder / "run"
    checkpoints.save_tree(workdir / "seed_3" / "model", tree, notes=notes)
    write_settings(config, workdir)
    return workdir


def make_images(folder: Path, num: int) -> list[Path]:
    """Random pictures of different sizes, PNG and JPEG in turn."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(num):
        pixels = rng.integers(256, size=(9 + number, 20, 3), dtype=np.uint8)
        paths.append(folder / f"scene{number}.{('png', 'jpg')[number % 2]}")
        Image.fromarray(pixels).save(paths[-1])
    return paths
