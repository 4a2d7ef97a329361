"""A setup of small random tasks, with the full run's config at their size."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from toy_features import split_features

import hyper_meta
from hyper_meta.core.configuration import execute_file
from hyper_meta.core.settings import read_settings
from hyper_meta.data.table import build_table
from hyper_meta.data.tasks import Task
from hyper_meta.methods.interface import Setup

REPOSITORY = Path(hyper_meta.__file__).parents[1]
DIM, LATENT = 5, 4
NUM_TASKS = {"train": 9, "validation": 4, "test": 5}


def tiny_config():
    config = execute_file(REPOSITORY / "configs" / "digits_vqa.py")
    config.network.hidden_dim = 3
    config.batching.update(num_layouts=1, num_shapes=1)
    config.batching.update(max_support=6, max_query=5, max_examples=1000)
    steps = {"num_steps": 2, "chunk_steps": 2, "batch_size": 4}
    for section in ("hnet", "mnet", "conditional", "film", "hvae", "hyperclip", "hyperldm"):
        config[section].update(steps)
    language = ("conditional_tokens", "generators", "distilled", "language")
    for section in (*language, "film_tokens"):
        config[section].update(steps, patience=0)
    config.tuned.update(steps, patience=0)
    config.noisy_hyperclip.update(steps, hidden_dims=(6,), embed_dim=4, num_samples=3)
    config.noisy_hyperclip.update(ranked=(1, 2), guidance_scales=(0.5, 2.0))
    for section in ("hnet", "mnet", "conditional", *language):
        config[section].update(inner_steps=1, inner_learning_rate=0.1)
    for section in ("hnet", "conditional", "film", "hvae", "hyperclip", "film_tokens", *language):
        config[section].hidden_dims = (6,)
    config.reader.update(width=4, num_blocks=1, num_heads=2)
    for section in language:
        config[section].latent_dim = LATENT
    config.generators.num_members = 2
    config.hnet.latent_dim = config.hvae.latent_dim = LATENT
    config.latents.update(repeats=2, num_steps=2, learning_rates=(1.0, 10.0), nearest="hnet")
    config.hvae.weights.update(repeats=2, num_steps=1, learning_rates=(1.0,))
    config.hyperclip.guidance.optimizer = "sgd"
    config.hyperclip.guidance.update(steps=(1, 3), learning_rates=(0.1,), pull=(0.0, 1.0))
    config.hyperldm.update(hidden_dim=8, num_blocks=1, diffusion_steps=8, sampling_steps=3)
    config.hyperldm.update(num_samples=2, few_shot_guidance=(0.3,))
    config.hyperldm_tokens.update({**config.hyperldm, "condition": "tokens"})
    config.evaluate.update(guidance_scales=(0.5, 2.0), few_shot_steps=(0, 2))
    config.evaluate.shot_steps = (0, 2)
    config.evaluate.update(few_shot_rates=(0.1, 0.5), shots=(1, 2))
    config.evaluate.few_shot_guides = ("hnet_hyperldm", "hvae_hyperldm")
    config.evaluate.control_guides = ("hnet_hyperldm",)
    return config


def make_tasks(split, rng):
    """Tasks of 2 or 3 answers with 2 to 6 examples in each set; every answer is in the support."""
    tasks = []
    for number in range(NUM_TASKS[split]):
        name, num_answers = f"{split} {number}", int(rng.integers(2, 4))
        answers = tuple(f"{name} answer {a}" for a in range(num_answers))
        labels = [*range(num_answers), *rng.integers(num_answers, size=8)]
        items = tuple((f"{name}/{n}", int(label)) for n, label in enumerate(labels))
        cut = num_answers + int(rng.integers(0, 4))
        tasks.append(Task(f"{name}?", answers, "{}", "family", "group", items[:cut], items[cut:]))
    return tasks


def make_setup(folder, config=None, seed=0) -> Setup:
    """Random features in a cone, as CLIP's are, so that 100 cos does not saturate the softmax."""
    rng = np.random.default_rng(seed)
    tasks = {split: make_tasks(split, rng) for split in NUM_TASKS}
    everyone = [task for part in tasks.values() for task in part]
    images = [image for task in everyone for image, _ in (*task.support, *task.query)]
    sentences = [s for task in everyone for s in (task.sentence, *task.prompts())]

    def features(names):
        return (1 + 0.2 * rng.normal(size=(len(names), DIM))).astype(np.float32)

    known = {"image_ids": images, "image_features": features(images)}
    known |= {"sentences": sentences, "sentence_features": features(sentences)}
    parts = {**tasks, "evaluation": [*tasks["validation"], *tasks["test"]]}
    known = split_features(everyone, **known)
    tables = {name: build_table(part, known) for name, part in parts.items()}
    config = tiny_config() if config is None else config
    settings = read_settings(config) if isinstance(config, ConfigDict) else config
    return Setup(settings, Path(folder), tasks, tables)
