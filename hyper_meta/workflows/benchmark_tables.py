"""Task tables of the benchmark: Meta-VQA where it is there, else random tasks of its sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hyper_meta.core.settings import BenchmarkSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.data import precomputed
from hyper_meta.data.features import Features
from hyper_meta.data.table import TaskTable, build_table
from hyper_meta.data.tasks import Task

# (support, query, answers) of every 30th of Meta-VQA's 870 training tasks, in order of size.
SIZES = (
    *((15, 6, 4), (15, 7, 5), (16, 7, 4), (16, 8, 6), (17, 8, 8), (18, 9, 4), (19, 9, 4)),
    *((20, 9, 5), (20, 11, 9), (22, 10, 7), (24, 9, 9), (25, 10, 7), (26, 11, 6), (27, 12, 10)),
    *((29, 13, 8), (33, 13, 12), (35, 15, 5), (37, 17, 8), (40, 19, 6), (46, 20, 5), (49, 24, 8)),
    *((58, 24, 9), (66, 29, 12), (78, 36, 11), (91, 40, 7), (111, 48, 15), (139, 60, 12)),
    *((204, 88, 19), (359, 163, 56)),
)
EMBED_DIM, NUM_IMAGES, NUM_TASKS, NUM_TEST = 384, 64_665, 870, 373


def load_tables(config: BenchmarkSettings) -> tuple[dict[str, TaskTable], str]:
    """{"train" | "test": table} and where they come from: the precomputed features of
    config.data_dir, or, where there is no such folder, random ones for tasks of the same sizes, or
    for config.more of them."""
    folder = Path(config.data_dir).expanduser()
    more_tasks, more_answers = config.more.tasks, config.more.answers
    if folder.exists() and more_tasks == more_answers == 1:
        tasks, features = precomputed.load(
            folder, validation_share=config.validation_share, seed=config.seed
        )
        tasks["train"] += tasks.pop("validation")
        return {name: build_table(part, features) for name, part in tasks.items()}, str(folder)
    rng = np.random.default_rng(config.seed)
    images = rng.normal(size=(NUM_IMAGES, EMBED_DIM)).astype(np.float32)
    tables = {"train": NUM_TASKS, "test": NUM_TEST}
    return {
        name: _random_table(rng, images, number * more_tasks, more_answers)
        for name, number in tables.items()
    }, f"random tasks of Meta-VQA's sizes, {more_tasks} x as many, {more_answers} x as many answers"


def _random_table(
    rng: np.random.Generator, images: np.ndarray, number: int, more_answers: int
) -> TaskTable:
    tasks: list[Task] = []
    for row in range(number):
        support, query, answers = SIZES[row % len(SIZES)]
        answers *= more_answers
        parts = [
            tuple((str(rng.integers(len(images))), int(rng.integers(answers))) for _ in range(size))
            for size in (support, query)
        ]
        names = tuple(map(str, range(answers)))
        tasks.append(Task(f"question {row}", names, f"answer {row} {{}}", "", "", *parts))
    questions = tuple(task.sentence for task in tasks)
    prompts = tuple(prompt for task in tasks for prompt in task.prompts())
    pooled, prompt_features = (
        rng.normal(size=(len(names), EMBED_DIM)).astype(np.float32)
        for names in (questions, prompts)
    )
    features = Features(
        image_ids=tuple(map(str, range(len(images)))),
        image_features=images,
        questions=questions,
        question_features=SentenceFeatures(pooled),
        prompts=prompts,
        prompt_features=prompt_features,
    )
    return build_table(tasks, features)
