"""The report: from the scores of every seed to results.json, a table, Markdown and pictures.

Nothing is computed again: all figures come from what the stages left in the work directory.
"""

from __future__ import annotations

import dataclasses
import textwrap
import zipfile
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
    MAJORITY,
    SCALE_PREFIX,
    UNADAPTED,
    Scores,
    mean_scores,
    one_sample,
    paired_differences,
    scale_name,
    summarise,
    t_interval,
    verdict,
)
from hyper_meta.files import flatten, read_json, write_bytes, write_json
from hyper_meta.types import UserError

SPLITS = ("validation", "test")
TRAINED_STAGES = ("generator", "conditional", "hyperldm")
BASELINES = (CLIP, UNADAPTED, CONDITIONAL, ADAPTED, scale_name(0), scale_name(1))
ALL = "all"  # families or groups together
# What a group of test tasks asks; other groups are shown under their name alone.
GROUPS = {
    "paraphrase": "what was seen in training, asked in words never seen",
    "composition": "combinations never trained on in any wording",
}
NUM_SCENES = 12
AGAIN = "remove the scores.json of that folder and run the stage evaluate again"
UNITS = (
    "accuracies in percent, differences in points; mean: over tasks, each counted once; pooled: "
    "over examples; low, high: 95% bootstrap interval over tasks, with right answers averaged over "
    "seeds; seeds: mean over tasks of each seed, and its 95% t-interval over seeds; summaries by "
    "split, method, family and group; differences by split, method, baseline, family and group"
)
NOTES = """\
* Accuracy is the mean over tasks, each counted once; *pooled* counts each example once.
* Brackets are 95% bootstrap intervals over tasks. Right answers are averaged over seeds first, so \
they say nothing about another seed. Several wordings of one question are several tasks, which \
makes them narrower than intervals over different questions; with the few tasks of one family they \
are a rough guide, and there are many families, so none is given a verdict.
* A method *beats* another where the interval of the paired difference lies above zero.
* HyperLDM answers with the network of the mean latent of several samples; *one sample* is the \
accuracy of the network of a single sample, on average.
* The generator adapted on the support set sees labelled examples of the test task. It is the \
upper reference, not a zero-shot method. The most common answer uses the support set as well."""

# [family][group] -> figures, "all" being one of either.
Cells = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one seed left.

    scores: split -> method -> Scores of the tasks of that split; curves: stage -> {"evaluated",
    "history"}; adapted: [T_train, Z] float32, mean adapted latent of each training task;
    latents: [T_test, Z] float32, generated; answers: [T_test, n] int, those of the generated
    network to the first n query examples of each test task.
    """

    name: str
    chosen_scale: float
    scores: dict[str, dict[str, Scores]]
    curves: dict[str, dict[str, Any]]
    adapted: np.ndarray
    latents: np.ndarray
    answers: np.ndarray


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


def read_run(folder: Path, tasks: dict[str, list[Task]]) -> Run:
    """Reads what one seed left, see `write_report`."""
    saved = read_json(_left_by("evaluate", folder / "scores.json"))
    scale = saved["chosen_scale"]
    scores = {
        split: _read_scores(saved["splits"][split], tasks[split], folder / "scores.json")
        for split in SPLITS
    }
    for rows in scores.values():
        rows[CHOSEN] = rows[scale_name(scale)]
        rows[one_sample(CHOSEN)] = rows[one_sample(scale_name(scale))]
    curves = {
        stage: read_json(_left_by(stage, folder / "curves" / f"{stage}.json"))
        for stage in TRAINED_STAGES
    }
    return Run(folder.name, scale, scores, curves, **_read_shown(folder, tasks))


def _read_scores(
    saved: dict[str, dict[str, list]], tasks: Sequence[Task], path: Path
) -> dict[str, Scores]:
    sizes = [len(task.query) for task in tasks]
    scores = {}
    for name, score in saved.items():
        if score["count"] != sizes or len(score["correct"]) != len(sizes):
            raise UserError(f"{path} is of other tasks than the data set holds: {AGAIN}")
        scores[name] = Scores(np.array(score["correct"], float), np.array(sizes, float))
    return scores


def _left_by(stage: str, path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing: run the stage {stage} on this --workdir first")
    return path


def _read_shown(folder: Path, tasks: dict[str, list[Task]]) -> dict[str, np.ndarray]:
    """The latents and answers for the pictures, see Run."""
    path = _left_by("evaluate", folder / "shown.npz")
    rows = {"adapted": "train", "latents": "test", "answers": "test"}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in rows}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): {AGAIN}") from error
    for name, split in rows.items():
        if len(arrays[name]) != len(tasks[split]):
            raise UserError(
                f"{path} is of {len(arrays[name])} {split} tasks, the data set holds "
                f"{len(tasks[split])}: {AGAIN}"
            )
    return arrays


def compute_results(
    runs: Sequence[Run],
    tasks: dict[str, list[Task]],
    config: dict[str, Any],
    *,
    num_resamples: int,
) -> dict[str, Any]:
    """Every figure, as JSON values; UNITS says how to read them."""
    results = {
        "units": UNITS,
        "seeds": [run.name for run in runs],
        "chosen_scale": {run.name: run.chosen_scale for run in runs},
        "evaluated": {
            run.name: {stage: curve["evaluated"] for stage, curve in run.curves.items()}
            for run in runs
        },
        "config": config,
        "summaries": {},
        "differences": {},
        "tasks": {},
    }
    for split in SPLITS:
        seeds = [run.scores[split] for run in runs]
        parts = partition(tasks[split])
        results["summaries"][split] = summaries(seeds, parts, num_resamples=num_resamples)
        results["differences"][split] = differences(seeds, parts, num_resamples=num_resamples)
        results["tasks"][split] = task_records(seeds, tasks[split])
    return results


def partition(tasks: Sequence[Task]) -> dict[tuple[str, str], np.ndarray]:
    """The tasks of each family and group: {(family, group): [T] bool}, "all" being one of either.

    Families are in alphabetical order after "all"; groups in that of GROUPS, then alphabetical.
    """
    families = np.array([task.family for task in tasks])
    groups = np.array([task.group for task in tasks])
    order = [group for group in GROUPS if group in groups]
    order += sorted({*groups.tolist()} - {*order})
    parts = {}
    for family in (ALL, *sorted({*families.tolist()})):
        for group in (ALL, *order):
            rows = (families == family) | (family == ALL)
            rows &= (groups == group) | (group == ALL)
            if rows.any():
                parts[family, group] = rows
    return parts


def summaries(
    seeds: Sequence[dict[str, Scores]],
    parts: dict[tuple[str, str], np.ndarray],
    *,
    num_resamples: int,
) -> dict[str, Cells]:
    """{method: {family: {group: figures}}} for every method, see UNITS."""
    mean = {name: mean_scores([scores[name] for scores in seeds]) for name in seeds[0]}
    result: dict[str, Cells] = {name: {} for name in mean}
    for (family, group), rows in parts.items():
        for name, figures in summarise(mean, rows, num_resamples=num_resamples).items():
            values = [100 * float(scores[name].accuracy[rows].mean()) for scores in seeds]
            figures["seeds"] = _over_seeds(values)
            result[name].setdefault(family, {})[group] = figures
    return result


def differences(
    seeds: Sequence[dict[str, Scores]],
    parts: dict[tuple[str, str], np.ndarray],
    *,
    num_resamples: int,
) -> dict[str, dict[str, Cells]]:
    """{method: {baseline: {family: {group: figures}}}}, see UNITS.

    The chosen scale of HyperLDM minus each of BASELINES, and over all families everything minus
    the unadapted generator. Only figures over all families get a "verdict".
    """
    mean = {name: mean_scores([scores[name] for scores in seeds]) for name in seeds[0]}
    ours_only = [(CHOSEN, baseline) for baseline in BASELINES if baseline in mean]
    others = [(name, UNADAPTED) for name in mean if name not in (CHOSEN, UNADAPTED)]
    result: dict[str, dict[str, Cells]] = {}
    for (family, group), rows in parts.items():
        names = ours_only + (others if family == ALL else [])
        pairs = [(mean[ours], mean[theirs]) for ours, theirs in names]
        compared = paired_differences(pairs, rows, num_resamples=num_resamples)
        for (ours, theirs), figures in zip(names, compared, strict=True):
            gaps = [scores[ours].accuracy - scores[theirs].accuracy for scores in seeds]
            figures["seeds"] = _over_seeds([100 * float(gap[rows].mean()) for gap in gaps])
            if family == ALL:
                figures["verdict"] = verdict(figures)
            cells = result.setdefault(ours, {}).setdefault(theirs, {})
            cells.setdefault(family, {})[group] = figures
    return result


def _over_seeds(values: list[float]) -> dict[str, Any]:
    """The figure of each seed, their mean, and with several of them its interval."""
    figures: dict[str, Any] = {"values": values, "mean": float(np.mean(values))}
    if len(values) > 1:
        figures["low"], figures["high"] = t_interval(values)
    return figures


def task_records(seeds: Sequence[dict[str, Scores]], tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Each task with its accuracy by method and seed."""
    accuracy = {
        name: 100 * np.stack([scores[name].accuracy for scores in seeds], axis=1)
        for name in seeds[0]
    }
    return [
        {
            "sentence": task.sentence,
            "family": task.family,
            "group": task.group,
            "examples": len(task.query),
            "accuracy": {name: values[row].tolist() for name, values in accuracy.items()},
        }
        for row, task in enumerate(tasks)
    ]


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
    panels += [scale_panel(results, "test", group) for group in _groups(results, "test")]
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
            name: figures[name]["mean"]
            for name in (ADAPTED, CONDITIONAL, UNADAPTED, CLIP, MAJORITY)
        },
        chosen=tuple(results["chosen_scale"].values()),
    )


def scales_of(results: dict[str, Any]) -> list[float]:
    """The guidance scales that were compared, in ascending order."""
    names = [name for name in results["summaries"]["test"] if name.startswith(SCALE_PREFIX)]
    numbers = {name.removeprefix(SCALE_PREFIX).partition(",")[0] for name in names}
    return sorted(map(float, numbers))


def shown_methods(results: dict[str, Any]) -> list[str]:
    """The rows of the table, in order."""
    scales = [scale_name(scale) for scale in scales_of(results)]
    return [MAJORITY, CLIP, UNADAPTED, CONDITIONAL, *scales, CHOSEN, one_sample(CHOSEN), ADAPTED]


def _groups(results: dict[str, Any], split: str) -> list[str]:
    """All tasks together and then each group."""
    return list(results["summaries"][split][CHOSEN][ALL])


Table = list[list[str]]  # the first row is the header, the first column names


def main_table(results: dict[str, Any], split: str) -> Table:
    """Every method on all tasks, by group, pooled, and minus the unadapted generator."""
    groups = _groups(results, split)[1:]
    table = [["method", "all [95%]", *groups, "pooled", "minus unadapted [95%]"]]
    for name in shown_methods(results):
        cells = results["summaries"][split][name][ALL]
        gaps = results["differences"][split].get(name, {}).get(UNADAPTED)
        table.append(
            [
                name,
                _interval(cells[ALL]),
                *(f"{cells[group]['mean']:.1f}" for group in groups),
                f"{cells[ALL]['pooled']:.1f}",
                _interval(gaps[ALL][ALL], sign="+") if gaps else "",
            ]
        )
    return table


def difference_table(results: dict[str, Any], split: str) -> Table:
    """The chosen scale of HyperLDM against each baseline, by group, with the verdict."""
    table = [["HyperLDM, chosen scale, against", *_groups(results, split)]]
    for baseline, cells in results["differences"][split][CHOSEN].items():
        row = [
            f"{figures['verdict']}: {_interval(figures, '+')}" for figures in cells[ALL].values()
        ]
        table.append([baseline, *row])
    return table


def family_table(results: dict[str, Any], split: str) -> Table:
    """Accuracy by question family; the columns of groups are HyperLDM at the chosen scale."""
    summary = results["summaries"][split]
    groups = _groups(results, split)[1:]
    methods = {"CLIP": CLIP, "not adapted": UNADAPTED, "conditional": CONDITIONAL}
    header = ["family", "tasks", *methods, "HyperLDM", *(f"HyperLDM: {group}" for group in groups)]
    table = [[*header, "adapted", "HyperLDM minus not adapted"]]
    for family, cells in summary[CHOSEN].items():
        gap = results["differences"][split][CHOSEN][UNADAPTED][family][ALL]
        table.append(
            [
                family,
                str(cells[ALL]["tasks"]),
                *(f"{summary[name][family][ALL]['mean']:.1f}" for name in methods.values()),
                f"{cells[ALL]['mean']:.1f}",
                *(f"{cells[group]['mean']:.1f}" if group in cells else "–" for group in groups),
                f"{summary[ADAPTED][family][ALL]['mean']:.1f}",
                _interval(gap, sign="+"),
            ]
        )
    return table


def scale_table(results: dict[str, Any]) -> Table:
    """Accuracy by guidance scale: validation tasks by seed, the chosen one bold, and test tasks."""
    seeds = results["chosen_scale"]
    table = [["scale", *(f"validation, {seed}" for seed in seeds), "test, mean"]]
    for scale in scales_of(results):
        cells = {
            split: results["summaries"][split][scale_name(scale)][ALL][ALL] for split in SPLITS
        }
        texts = [f"{value:.1f}" for value in cells["validation"]["seeds"]["values"]]
        marked = [
            f"**{text}**" if scale_name(chosen) == scale_name(scale) else text
            for text, chosen in zip(texts, seeds.values(), strict=True)
        ]
        table.append([f"{scale:g}", *marked, f"{cells['test']['mean']:.1f}"])
    return table


def seed_table(results: dict[str, Any]) -> Table:
    """Mean over test tasks by seed, and its interval over seeds where there are several."""
    table = [["method", *results["seeds"], "mean [95% over seeds]"]]
    for name in shown_methods(results):
        seeds = results["summaries"]["test"][name][ALL][ALL]["seeds"]
        overall = _interval(seeds) if "low" in seeds else f"{seeds['mean']:.1f}"
        table.append([name, *(f"{value:.1f}" for value in seeds["values"]), overall])
    return table


def _interval(figures: dict[str, float], sign: str = "") -> str:
    """mean [low, high], with a plus before positive figures if sign is "+"."""
    mean, low, high = (format(figures[key], f"{sign}.1f") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def as_text(table: Table) -> str:
    """The table for a terminal, names to the left and figures to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *figures in table:
        padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


def as_markdown(table: Table) -> str:
    """The table in Markdown."""
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    rows = [table[0], rule, *table[1:]]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows
    )


def headline(results: dict[str, Any]) -> str:
    """The main result in one sentence a group, verdicts and intervals included."""
    sentences = ["From the sentence alone:"]
    for group in _groups(results, "test")[1:]:
        figures = results["summaries"]["test"][CHOSEN][ALL][group]
        meaning = f" ({GROUPS[group]})" if group in GROUPS else ""
        claims = []
        for baseline in (CLIP, UNADAPTED, CONDITIONAL):
            gap = results["differences"]["test"][CHOSEN][baseline][ALL][group]
            claims.append(f"{gap['verdict']} {_called(baseline)} ({_interval(gap, '+')} points)")
        share = _interval(figures).replace(" ", "% ", 1)
        sentences.append(
            f"on {figures['tasks']} {group} tasks{meaning}, HyperLDM is right in {share}: it "
            f"{claims[0]}, {claims[1]}, and {claims[2]};"
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
