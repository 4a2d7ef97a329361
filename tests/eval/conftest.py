"""A work directory as the stages leave it."""

import numpy as np
import pytest
from toy_scores import HYPERCLIP, HYPERLDM, ROWS, SIZES, leave_seed, make_tasks

from hyper_meta.core.configuration import FORMAT
from hyper_meta.core.files import write_json


@pytest.fixture(scope="session")
def tasks():
    groups = ("composition", "paraphrase")
    return {split: make_tasks(split, groups if split == "test" else (split,)) for split in SIZES}


@pytest.fixture(scope="session")
def plain_tasks():
    """One group in each split."""
    return {split: make_tasks(split, (split,)) for split in SIZES}


@pytest.fixture(scope="session")
def make_workdir(tasks):
    """(path, guidance scale chosen by each seed, rows) -> folders of the seeds."""

    def make(workdir, *, scales=("1.5", "15", "1.5"), rows=ROWS):
        write_json(
            workdir / "config.json",
            {"format": FORMAT, "dataset": "toy", "hyperldm": {"num_steps": 3}},
        )
        folders = [workdir / f"seed_{number}" for number in range(len(scales))]
        for number, (folder, scale) in enumerate(zip(folders, scales, strict=True)):
            chosen = {HYPERLDM: scale, HYPERCLIP: ("10", "100")[number % 2]}
            leave_seed(folder, tasks, seed=number, chosen=chosen, rows=rows)
        return folders

    return make


@pytest.fixture(scope="session")
def images():
    """ids -> {id: an image of its own}, like the one that the pipeline gives."""

    def load(ids):
        return {
            name: np.random.default_rng(sum(name.encode())).integers(
                256, size=(8, 8, 3), dtype=np.uint8
            )
            for name in ids
        }

    return load
