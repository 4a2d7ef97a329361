"""Random scores of a small made-up data set, and what else the stages of a seed leave."""

import io

import numpy as np

from hyper_meta.core.files import write_bytes, write_json
from hyper_meta.data.tasks import Task
from hyper_meta.eval.novelty import COMPARED, NETWORKS
from hyper_meta.eval.rows import CLIP, MULTITASK, NEAREST
from hyper_meta.eval.seeds import SCORES_FORMAT

CONDITIONAL = "conditional"
CONDITIONAL_MAML = "conditional_maml"
HYPERCLIP = "hnet_hyperclip"
HYPERLDM = "hnet_hyperldm"
ADAPTED = "hnet_maml.adapted"
TITLES = {
    "majority": "most common answer",
    CLIP: "CLIP as base model",
    ADAPTED: "HNet-MAML, adapted",
    MULTITASK: "HNet, multitask",
    "hnet_maml": "HNet-MAML",
    # None begins with "conditional", by which they were known once.
    CONDITIONAL: "a hypernetwork",
    CONDITIONAL_MAML: "an HNet-MAML of questions",
    HYPERCLIP: "HNet + HyperCLIP",
    HYPERLDM: "HNet + HyperLDM",
    NEAREST: "latent of the nearest training sentence",
    "noise": "question replaced by noise",
}
SCALES = ("0", "1", "1.5", "15")
# (id, kind, varies, {setting: chance of a right answer}), kinds out of order.
ROWS = (
    ("majority", "reference", None, {"": 0.3}),
    (CLIP, "reference", None, {"": 0.4}),
    (ADAPTED, "few-shot", "inner steps and learning rate", {"1, 0.1": 0.7, "50, 0.1": 0.9}),
    (MULTITASK, "unconditional", None, {"": 0.45}),
    ("hnet_maml", "unconditional", None, {"": 0.4}),
    (CONDITIONAL, "language", None, {"": 0.5}),
    (CONDITIONAL_MAML, "language", None, {"": 0.65}),
    (HYPERCLIP, "language", "steps", {"10": 0.4, "100": 0.35}),
    (HYPERLDM, "language", "guidance scale", dict(zip(SCALES, (0.3, 0.6, 0.8, 0.75), strict=True))),
    (NEAREST, "control", None, {"": 0.55}),
    ("noise", "control", None, {"": 0.4}),
)
CURVES = (HYPERLDM,)
STARTS = {MULTITASK: (0.45, 0.5, 0.7), HYPERLDM: (0.7, 0.72, 0.8)}
SHOTS = ("10", "0", "1")  # not in the order of the axis
SIZES = {"train": 30, "validation": 12, "test": 20}
FAMILIES = ("colour", "count", "place", "size")
LATENT_DIM = 5


def make_tasks(split, groups):
    """Tasks in turn of each family, and of a group that all families have. Of a family and group,
    the first two tasks ask for one concept."""
    return [
        Task(
            sentence=f"What is the {FAMILIES[row % 4]} of thing {row}?",
            answers=("red", "green", "blue"),
            template="it is {}",
            family=FAMILIES[row % 4],
            group=groups[row // 4 % len(groups)],
            support=((f"{split}/s{row}", 0),),
            query=tuple((f"{split}/q{row}_{n}", n % 3) for n in range(4 + row % 7)),
            concept=f"{FAMILIES[row % 4]}/{groups[row // 4 % len(groups)]} {row // 16}",
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
    saved["format"] = SCORES_FORMAT
    for name, kind, varies, settings in rows:
        choice = chosen.get(name, next(iter(settings)))
        record = {"id": name, "title": TITLES[name], "kind": kind, "varies": varies}
        record["maps_question_directly"] = name in (CONDITIONAL, CONDITIONAL_MAML)
        saved["rows"].append(record | {"chosen": choice})
        for split in ("validation", "test"):
            saved[split][name] = {
                setting: make_scores(rng, tasks[split], chance)
                for setting, chance in settings.items()
                if split == "validation" or name in CURVES or setting == choice
            }
    for start, chances in STARTS.items():
        if start not in saved["test"]:
            continue
        saved["shots"][start] = {
            k: {"chosen": f"{k} steps", **make_scores(rng, tasks["test"], chance)}
            for k, chance in zip(SHOTS, chances, strict=True)
        }
    return saved


def make_novelty(rng, tasks, names):
    """novelty.json of the named guides."""

    def record():
        count = np.array([len(task.query) for task in tasks])
        shares = {
            name: {part: rng.uniform(size=len(tasks)).tolist() for part in COMPARED}
            for name in ("overlap", "agreement")
        }
        return shares | {
            "count": count.tolist(),
            "correct": {name: rng.binomial(count, 0.5).tolist() for name in NETWORKS},
            "distance": rng.uniform(0.1, 2, size=len(tasks)).tolist(),
            "between": rng.uniform(),
        }

    return {name: record() for name in names}


def make_trust(rng, tasks, names):
    """What the report reads of trust.json, of the named guides."""

    def record():
        warned = {name: rng.uniform(size=len(tasks)) < 0.5 for name in ("near", "unseen")}
        for values in warned.values():  # in each group some are, and some are not
            values[:8] = np.arange(8) % 2
        expected = {"expected": rng.uniform(size=len(tasks)).tolist()}
        return expected | {name: values.tolist() for name, values in warned.items()}

    return {name: record() for name in names}


def leave_seed(folder, tasks, *, seed, chosen, rows):
    """Writes what the stages of one seed leave."""
    rng = np.random.default_rng(seed)
    guides = [row[0] for row in rows if row[0] in (HYPERLDM, CONDITIONAL)]
    novelty = make_novelty(np.random.default_rng(seed), tasks["test"], guides)
    write_json(folder / "novelty.json", novelty)
    trust = make_trust(np.random.default_rng(seed), tasks["test"], guides)
    write_json(folder / "trust.json", trust)
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
