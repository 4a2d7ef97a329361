"""The pictures of the report: plain data in, PNG bytes out.

Each takes what it shows as a record or as arrays, and reads no file.
"""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hyper_meta.eval.figure_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALETTE,
    PINK,
    RED,
    SHAPES,
    STYLES,
    clean,
    png,
)

INTERVAL = "95% interval over concepts"

HistoryEntry = Mapping[str, float]  # what a training stage notes after a chunk of steps


@dataclasses.dataclass(frozen=True)
class ScalePanel:
    """Accuracy in percent of one row over S settings, on one set of tasks.

    varies: what the settings are; settings: [S] as shown; curve: [S, 3] mean, low, high; lines:
    title -> accuracy of other rows; chosen: the setting that each seed chose.
    """

    title: str
    varies: str
    settings: tuple[str, ...]
    curve: Float[np.ndarray, "S 3"]
    lines: dict[str, float]
    chosen: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ShotPanel:
    """Accuracy in percent over K numbers of examples per answer, on one set of tasks.

    shots: [K] as shown; curves: start -> [K, 3] mean, low, high, NaN where not measured.
    """

    title: str
    shots: tuple[str, ...]
    curves: dict[str, Float[np.ndarray, "K 3"]]


@dataclasses.dataclass(frozen=True)
class Scene:
    """An example: image [H, W, 3] uint8, what was asked, answered, and right; its test group."""

    image: UInt8[np.ndarray, "height width 3"]
    question: str
    answer: str
    right: str
    group: str


def accuracy_by_scale(panels: Sequence[ScalePanel]) -> bytes:
    """Accuracy against guidance scale, two panels a row, with one legend below.

    Settings stand evenly apart, since scales such as 1, 1.5 and 15 would not be told apart.
    """
    figure, grid = _panels(len(panels))
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    styles = itertools.cycle(zip((INK, PINK, GREEN, RED, GREY), STYLES, strict=True))
    looks = dict(zip(names, styles, strict=False))
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_scales(axes, panel, looks)
    _legend(figure, grid, Patch(color=BLUE, alpha=0.18, linewidth=0, label=INTERVAL))
    return png(figure)


def _draw_scales(axes: Axes, panel: ScalePanel, looks: Mapping[str, tuple[str, Any]]) -> None:
    mean, low, high = panel.curve.T
    places = np.arange(len(panel.settings))
    axes.fill_between(places, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(places, mean, color=BLUE, marker="o", label="the method of the panel", zorder=3)
    for name, accuracy in panel.lines.items():
        colour, style = looks[name]
        axes.axhline(accuracy, color=colour, linestyle=style, linewidth=1.4, label=name)
    _mark_chosen(axes, panel)
    axes.set_title(panel.title, fontsize=11)
    axes.set_xlabel(panel.varies)
    axes.set_xticks(places, panel.settings)


def _mark_chosen(axes: Axes, panel: ScalePanel) -> None:
    """A triangle at the foot of each setting that a seed chose, with the number of seeds."""
    counts = {setting: panel.chosen.count(setting) for setting in panel.settings}
    marked = [place for place, count in enumerate(counts.values()) if count]
    place = axes.get_xaxis_transform()
    style = {"linestyle": "", "color": BLUE, "marker": "^", "markersize": 8, "transform": place}
    axes.plot(marked, np.full(len(marked), 0.03), label="chosen on validation tasks", **style)
    if len(panel.chosen) > 1:
        for x, count in enumerate(counts.values()):
            text = f"  ×{count}" if count else ""
            axes.text(x, 0.03, text, transform=place, va="center", fontsize=8, color=BLUE)


def accuracy_by_shots(panels: Sequence[ShotPanel]) -> bytes:
    """Accuracy against examples per answer, one line a start, two panels a row."""
    figure, grid = _panels(len(panels))
    for axes, panel in zip(grid.flat, panels, strict=False):
        # Beside each other, so that intervals do not cover each other.
        shifts = np.linspace(-0.2, 0.2, len(panel.curves)) if len(panel.curves) > 1 else [0.0]
        for number, (name, curve) in enumerate(panel.curves.items()):
            mean, low, high = curve.T
            axes.errorbar(
                np.arange(len(panel.shots)) + shifts[number],
                mean,
                yerr=(mean - low, high - mean),
                color=PALETTE[number % len(PALETTE)],
                marker=SHAPES[number % len(SHAPES)],
                linewidth=1.4,
                elinewidth=0.9,
                label=name,
            )
        shown = [f"{shot}\n(zero-shot)" if shot == "0" else shot for shot in panel.shots]
        axes.set_xticks(np.arange(len(panel.shots)), shown)
        axes.set_xlabel("examples per answer")
        axes.set_title(panel.title, fontsize=11)
    _legend(figure, grid, Line2D([], [], color=GREY, linewidth=0.9, label=INTERVAL))
    return png(figure)


def expected_accuracy(groups: Mapping[str, Float[np.ndarray, "2 n"]]) -> bytes:
    """True against expected accuracy in percent, a point a task, {group: [2, n] expected, true}."""
    figure = Figure(figsize=(5.2, 5.4), layout="constrained")
    axes = figure.subplots()
    clean(axes)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, label="as expected")
    for number, (group, (expected, true)) in enumerate(groups.items()):
        look = {"color": PALETTE[number % len(PALETTE)], "marker": SHAPES[number % len(SHAPES)]}
        axes.plot(expected, true, linestyle="", markersize=4, alpha=0.6, label=group, **look)
    axes.set_xlabel("expected accuracy (%)")
    axes.set_ylabel("accuracy (%)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return png(figure)


def _panels(count: int) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, 1 or 2] of accuracies, of which count are left."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(9, 3.4 * rows + 1.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat:
        clean(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, grid


def _legend(figure: Figure, grid: np.ndarray, extra: Any) -> None:
    """One legend below for what all panels show, each name once."""
    handles = {}
    for axes in grid.flat:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    # Two columns, since titles of rows are long.
    figure.legend(
        handles=[*handles.values(), extra],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )


def training_curves(histories: Mapping[str, Mapping[str, Sequence[HistoryEntry]]]) -> bytes:
    """Loss and validation score of each stage, one line a seed, the best score marked.

    histories: stage -> seed -> rows with "step", "loss" and perhaps "validation_score". Four stages
    stand side by side, others below.
    """
    columns = min(len(histories), 4)
    bands = -(-len(histories) // columns)
    figure = Figure(figsize=(max(3.4 * columns, 6), 5 * bands + 0.6), layout="constrained")
    grid = figure.subplots(2 * bands, columns, squeeze=False)
    seeds = list(dict.fromkeys(seed for stage in histories.values() for seed in stage))
    colours = {seed: PALETTE[number % len(PALETTE)] for number, seed in enumerate(seeds)}
    places = [(2 * band, column) for band in range(bands) for column in range(columns)]
    for (row, column), stage in itertools.zip_longest(places, histories.items()):
        loss, score = grid[row : row + 2, column]
        if stage is None:
            loss.remove()
            score.remove()
        else:
            loss.set_title(stage[0], fontsize=11)
            _draw_history(loss, score, stage[1], colours)
        if column == 0:
            loss.set_ylabel("training loss")
            score.set_ylabel("validation score")
    lines = [Line2D([], [], color=colour, label=seed) for seed, colour in colours.items()]
    star = Line2D([], [], color=GREY, marker="*", markersize=12, linestyle="", label="best")
    figure.legend(
        handles=[*lines, star], loc="outside lower center", ncols=7, frameon=False, fontsize=9
    )
    return png(figure)


def _draw_history(
    loss: Axes, score: Axes, seeds: Mapping[str, Sequence[HistoryEntry]], colours: Mapping[str, str]
) -> None:
    for seed, rows in seeds.items():
        style = {"color": colours[seed], "linewidth": 1.4}
        loss.plot(*_column(rows, "loss"), **style)
        steps, values = _column(rows, "validation_score")
        score.plot(steps, values, **style)
        if values:
            best = int(np.argmax(values))
            score.plot(steps[best], values[best], "*", markersize=12, color=style["color"])
    score.sharex(loss)
    score.set_xlabel("training step")
    score.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if not any(len(line.get_xdata()) for line in score.get_lines()):
        score.set_yticks([])
        score.text(0.5, 0.5, "none", transform=score.transAxes, ha="center", color=GREY)
    clean(loss)
    clean(score)


def _column(rows: Sequence[HistoryEntry], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that have the value."""
    there = [row for row in rows if name in row]
    return [row["step"] for row in there], [row[name] for row in there]


def example_scenes(scenes: Sequence[Scene]) -> bytes:
    """A grid of scenes, each with its question above and the answers below."""
    columns = min(4, len(scenes))
    rows = -(-len(scenes) // columns)
    figure = Figure(figsize=(2.5 * columns, 3.3 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, scene in itertools.zip_longest(grid.flat, scenes):
        if scene is None:
            axes.remove()
        else:
            _draw_scene(axes, scene)
    return png(figure)


def _draw_scene(axes: Axes, scene: Scene) -> None:
    correct = scene.answer == scene.right
    answer = _wrap(f"{'✓' if correct else '✗'} {scene.answer}", 27)
    remedy = "" if correct else "\n" + _wrap(f"right: {scene.right}", 27)
    axes.imshow(scene.image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(_wrap(scene.question, 27), fontsize=10, color=INK, pad=15)
    axes.annotate(
        scene.group,
        (0.5, 1),
        xytext=(0, 4),
        textcoords="offset points",
        xycoords="axes fraction",
        ha="center",
        fontsize=8,
        style="italic",
        color=GREY,
    )
    colour = GREEN if correct else RED
    axes.set_xlabel(answer + remedy, fontsize=10, weight="bold", color=colour, labelpad=6)


def _wrap(text: str, width: int) -> str:
    """Text in lines of at most so many characters, its dollar signs no mathematics."""
    return "\n".join(textwrap.wrap(text, width)).replace("$", r"\$")
