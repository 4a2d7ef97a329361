"""Small tasks that an adapter can learn, with the full run's config at their size."""

from pathlib import Path

import numpy as np

import hyper_meta
from hyper_meta.core.configuration import execute_file
from hyper_meta.core.settings import changed, read_settings
from hyper_meta.core.types import Examples, SentenceFeatures, TaskBatch
from hyper_meta.data.table import TaskTable
from hyper_meta.models.sentences import take

REPOSITORY = Path(hyper_meta.__file__).parents[1]
DIM, NUM_TASKS = 6, 11


def tiny_config(values=()):
    """The full run's settings at the size of `tiny_table`, with a single learning rate; and with
    other values at dotted names."""
    config = execute_file(REPOSITORY / "configs" / "digits_vqa.py")
    config.network.hidden_dim = 8
    config.batching.update(num_layouts=2, num_groups=2, num_shapes=2)
    config.batching.update(max_support=6, max_query=5, max_examples=40)
    config.batching.feature_noise = 0.0
    shared = {"learning_rates": (0.02,), "batch_size": 8, "num_steps": 30, "chunk_steps": 15}
    for section in ("hnet", "mnet", "conditional", "film"):
        config[section].update(ema_decay=0.0, patience=0)
    inner = {"inner_steps": 2, "inner_learning_rate": 0.02}
    config.hnet.update(latent_dim=4, hidden_dims=(8,), **inner, **shared)
    config.mnet.update(**inner, **shared)
    config.conditional.update(hidden_dims=(8,), **inner, **shared)
    config.film.update(hidden_dims=(8,), **shared)
    config.reader.update(width=8, num_blocks=1, num_heads=2)
    for section in ("conditional_tokens", "generators", "distilled", "language"):
        config[section].update(latent_dim=4, hidden_dims=(8,), patience=0, **inner, **shared)
    config.generators.num_members = 2
    config.film_tokens.update(hidden_dims=(8,), **shared)
    config.tuned.update(patience=0, **shared)
    config.noisy_hyperclip.update(hidden_dims=(8,), embed_dim=4, batch_size=8, num_steps=30)
    config.noisy_hyperclip.update(chunk_steps=15, guidance_scales=(0.5, 1.0))
    adaptation = {"repeats": 3, "num_steps": 4, "learning_rates": (0.05,)}
    config.latents.update(pull=0.1, **adaptation)
    config.hvae.weights.update(adaptation)
    config.hvae.update(latent_dim=4, hidden_dims=(8,), batch_size=8, num_steps=30, chunk_steps=15)
    config.hyperclip.update(hidden_dims=(8,), batch_size=8, num_steps=30, chunk_steps=15)
    config.hyperldm.update(hidden_dim=32, num_blocks=1, diffusion_steps=20, sampling_steps=4)
    config.hyperldm.update(batch_size=32, num_steps=400, chunk_steps=200, num_samples=2)
    config.hyperldm_tokens.update({**config.hyperldm, "condition": "tokens"})
    config.evaluate.guidance_scales = (0.5, 1.0)
    return changed(read_settings(config), dict(values))


def tiny_table(seed=0) -> TaskTable:
    """Tasks that an adapter can learn: an image is its answer, turned the same way in all tasks."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, DIM)))[0]
    support, query, answers = rng.integers([[3], [2], [2]], [[9], [7], [5]], (3, NUM_TASKS))
    answer_offset, item_offset = (np.cumsum(n) - n for n in (answers, support + query))
    answer_features = rng.normal(size=(answers.sum(), DIM))
    task_of_item = np.repeat(np.arange(NUM_TASKS), support + query)
    label = rng.integers(answers[task_of_item])
    noise = 0.3 * rng.normal(size=(len(label), DIM))
    images = answer_features[answer_offset[task_of_item] + label] @ turn + noise
    return TaskTable(
        image_features=images.astype(np.float32),
        questions=SentenceFeatures(rng.normal(size=(NUM_TASKS, DIM)).astype(np.float32)),
        answer_features=answer_features.astype(np.float32),
        item_image=np.arange(len(label), dtype=np.int32),
        item_label=label.astype(np.int32),
        item_offset=item_offset.astype(np.int32),
        support_size=support.astype(np.int32),
        query_size=query.astype(np.int32),
        answer_offset=answer_offset.astype(np.int32),
        answer_count=answers.astype(np.int32),
    )


def whole_task(table, number) -> TaskBatch:
    """One task of the table, unpadded and without the axis T."""
    start, support, query, first, answers = (
        int(getattr(table, name)[number])
        for name in ("item_offset", "support_size", "query_size", "answer_offset", "answer_count")
    )

    def examples(start, size):
        rows = slice(start, start + size)
        return Examples(table.image_features[rows], table.item_label[rows], np.ones(size, bool))

    return TaskBatch(
        question=take(table.questions, number),
        answers=table.answer_features[first : first + answers],
        answer_mask=np.ones(answers, bool),
        support=examples(start, support),
        query=examples(start + support, query),
        mask=np.ones((), bool),
    )
