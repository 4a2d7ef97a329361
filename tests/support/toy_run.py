"""What a finished run leaves for generating, random and small."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from adapters import make_adapter, num_weights
from PIL import Image

import hyper_meta
from hyper_meta.core.configuration import execute_file, write_settings
from hyper_meta.core.settings import RunSettings, changed, read_settings
from hyper_meta.encoders.clip import CLIP
from hyper_meta.encoders.clip_config import CLIPConfig, TowerConfig
from hyper_meta.encoders.folder import save_encoder
from hyper_meta.encoders.questions import read_questions, tokenize_questions
from hyper_meta.encoders.tokenizer import train_tokenizer
from hyper_meta.eval.calibration import Calibration
from hyper_meta.methods.guide_store import save_guides
from hyper_meta.methods.registry import GUIDES
from hyper_meta.methods.trust import Trust, words_of
from hyper_meta.preparation.prepare import open_encoders

CONFIG = Path(hyper_meta.__file__).parents[1] / "configs" / "digits_vqa.py"
EMBED_DIM, HIDDEN_DIM, LATENT_DIM = 12, 5, 6
TOKEN_DIM = 8  # of the text tower
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
    """The settings of a run with a network, a generator and guides as small as they can be."""
    config = execute_file(CONFIG)
    config.update(seed=3, num_seeds=1, encoder=str(encoder))
    config.network.update(hidden_dim=HIDDEN_DIM, blend=BLEND)
    config.hnet.update(latent_dim=LATENT_DIM, hidden_dims=(7, 8))
    config.hvae.update(latent_dim=LATENT_DIM, hidden_dims=(7, 8))
    config.conditional.hidden_dims = config.film.hidden_dims = (6,)
    config.hyperclip.hidden_dims = (8, 8)
    config.hyperclip.guidance.update(steps=(2, 3), learning_rates=(100.0,), pull=(0.1,))
    config.hyperldm.update(hidden_dim=8, num_blocks=1, diffusion_steps=20, sampling_steps=3)
    config.hyperldm.num_samples = 4
    config.hyperldm_tokens.update({**config.hyperldm, "condition": "tokens"})
    config.reader.update(width=4, num_blocks=1, num_heads=2)
    for section in ("conditional_tokens", "generators", "distilled", "language"):
        config[section].update(latent_dim=LATENT_DIM, hidden_dims=(7, 8))
    config.generators.num_members = 3
    config.film_tokens.hidden_dims = (6,)
    config.noisy_hyperclip.update(hidden_dims=(8,), embed_dim=4, batch_size=3)
    return read_settings(config)


def random_like(shapes, *, seed=0, scale=0.3):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), shapes)


def make_encoder(folder: Path, *, seed=0) -> Path:
    """A random CLIP of EMBED_DIM dimensions for images of 8 x 8 pixels."""
    tokenizer = train_tokenizer(list(TEMPLATES) * 2, vocab_size=514, max_length=32)
    tower = TowerConfig(
        hidden_size=TOKEN_DIM,
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


def random_model(shapes):
    """Random arrays of these shapes; deviations are positive, as measured ones are."""

    def positive(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-1]
        if name in ("std", "latent_std", "weight_std", "scale"):
            return np.abs(leaf) + np.float32(0.5)
        return {"clip": np.float32(3), "e0": np.full_like(leaf, 2)}.get(name, leaf)

    random = random_like(shapes, seed=2)
    random = jax.tree.map(lambda leaf, shape: leaf.astype(shape.dtype), random, shapes)
    return jax.tree_util.tree_map_with_path(positive, random)


def make_run(folder: Path, sentence_encoder: Path | None = None) -> Path:
    """What a finished run leaves for generating: config.json and the guides of its first seed,
    which are random; its encoder is beside it. HyperLDM in HNet's space is the best.

    sentence_encoder: the folder of the one that reads its questions, None for the encoder's own
    text tower.
    """
    config = make_config(make_encoder(folder / "encoder", seed=2))
    if sentence_encoder is not None:
        config = changed(config, {"question_encoder": str(sentence_encoder)})
    network = make_adapter(EMBED_DIM, HIDDEN_DIM, BLEND)
    encoders = open_encoders(config)
    read = functools.partial(read_questions, with_tokens=config.question_tokens)
    read = jax.eval_shape(read, encoders.questions, np.zeros((1, 1), np.int32))
    sentence = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), read)
    guides = {
        name: maker.make(config, network, random_model(maker.shapes(config, network, sentence)))
        for name, maker in GUIDES.items()
    }
    workdir, best = folder / "run", guides["hnet_hyperldm"]
    best = dataclasses.replace(best, settings={"chosen": SCALE})
    guides["hnet_hyperldm"] = best
    save_guides(
        workdir / "seed_3",
        list(guides.values()),
        chosen={name: next(iter(guide.settings)) for name, guide in guides.items()},
        trusts={name: make_trust(float(name == best.name)) for name in guides},
        images=np.random.default_rng(4).normal(size=(7, EMBED_DIM)).astype(np.float32),
        templates=TEMPLATES,
        sentences=read_sentences(config, encoders.questions).pooled,
        notes={
            "encoder": encoders.images.fingerprint,
            "question_encoder": encoders.questions.fingerprint,
            "answers": KNOWN,
        },
    )
    write_settings(config, workdir)
    return workdir


def read_sentences(config, encoder):
    """The features of the training sentences."""
    token_ids = tokenize_questions(encoder, list(TEMPLATES))
    return jax.device_get(read_questions(encoder, token_ids, with_tokens=config.question_tokens))


def make_trust(mean):
    """That of a guide with this accuracy on validation tasks."""
    calibration = Calibration(
        mean=(0.5, 0.3, 0.9, 0.8, 0.0),
        std=(0.2, 0.1, 0.1, 0.1, 1.0),
        coefficients=(0.02, -0.01, 0.005, 0.003, 0.0),
        centre=0.8,
        penalty=0.1,
        deviation=0.125,
    )
    words = words_of([*TEMPLATES, "Which colour does the seven have?"])
    return Trust(calibration, mean, 0.5, "hnet_multitask", tuple(sorted(words)), len(TEMPLATES))


def make_images(folder: Path, num: int) -> list[Path]:
    """Random pictures of different sizes, PNG and JPEG in turn."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(num):
        pixels = rng.integers(256, size=(9 + number, 20, 3), dtype=np.uint8)
        paths.append(folder / f"scene{number}.{('png', 'jpg')[number % 2]}")
        Image.fromarray(pixels).save(paths[-1])
    return paths
