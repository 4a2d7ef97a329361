"""A work directory as the stages leave it, with random scores of a small made-up data set."""

import io

import numpy as np
import pytest

from hyper_meta.data.tasks import Task
from hyper_meta.eval import metrics
from hyper_meta.files import write_bytes, write_json

SCALES = (0.0, 1.0, 1.5, 4.0)
CHANCE = {  # of a right answer
    metrics.MAJORITY: 0.3,
    metrics.CLIP: 0.4,
    metrics.UNADAPTED: 0.45,
    metrics.MEAN_LATENT: 0.46,
    metrics.NEAREST: 0.55,
    metrics.CONDITIONAL: 0.6,
    metrics.ADAPTED: 0.8,
    **{metrics.scale_name(scale): 0.3 + 0.1 * scale for scale in SCALES},
    **{metrics.one_sample(metrics.scale_name(scale)): 0.25 + 0.1 * scale for scale in SCALES},
}
SIZES = {"train": 30, "validation": 12, "test": 20}
FAMILIES = ("colour", "count", "place", "size")
LATENT_DIM = 5


def make_tasks(split):
    """Tasks in turn of each family, and of a group that all families have."""
    groups = ("train",) if split == "train" else ("composition", "paraphrase")
    return [
        Task(
            sentence=f"What is the {FAMILIES[row % 4]} of thing {row}?",
            answers=("red", "green", "blue"),
            template="it is {}",
            family=FAMILIES[row % 4],
            group=groups[row // 4 % len(groups)],
            support=((f"{split}/s{row}", 0),),
            query=tuple((f"{split}/q{row}_{n}", n % 3) for n in range(4 + row % 7)),
        )
        for row in range(SIZES[split])
    ]


def make_scores(rng, tasks, chance):
    count = np.array([len(task.query) for task in tasks])
    return {
        name: {"correct": rng.binomial(count, p).tolist(), "count": count.tolist()}
        for name, p in chance.items()
    }


def leave_seed(folder, tasks, *, seed, scale, chance):
    """Writes what the stages of one seed leave."""
    rng = np.random.default_rng(seed)
    splits = {split: make_scores(rng, tasks[split], chance) for split in ("validation", "test")}
    write_json(folder / "scores.json", {"chosen_scale": scale, "splits": splits})
    for stage in ("generator", "conditional", "hyperldm"):
        rows = [
            {"step": 10 * n, "loss": 1 / n, "validation_score": float(rng.uniform())}
            for n in range(1, 5)
        ]
        curve = {"evaluated": f"parameters of {stage}", "history": rows}
        write_json(folder / "curves" / f"{stage}.json", curve)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        adapted=rng.normal(size=(SIZES["train"], LATENT_DIM)).astype(np.float32),
        latents=rng.normal(size=(SIZES["test"], LATENT_DIM)).astype(np.float32),
        answers=rng.integers(3, size=(SIZES["test"], 4)),
    )
    write_bytes(folder / "shown.npz", buffer.getvalue())


@pytest.fixture(scope="session")
def tasks():
    return {split: make_tasks(split) for split in SIZES}


@pytest.fixture(scope="session")
def make_workdir(tasks):
    """(path, scale chosen by each seed, chance of a right answer) -> folders of the seeds."""

    def make(workdir, *, scales=(1.5, 4.0, 1.5), chance=CHANCE):
        write_json(workdir / "config.json", {"dataset": "toy", "hyperldm": {"num_steps": 3}})
        folders = [workdir / f"seed_{number}" for number in range(len(scales))]
        for number, (folder, scale) in enumerate(zip(folders, scales, strict=True)):
            leave_seed(folder, tasks, seed=number, scale=scale, chance=chance)
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
