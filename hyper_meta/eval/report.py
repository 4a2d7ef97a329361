"""The report: from the scores of every seed to results.json, a table, Markdown and pictures.

Nothing is computed again: all figures come from what the stages left in the work directory.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hyper_meta.core.configuration import read_stored
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import flatten, write_bytes, write_json
from hyper_meta.data.tasks import Task
from hyper_meta.eval import pictures
from hyper_meta.eval.latent_map import latent_map
from hyper_meta.eval.markdown import compose, headline
from hyper_meta.eval.results import (
    ALL,
    BASELINES,
    compute_results,
    group_names,
    groups_of,
    is_number,
    settings_of,
    titles_of,
)
from hyper_meta.eval.seeds import SeedResults, read_seeds
from hyper_meta.eval.tables import as_text, curve_rows, main_table, shots_of

NUM_SCENES = 12
BOUNDS = ("mean", "low", "high")
# ids -> {id: [H, W, 3] uint8}
Images = Callable[[set[str]], dict[str, np.ndarray]]


def write_report(
    workdir: Path,
    folders: list[Path],
    tasks: dict[str, list[Task]],
    *,
    images: Images | None,
    num_resamples: int,
) -> Path:
    """Writes results.json and report/ and prints the table.

    folders: one for each seed; tasks: of every split, in the order of their scores; images: None
    for a data set that has only features; num_resamples: of the bootstrap. Returns the path of the
    report. Raises UserError where a seed has not left its scores, or what it left is of other
    tasks.
    """
    seeds = read_seeds(folders, tasks)
    config = flatten(read_stored(workdir))
    results = compute_results(seeds, tasks, config, num_resamples=num_resamples)
    shown, scenes = seeds[0].shown, []
    if shown is not None and images is not None:
        scenes = choose_scenes(tasks["test"], shown["answers"], images)
    path = workdir / "report" / "report.md"
    drawn = draw_pictures(results, seeds, tasks, scenes)
    for name, content in drawn.items():
        write_bytes(path.parent / name, content)
    write_json(workdir / "results.json", results)
    write_bytes(path, compose(results, scenes, list(drawn)).encode())
    print(textwrap.fill(headline(results), 100), end="\n\n")
    print(as_text(main_table(results, "test")), end="\n\n")
    print(f"report: {path}")
    return path


def choose_scenes(
    tasks: Sequence[Task], answers: Int[np.ndarray, "T n"], images: Images
) -> list[pictures.Scene]:
    """About NUM_SCENES examples, as many of each group, from families evenly apart.

    answers: [T, n] int. The choice does not look at the answers.
    """
    chosen = []
    groups = group_names(tasks)
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
    seeds: Sequence[SeedResults],
    tasks: dict[str, list[Task]],
    scenes: Sequence[pictures.Scene],
) -> dict[str, bytes]:
    """{file name: PNG} of what there is to draw. Latents, scenes and expected accuracies are those
    of the first seed."""
    drawn = {}
    if panels := scale_panels(results):
        drawn["accuracy_by_scale.png"] = pictures.accuracy_by_scale(panels)
    if results["shots"]:
        drawn["accuracy_by_shots.png"] = pictures.accuracy_by_shots(shot_panels(results))
    if histories := _histories(seeds):
        drawn["training_curves.png"] = pictures.training_curves(histories)
    if points := expected_points(results, seeds[0], tasks["test"]):
        drawn["expected_accuracy.png"] = pictures.expected_accuracy(points)
    shown = seeds[0].shown or {}
    if "latents" in shown:
        drawn["latents.png"] = latent_map(
            shown["adapted"],
            [task.family for task in tasks["train"]],
            shown["latents"],
            [task.family for task in tasks["test"]],
        )
    if scenes:
        drawn["examples.png"] = pictures.example_scenes(scenes)
    return drawn


def _histories(seeds: Sequence[SeedResults]) -> dict[str, dict[str, list]]:
    """stage -> seed -> history, of the stages that any seed has trained."""
    return {
        stage: {seed.name: seed.curves[stage]["history"] for seed in seeds if stage in seed.curves}
        for stage in dict.fromkeys(stage for seed in seeds for stage in seed.curves)
    }


def expected_points(
    results: dict[str, Any], seed: SeedResults, tasks: Sequence[Task]
) -> dict[str, Float[np.ndarray, "2 n"]]:
    """{group: expected and true accuracies in percent} of the best language row on the n test tasks
    of each group, nothing where it is not known."""
    best = results["best"].get("language")
    if best not in seed.trust:
        return {}
    both = np.stack([seed.trust[best]["expected"], seed.chosen("test")[best].accuracy])
    groups = np.array([task.group for task in tasks])
    return {group: 100 * both[:, groups == group] for group in group_names(tasks)}


def scale_panels(results: dict[str, Any]) -> list[pictures.ScalePanel]:
    """Accuracy by setting of each row whose settings are numbers along a curve: on validation
    tasks, on test tasks, and on each of their groups."""
    panels = []
    places = [("validation", ALL), *(("test", group) for group in groups_of(results, "test"))]
    for row in curve_rows(results):
        for split, group in places:
            settings = settings_of(results, split, row["id"])
            if settings and all(map(is_number, settings)):
                panels.append(scale_panel(results, row, split=split, group=group))
    return panels


def scale_panel(
    results: dict[str, Any], row: dict[str, Any], *, split: str, group: str
) -> pictures.ScalePanel:
    """Accuracy by setting of one row, on one group of tasks of a split."""
    settings, titles = settings_of(results, split, row["id"]), titles_of(results)
    summary, best = results["summaries"][split], results["best"]
    others = [*BASELINES, best.get("conditional"), best.get("few-shot")]
    figures = [results["settings"][split][row["id"]][setting][group] for setting in settings]
    place = f"{split} tasks" if group == ALL else f"{split} tasks: {group}"
    return pictures.ScalePanel(
        title=f"{row['title']}\n{place}",
        varies=row["varies"],
        settings=tuple(settings),
        curve=np.array([[cell[bound] for bound in BOUNDS] for cell in figures]),
        lines={
            titles[other]: summary[other][ALL][group]["mean"]
            for other in others
            if other in summary and other != row["id"]
        },
        chosen=tuple(row["chosen"].values()),
    )


def shot_panels(results: dict[str, Any]) -> list[pictures.ShotPanel]:
    """Accuracy by examples per answer on all test tasks and on each group."""
    shots, titles = shots_of(results), titles_of(results)
    missing = dict.fromkeys(BOUNDS, np.nan)
    panels = []
    for group in groups_of(results, "test"):
        curves = {}
        for start, row in results["shots"].items():
            cells = [row[shot]["groups"][group] if shot in row else missing for shot in shots]
            curves[titles[start]] = np.array([[cell[bound] for bound in BOUNDS] for cell in cells])
        title = "test tasks" if group == ALL else f"test tasks: {group}"
        panels.append(pictures.ShotPanel(title, tuple(shots), curves))
    return panels
