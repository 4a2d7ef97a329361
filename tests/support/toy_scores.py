"""Random scores of a small made-up data set, and what else the stages of a seed leave."""

import io

import numpy as np

from hyper_meta.core.files import write_bytes, write_json
from hyper_meta.data.tasks import Task
from hyper_meta.eval import metrics

CONDITIONAL = "conditional hypernetwork"
CONDITIONAL_MAML = "conditional HNet-MAML"
HYPERCLIP = "HNet + HyperCLIP"
HYPERLDM = "HNet + HyperLDM"
NOISE = "question replaced by noise"
ADAPTED = "HNet-MAML, adapted"
SCALES = ("0", "1", "1.5", "15")
# (title, kind, varies, {setting: chance of a right answer}), kinds out of order.
ROWS = (
    (metrics.MAJORITY, "reference", None, {"": 0.3}),
    (metrics.CLIP, "reference", None, {"": 0.4}),
    (ADAPTED, "few-shot", "inner steps and learning rate", {"1, 0.1": 0.7, "50, 0.1": 0.9}),
    (metrics.MULTITASK, "unconditional", None, {"": 0.45}),
    (metrics.MAML, "unconditional", None, {"": 0.4}),
    (CONDITIONAL, "language", None, {"": 0.5}),
    (CONDITIONAL_MAML, "language", None, {"": 0.65}),
    (HYPERCLIP, "language", "steps", {"10": 0.4, "100": 0.35}),
    (HYPERLDM, "language", "guidance scale", dict(zip(SCALES, (0.3, 0.6, 0.8, 0.75), strict=True))),
    (metrics.NEAREST, "control", None, {"": 0.55}),
    (NOISE, "control", None, {"": 0.4}),
)
CURVES = (HYPERLDM,)
STARTS = {metrics.MULTITASK: (0.45, 0.5, 0.7), HYPERLDM: (0.7, 0.72, 0.8)}
SHOTS = ("10", "0", "1")  # not in the order of the axis
SIZES = {"train": 30, "validation": 12, "test": 20}
FAMILIES = ("colour", "count", "place", "size")
LATENT_DIM = 5


def make_tasks(split, groups):
    """Tasks in turn of each family, and of a group that all families have."""
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
    return {"correct": (rng.binomial(3 * count, chance) / 3).tolist(), "count": count.tolist()}


def make_saved(rng, tasks, chosen, rows):
    """scores.json: every setting on validation tasks, the chosen one or a curve on test tasks."""
    choices = {"hnet_latents": {"learning_rate": 10.0, "of": [1.0, 10.0]}}
    saved = {"rows": [], "validation": {}, "test": {}, "shots": {}, "choices": choices}
    for title, kind, varies, settings in rows:
        choice = chosen.get(title, next(iter(settings)))
        saved["rows"].append({"title": title, "kind": kind, "varies": varies, "chosen": choice})
        for split in ("validation", "test"):
            saved[split][title] = {
                setting: make_scores(rng, tasks[split], chance)
                for setting, chance in settings.items()
                if split == "validation" or title in CURVES or setting == choice
            }
    for start, chances in STARTS.items():
        saved["shots"][start] = {
            k: {"chosen": f"{k} steps", **make_scores(rng, tasks["test"], chance)}
            for k, chance in zip(SHOTS, chances, strict=True)
        }
    return saved


def leave_seed(folder, tasks, *, seed, chosen, rows):
    """Writes what the stages of one seed leave."""
    rng = np.random.default_rng(seed)
    write_json(folder / "scores.json", make_saved(rng, tasks, chosen, rows))
    for stage in ("hnet", "conditional", "film", "hyperclip", "hyperldm"):
        history = [{"step": 10 * n, "loss": 1 / n} for n in range(1, 5)]
        if stage != "film":
            history = [{**row, "validation_score": float(rng.uniform())} for row in history]
        curve = {"evaluated": f"parameters of {stage}", "history": history}
        write_json(folder / "curves" / f"{stage}.json", curve)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        adapted=rng.normal(size=(SIZES["train"], LATENT_DIM)).astype(np.float32),
        latents=rng.normal(size=(SIZES["test"], LATENT_DIM)).astype(np.float32),
        answers=rng.integers(3, size=(SIZES["test"], 4)),
    )
    write_bytes(folder / "shown.npz", buffer.getvalue())
