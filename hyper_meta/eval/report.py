"""The report: from the scores of every seed to results.json, a table, Markdown and pictures.

Nothing is computed again: all figures come from what the stages left in the work directory.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyper_meta.data.tasks import Task
from hyper_meta.eval import pictures
from hyper_meta.eval.metrics import (
    ADAPTED,
    CHOSEN,
    CLIP,
    CONDITIONAL,
    NEAREST,
    UNADAPTED,
    one_sample,
    scale_name,
)
from hyper_meta.eval.results import (
    ALL,
    GROUPS,
    TRAINED_STAGES,
    Run,
    compute_results,
    groups_of,
    partition,
    read_run,
    scales_of,
)
from hyper_meta.eval.tables import (
    as_markdown,
    as_text,
    difference_table,
    family_table,
    interval,
    main_table,
    scale_table,
    seed_table,
)
from hyper_meta.files import flatten, read_json, write_bytes, write_json
from hyper_meta.types import UserError

NUM_SCENES = 12
NOTES = """\
* Accuracy is the mean over tasks, each counted once; *pooled* counts each example once.
* Brackets are 95% bootstrap intervals over tasks. Right answers are averaged over seeds first, so \
they say nothing about another seed. Several wordings of one question are several tasks, which \
makes them narrower than intervals over different questions; with the few tasks of one family they \
are a rough guide, and there are many families, so none is given a verdict.
* A method *beats* another where the interval of the paired difference lies above zero.
* The mean latent of the training tasks is one network for all questions, and the latent of the \
training task with the nearest sentence is what memory alone gives: what does not beat the second \
does no more than remember.
* HyperLDM answers with the network of the mean latent of several samples; *one sample* is the \
accuracy of the network of a single sample, on average.
* The generator adapted on the support set sees labelled examples of the test task. It is the \
upper reference, not a zero-shot method. The most common answer uses the support set as well."""


def write_report(
    workdir: Path,
    folders: list[Path],
    tasks: dict[str, list[Task]],
    *,
    images: Callable[[set[str]], dict[str, np.ndarray]],
    num_resamples: int,
) -> Path:
    """Writes results.json and report/ and prints the table.

    folders: one for each seed; tasks: of every split, in the order of their scores; images:
    ids -> {id: [H, W, 3] uint8}; num_resamples: of the bootstrap. Returns the path of the report.
    Raises UserError where a stage has not left what is needed, or what it left is of other tasks.
    """
    runs = [read_run(folder, tasks) for folder in folders]
    config = flatten(read_json(workdir / "config.json"))
    results = compute_results(runs, tasks, config, num_resamples=num_resamples)
    scenes = choose_scenes(tasks["test"], runs[0].answers, images)
    path = workdir / "report" / "report.md"
    for name, content in draw_pictures(results, runs, tasks, scenes).items():
        write_bytes(path.parent / name, content)
    write_json(workdir / "results.json", results)
    write_bytes(path, markdown(results, scenes).encode())
    print(textwrap.fill(headline(results), 100), end="\n\n")
    print(as_text(main_table(results, "test")), end="\n\n")
    print(f"report: {path}")
    return path


def choose_scenes(
    tasks: Sequence[Task],
    answers: np.ndarray,
    images: Callable[[set[str]], dict[str, np.ndarray]],
) -> list[pictures.Scene]:
    """About NUM_SCENES examples, as many of each group, from families evenly apart.

    answers: [T, n] int. The choice does not look at the answers.
    """
    chosen = []
    groups = [group for family, group in partition(tasks) if family == ALL and group != ALL]
    for group in groups:
        first = {}
        for row, task in enumerate(tasks):
            if task.group == group:
                first.setdefault(task.family, row)
        rows = [first[family] for family in sorted(first)]
        wanted = min(len(rows), -(-NUM_SCENES // len(groups)))
        chosen += [rows[position * len(rows) // wanted] for position in range(wanted)]
    picks = [(row, number % answers.shape[1]) for number, row in enumerate(chosen)]
    found = images({tasks[row].query[example][0] for row, example in picks})
    return [_scene(tasks[row], answers[row], example, found) for row, example in picks]


def _scene(
    task: Task, answers: np.ndarray, example: int, images: dict[str, np.ndarray]
) -> pictures.Scene:
    image, label = task.query[example]
    if image not in images:
        raise UserError(f"the data set has no image {image!r}, which a task names: rebuild it")
    return pictures.Scene(
        image=images[image],
        question=task.sentence,
        answer=task.answers[answers[example]],
        right=task.answers[label],
        group=task.group,
    )


def draw_pictures(
    results: dict[str, Any],
    runs: Sequence[Run],
    tasks: dict[str, list[Task]],
    scenes: Sequence[pictures.Scene],
) -> dict[str, bytes]:
    """{file name: PNG}. The latents and scenes are those of the first seed."""
    panels = [scale_panel(results, "validation", ALL)]
    panels += [scale_panel(results, "test", group) for group in groups_of(results, "test")]
    histories = {
        stage: {run.name: run.curves[stage]["history"] for run in runs} for stage in TRAINED_STAGES
    }
    latents = pictures.latent_map(
        runs[0].adapted,
        [task.family for task in tasks["train"]],
        runs[0].latents,
        [task.family for task in tasks["test"]],
    )
    return {
        "accuracy_by_scale.png": pictures.accuracy_by_scale(panels),
        "training_curves.png": pictures.training_curves(histories),
        "latents.png": latents,
        "examples.png": pictures.example_scenes(scenes),
    }


def scale_panel(results: dict[str, Any], split: str, group: str) -> pictures.ScalePanel:
    """Accuracy by guidance scale on one group of tasks of a split."""
    figures = {name: cells[ALL][group] for name, cells in results["summaries"][split].items()}
    scales = scales_of(results)

    def curve(names: list[str]) -> np.ndarray:
        return np.array([[figures[name][key] for key in ("mean", "low", "high")] for name in names])

    return pictures.ScalePanel(
        title=f"{split} tasks" if group == ALL else f"{split} tasks: {group}",
        scales=np.array(scales),
        curves={
            "HyperLDM, mean latent": curve([scale_name(scale) for scale in scales]),
            "HyperLDM, one sample": curve([one_sample(scale_name(scale)) for scale in scales]),
        },
        lines={
            name: figures[name]["mean"] for name in (ADAPTED, CONDITIONAL, NEAREST, UNADAPTED, CLIP)
        },
        chosen=tuple(results["chosen_scale"].values()),
    )


def headline(results: dict[str, Any]) -> str:
    """The main result in one sentence a group, verdicts and intervals included."""
    sentences = ["From the sentence alone:"]
    for group in groups_of(results, "test")[1:]:
        figures = results["summaries"]["test"][CHOSEN][ALL][group]
        meaning = f" ({GROUPS[group]})" if group in GROUPS else ""
        claims = []
        for baseline in (CLIP, UNADAPTED, NEAREST, CONDITIONAL):
            gap = results["differences"]["test"][CHOSEN][baseline][ALL][group]
            claims.append(f"{gap['verdict']} {_called(baseline)} ({interval(gap, '+')} points)")
        share = interval(figures).replace(" ", "% ", 1)
        sentences.append(
            f"on {figures['tasks']} {group} tasks{meaning}, HyperLDM is right in {share}: it "
            f"{', '.join(claims[:-1])}, and {claims[-1]};"
        )
    return " ".join(sentences).removesuffix(";") + "."


def _called(baseline: str) -> str:
    return {UNADAPTED: "the unadapted generator", CLIP: CLIP}.get(baseline, f"the {baseline}")


def markdown(results: dict[str, Any], scenes: Sequence[pictures.Scene]) -> str:
    """The whole report."""
    config, seeds = results["config"], results["seeds"]
    right = sum(scene.answer == scene.right for scene in scenes)
    sections = [
        "# From a sentence to weights: results",
        f"**{headline(results)}**",
        f"Data set `{config.get('dataset')}`, {len(seeds)} seed{'s' * (len(seeds) > 1)} "
        f"({', '.join(seeds)}). Every figure, and the accuracy on every task, is in "
        "`../results.json`; the configuration is in `../config.json`.",
        "## Test tasks",
        as_markdown(main_table(results, "test")),
        NOTES,
        "## Differences on test tasks",
        as_markdown(difference_table(results, "test")),
        "## By question family, test tasks",
        as_markdown(family_table(results, "test")),
        "## Guidance scale",
        _how_chosen(results),
        as_markdown(scale_table(results)),
        "![Accuracy by guidance scale](accuracy_by_scale.png)",
        "## Validation tasks",
        "Early stopping and the guidance scale were chosen on these, so they flatter the methods "
        "that were trained.",
        as_markdown(main_table(results, "validation")),
        "## Seeds",
        as_markdown(seed_table(results)),
        "## Training",
        "Evaluated were:",
        "\n".join(
            f"* {seed}, {stage}: {phrase}"
            for seed, stages in results["evaluated"].items()
            for stage, phrase in stages.items()
        ),
        "![Training curves](training_curves.png)",
        "## Latents",
        f"Those of {seeds[0]}, in the plane of the largest variance of the adapted ones.",
        "![Latents in two dimensions](latents.png)",
        "## Examples",
        f"Test scenes, chosen by a rule that does not look at the answers: {right} of "
        f"{len(scenes)} right ({seeds[0]}).",
        "![Examples](examples.png)",
    ]
    return "\n\n".join(sections) + "\n"


def _how_chosen(results: dict[str, Any]) -> str:
    scales = ", ".join(f"{scale:g} ({seed})" for seed, scale in results["chosen_scale"].items())
    if results["config"].get("hyperldm.guidance_scale") is not None:
        return f"Set in the configuration: {scales}."
    return (
        "The scale with the highest mean accuracy on validation tasks, chosen anew in every seed "
        f"(the first of equals): {scales}."
    )
