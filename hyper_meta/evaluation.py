"""Evaluation of one seed: every method on validation and test tasks, and what the report shows.

Whatever is chosen is chosen on the validation tasks.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from hyper_meta import parallel
from hyper_meta.data.tasks import DataSet, Task, TaskTable
from hyper_meta.diffusion.hyperldm import Statistics, question_cosine
from hyper_meta.eval.metrics import (
    ADAPTED,
    CLIP,
    CONDITIONAL,
    MAJORITY,
    MEAN_LATENT,
    NEAREST,
    UNADAPTED,
    one_sample,
    scale_name,
)
from hyper_meta.files import write_bytes, write_json
from hyper_meta.meta import scoring
from hyper_meta.train import checkpoints
from hyper_meta.train.hyperldm import compile_sampler, sample_tasks, validation_scales
from hyper_meta.train.stages import (
    compile_pass,
    conditional_generate_fn,
    conditional_module,
    generate_fn,
    generator_module,
)

SPLITS = ("validation", "test")
NUM_SHOWN = 4  # query examples of a task, fewer than any task has


def evaluate(
    config: ConfigDict,
    folder: Path,
    data: DataSet,
    *,
    generator: Any,
    conditional: Any,
    hyperldm: dict[str, Any],
    adapted: np.ndarray,
) -> None:
    """Scores all methods and writes scores.json, shown.npz and the model of `generate`.

    generator, conditional: parameters; hyperldm: {"params", "statistics"}; numpy leaves; adapted:
    [T, Z], the mean latent of each training task.
    """
    tasks, tables = data.tasks, data.tables
    scores = {split: {MAJORITY: _majority(tasks[split])} for split in SPLITS}
    for split in SPLITS:
        baselines = _baselines(config, tables["train"], tables[split], generator, conditional)
        scores[split] |= baselines
    latents = {
        split: _sample_scales(config, tables[split].question_features, hyperldm) for split in SPLITS
    }
    for split in SPLITS:
        table = tables[split]
        named = _controls(tables["train"], table, hyperldm["statistics"], adapted)
        for value, samples in latents[split].items():
            named[scale_name(value)] = samples.mean(axis=1, keepdims=True)
            named[one_sample(scale_name(value))] = samples
        scores[split] |= _score_latents(config, table, generator, named)
    scale = max(
        validation_scales(config),
        key=lambda scale: _mean_accuracy(scores["validation"][scale_name(scale)]),
    )
    notes = {
        "guidance_scale": scale,
        "encoder": data.source["encoder"],
        "templates": {task.sentence: task.template for task in tasks["train"]},
        "answers": _answers_by_template(tasks["train"]),
    }
    _save_model(folder, generator, hyperldm, notes)
    generated = latents["test"][scale].mean(axis=1)
    answers = _first_answers(config, tables["test"], generator, generated)
    _save_arrays(folder / "shown.npz", latents=generated, answers=answers, adapted=adapted)
    # Last, since its presence says that the stage is done.
    write_json(folder / "scores.json", {"chosen_scale": scale, "splits": scores})


def _mean_accuracy(score: dict[str, list[float]]) -> float:
    return float(np.mean(np.array(score["correct"]) / np.array(score["count"])))


def _record(values: tuple[np.ndarray, np.ndarray]) -> dict[str, list[float]]:
    right, total = values
    return {"correct": right.tolist(), "count": total.tolist()}


def _majority(tasks: list[Task]) -> dict[str, list[float]]:
    """Always the most common answer of the support set (the first of equals)."""
    right = []
    for task in tasks:
        guess = np.bincount([label for _, label in task.support]).argmax()
        right.append(sum(label == guess for _, label in task.query))
    return _record((np.array(right, float), np.array([len(t.query) for t in tasks], float)))


def _baselines(
    config: ConfigDict, train: TaskTable, table: TaskTable, generator: Any, conditional: Any
) -> dict[str, dict]:
    """Rows without HyperLDM: [T] scores each."""
    embed_dim = table.image_features.shape[1]
    generate = generate_fn(generator_module(config, embed_dim))
    from_question = conditional_generate_fn(
        conditional_module(config, embed_dim), train.question_features
    )
    few_shot = functools.partial(
        scoring.few_shot_method, generate, learning_rate=config.generator.inner_learning_rate
    )
    rows = {
        CLIP: (scoring.clip_method, generator),
        UNADAPTED: (few_shot(num_steps=0), generator),
        CONDITIONAL: (scoring.conditional_method(from_question), conditional),
        ADAPTED: (
            few_shot(num_steps=config.evaluate.few_shot_steps),
            generator,
        ),
    }
    return {
        name: _record(
            compile_pass(config, scoring.scores_of(method), table)(parallel.replicate(params), None)
        )
        for name, (method, params) in rows.items()
    }


def _sample_scales(
    config: ConfigDict, questions: np.ndarray, hyperldm: Any
) -> dict[float, np.ndarray]:
    """Latents [T, K, Z] at every scale that is compared."""
    sampler, replicated = compile_sampler(config), parallel.replicate(hyperldm)
    scales = sorted({*config.evaluate.guidance_scales, *validation_scales(config)})
    return {
        scale: sample_tasks(
            sampler,
            replicated,
            questions,
            scale=scale,
            num_samples=config.hyperldm.num_samples,
            seed=config.seed,
        )
        for scale in scales
    }


def _controls(
    train: TaskTable, table: TaskTable, statistics: Statistics, adapted: np.ndarray
) -> dict[str, np.ndarray]:
    """Latents [T, 1, Z] that HyperLDM has to beat: one for all tasks, and what memory alone gives.

    adapted: [T_train, Z], the mean latent of each training task.
    """
    cosine = question_cosine(statistics, table.question_features, train.question_features)
    nearest = adapted[np.argmax(cosine, axis=1)]
    mean = np.broadcast_to(adapted.mean(axis=0), nearest.shape)
    return {MEAN_LATENT: mean[:, None], NEAREST: nearest[:, None]}


def _score_latents(
    config: ConfigDict, table: TaskTable, generator: Any, latents: dict[str, np.ndarray]
) -> dict[str, dict]:
    """The scores of the networks of latents [T, K, Z], on average over K."""
    generate = generate_fn(generator_module(config, table.image_features.shape[1]))
    method = scoring.scores_of(scoring.latent_method(generate))
    score = compile_pass(config, method, table)
    replicated = parallel.replicate(generator)
    return {name: _record(score(replicated, values)) for name, values in latents.items()}


def _answers_by_template(tasks: list[Task]) -> dict[str, list[str]]:
    known: dict[str, set[str]] = {}
    for task in tasks:
        known.setdefault(task.template, set()).update(task.answers)
    return {template: sorted(answers) for template, answers in known.items()}


def _save_model(folder: Path, generator: Any, hyperldm: dict[str, Any], notes: dict) -> None:
    """All that `generate` needs, in one checkpoint."""
    if not (folder / "model").exists():
        tree = {"generator": generator["generator"], "hyperldm": hyperldm}
        checkpoints.save_tree(folder / "model", tree, notes=notes)


def _first_answers(
    config: ConfigDict, table: TaskTable, generator: Any, latents: np.ndarray
) -> np.ndarray:
    """The answers to each task's first query examples of the networks of latents [T, Z]:
    [T, NUM_SHOWN] int, for the pictures."""
    generate = generate_fn(generator_module(config, table.image_features.shape[1]))
    method = scoring.latent_method(generate)

    def answers(params: Any, tasks: Any, extra: jax.Array) -> jax.Array:
        return method(params, tasks, extra)[:, 0, :NUM_SHOWN].argmax(axis=-1)

    return compile_pass(config, answers, table)(parallel.replicate(generator), latents[:, None])


def _save_arrays(path: Path, **arrays: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
