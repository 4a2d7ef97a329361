"""The pipeline: data and features, generator, latents, conditional, hyperldm, evaluate, report.

Every stage leaves its result in the work directory and is only restored when it is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from hyper_meta import parallel
from hyper_meta.data import datasets
from hyper_meta.data.features import Features, cached_features
from hyper_meta.data.tasks import DataSet, Task, TaskTable, build_table
from hyper_meta.diffusion.noise import PREDICTIONS
from hyper_meta.encoders.folder import (
    Encoder,
    bundled_encoder_path,
    encode_images,
    encode_texts,
    load_encoder,
    preprocess,
    tokenize,
)
from hyper_meta.eval.report import write_report
from hyper_meta.evaluation import evaluate
from hyper_meta.files import flatten, read_json, write_json
from hyper_meta.models.denoiser import DENOISERS
from hyper_meta.train import checkpoints
from hyper_meta.train.hyperldm import hyperldm_stage
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages import (
    OBJECTIVES,
    adapt_all_tasks,
    conditional_stage,
    generator_stage,
)
from hyper_meta.train.state import evaluation_params
from hyper_meta.types import UserError

STAGES = ("generator", "latents", "conditional", "hyperldm", "evaluate", "report")
ENCODING_BATCH = 256
# The settings that are names, and what may be named.
CHOICES = {
    "dataset": datasets.BUILDERS,
    "generator.objective": OBJECTIVES,
    "hyperldm.denoiser": DENOISERS,
    "hyperldm.prediction": PREDICTIONS,
}
# What may differ between the config of a work directory and that of a command on it.
FREE_KEYS = ("data_dir", "num_seeds")


def run(config: ConfigDict, workdir: Path, *, until: str) -> None:
    """Runs the pipeline up to and including a stage of STAGES, going on where it was left.

    Raises UserError for a setting that names nothing known, a work directory of another config, and
    whatever the stages raise.
    """
    check_choices(config)
    claim(config, workdir)
    data = load_data(config)
    last = STAGES.index(until)
    for seed in range(config.seed, config.seed + config.num_seeds):
        seeded = config.copy_and_resolve_references()
        seeded.seed = seed
        run_seed(seeded, seed_dir(workdir, seed), data, last)
    if last >= STAGES.index("report"):
        folders = [seed_dir(workdir, config.seed + n) for n in range(config.num_seeds)]
        write_report(
            workdir,
            folders,
            data.tasks,
            images=lambda ids: images_of(config, ids),
            num_resamples=config.evaluate.num_resamples,
        )


def seed_dir(workdir: Path, seed: int) -> Path:
    """Where the stages of one seed are kept."""
    return workdir / f"seed_{seed}"


def run_seed(config: ConfigDict, folder: Path, data: DataSet, last: int) -> None:
    """The stages of one seed, up to the one with index `last` in STAGES."""
    train, validation = data.tables["train"], data.tables["validation"]
    generator = train_stage(config, generator_stage(config, train, validation), folder)
    if last < STAGES.index("latents"):
        return
    latents = latent_data_set(config, folder / "latents", generator["params"], train)
    if last < STAGES.index("conditional"):
        return
    conditional = train_stage(config, conditional_stage(config, train, validation), folder)
    if last < STAGES.index("hyperldm"):
        return
    stage = hyperldm_stage(config, latents, train, validation, generator["params"])
    hyperldm = train_stage(config, stage, folder)
    evaluated = (folder / "scores.json").exists() and (folder / "model").exists()
    if last < STAGES.index("evaluate") or evaluated:
        return
    evaluate(
        config,
        folder,
        data,
        generator=generator["params"],
        conditional=conditional["params"],
        hyperldm=hyperldm,
        adapted=latents.mean(axis=1),
    )


def check_choices(config: ConfigDict) -> None:
    """Raises UserError where a setting that is the name of something is not a known one."""
    values = flatten(config.to_dict())
    for name, known in CHOICES.items():
        value = values.get(name)
        if value not in known:
            raise UserError(f"{name}={value!r} given, one of {sorted(known)} is expected")


def claim(config: ConfigDict, workdir: Path) -> None:
    """Makes a work directory this config's own, or checks that it is.

    Raises UserError where it belongs to another config, naming what differs.
    """
    path = workdir / "config.json"
    ours = json.loads(config.to_json())
    if not path.exists():
        if workdir.exists() and any(workdir.iterdir()):
            raise UserError(f"{workdir} is not empty and holds no run: choose another --workdir")
        write_json(path, ours)
        return
    mine, theirs = flatten(ours), flatten(read_json(path))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and key not in FREE_KEYS:
            raise UserError(
                f"{workdir} holds a run with {key}={theirs.get(key)}, this command has "
                f"{key}={mine.get(key)}: choose another --workdir or the same configuration"
            )
    write_json(path, ours)


def load_data(config: ConfigDict) -> DataSet:
    """Builds or reads the data set and its features, and joins them in one table a split."""
    data_dir = Path(config.data_dir).expanduser()
    encoder = load_encoder(encoder_path(config.encoder))
    datasets.prepare(config.dataset, data_dir)
    tasks = datasets.load_tasks(config.dataset, data_dir)
    source = {
        "dataset": datasets.fingerprint(config.dataset, data_dir),
        "encoder": encoder.fingerprint,
    }
    folder = data_dir / "features" / f"{config.dataset}-{encoder.fingerprint[:12]}"
    features = cached_features(
        folder, source, lambda: compute_features(encoder, config.dataset, data_dir, tasks)
    )
    tables = {
        split: build_table(
            split_tasks,
            image_ids=features.image_ids,
            image_features=features.image_features,
            sentences=features.sentences,
            sentence_features=features.sentence_features,
        )
        for split, split_tasks in tasks.items()
    }
    return DataSet(tasks, tables, source)


def encoder_path(name: str) -> Path:
    """The folder of an encoder as a config names it: "bundled", or the folder itself."""
    return bundled_encoder_path() if name == "bundled" else Path(name).expanduser()


def compute_features(
    encoder: Encoder, dataset: str, data_dir: Path, tasks: dict[str, list[Task]]
) -> Features:
    """Encodes every image and sentence of a data set on all devices."""
    ids, images = zip(*datasets.iterate_images(dataset, data_dir), strict=True)
    everyone = [task for split in tasks.values() for task in split]
    sentences = sorted({s for task in everyone for s in (task.sentence, *task.prompts())})
    tokens = tokenize(encoder, sentences)
    return Features(
        image_ids=ids,
        image_features=encode_all(
            encoder, encode_images, images, lambda part: preprocess(encoder, part), "images"
        ),
        sentences=tuple(sentences),
        sentence_features=encode_all(encoder, encode_texts, tokens, np.asarray, "sentences"),
    )


def encode_all(encoder: Encoder, encode: Any, inputs: Any, prepare: Any, name: str) -> np.ndarray:
    """encode(encoder, prepare(inputs)) in batches of one fixed size: [n, D] float32."""
    run = parallel.compile_map(lambda encoder, _, batch: encode(encoder, batch))
    replicated = parallel.replicate(encoder)
    size = ENCODING_BATCH * jax.local_device_count()
    parts = []
    for start in tqdm(range(0, len(inputs), size), desc=f"encoding {name}", unit="batch"):
        batch = prepare(inputs[start : start + size])
        padded = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), axis=0)])
        parts.append(run(replicated, None, padded)[: len(batch)])
    return np.concatenate(parts)


def images_of(config: ConfigDict, ids: set[str]) -> dict[str, np.ndarray]:
    """The images [H, W, 3] uint8 of some ids."""
    images = datasets.iterate_images(config.dataset, Path(config.data_dir).expanduser())
    return {name: image for name, image in images if name in ids}


def train_stage(config: ConfigDict, stage: Any, folder: Path) -> dict[str, Any]:
    """Trains a stage or restores it: {"params": for evaluation, "statistics"}, numpy leaves."""
    state, history = run_stage(
        stage,
        folder / stage.name,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        progress=True,
    )
    params, chosen = evaluation_params(state)
    curve = {"evaluated": chosen, "history": history}
    write_json(folder / "curves" / f"{stage.name}.json", curve)
    return {"params": params, "statistics": state.statistics}


def latent_data_set(
    config: ConfigDict, folder: Path, generator_params: Any, train: TaskTable
) -> np.ndarray:
    """The latents [T, R, Z] of the training tasks, computed once."""
    shape = (len(train.answer_count), config.latents.repeats, config.generator.latent_dim)
    if folder.exists():
        expected = {"latents": jax.ShapeDtypeStruct(shape, np.float32)}
        return checkpoints.restore_tree(folder, expected)[0]["latents"]
    latents = adapt_all_tasks(config, generator_params, train)
    checkpoints.save_tree(folder, {"latents": latents}, notes={})
    return latents
