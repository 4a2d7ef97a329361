"""The pictures of the report: plain data in, PNG bytes out.

Figures are made without pyplot, so there is no open figure or setting to leave behind. Colours are
those of Okabe and Ito (2008), told apart by the colour-blind; shapes and line styles say the same.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PINK, GREY, INK = "#56B4E9", "#CC79A7", "#8C8C8C", "#333333"
PALETTE = (BLUE, ORANGE, GREEN, RED, SKY, PINK, INK)
SHAPES = "os^Dv"
STYLES = ((0, (5, 1, 1, 1, 1, 1)), ":", "-.", "--", "-")
DOTS_PER_INCH = 150

Row = Mapping[str, float]  # what a training stage notes after a chunk of steps


@dataclasses.dataclass(frozen=True)
class ScalePanel:
    """Accuracy in percent over S guidance scales, on one set of tasks.

    scales: [S]; curves: label -> [S, 3] mean, low, high; lines: label -> accuracy of a method
    without a scale; chosen: the scale that each seed chose.
    """

    title: str
    scales: np.ndarray
    curves: dict[str, np.ndarray]
    lines: dict[str, float]
    chosen: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Scene:
    """An example: image [H, W, 3] uint8, what was asked, answered, and right; its test group."""

    image: np.ndarray
    question: str
    answer: str
    right: str
    group: str


def accuracy_by_scale(panels: Sequence[ScalePanel]) -> bytes:
    """Accuracy against guidance scale, two panels a row, with one legend below."""
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(9, 3.4 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, 2, sharey=True, squeeze=False)
    for axes, panel in itertools.zip_longest(grid.flat, panels):
        if panel is None:
            axes.remove()
        else:
            _draw_scales(axes, panel)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    handles, _ = grid[0, 0].get_legend_handles_labels()
    handles.insert(2, Patch(color=GREY, alpha=0.3, linewidth=0, label="95% interval over tasks"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return _png(figure)


def _draw_scales(axes: Axes, panel: ScalePanel) -> None:
    looks = itertools.cycle(zip(PALETTE, SHAPES, strict=False))
    for (label, curve), (colour, shape) in zip(panel.curves.items(), looks, strict=False):
        mean, low, high = curve.T
        axes.fill_between(panel.scales, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(panel.scales, mean, color=colour, marker=shape, label=label, zorder=3)
    looks = itertools.cycle(zip((INK, PINK, GREEN, RED, GREY), STYLES, strict=True))
    for (label, accuracy), (colour, style) in zip(panel.lines.items(), looks, strict=False):
        axes.axhline(accuracy, color=colour, linestyle=style, linewidth=1.4, label=label)
    _mark_chosen(axes, panel.chosen)
    axes.set_title(panel.title, fontsize=11)
    axes.set_xlabel("guidance scale")
    axes.set_xticks(panel.scales, [f"{scale:g}" for scale in panel.scales])
    _clean(axes)


def _mark_chosen(axes: Axes, chosen: Sequence[float]) -> None:
    """A triangle at the foot of each scale that a seed chose, with the number of seeds."""
    scales, counts = np.unique(chosen, return_counts=True)
    place = axes.get_xaxis_transform()
    style = {"linestyle": "", "color": BLUE, "marker": "^", "markersize": 8, "transform": place}
    axes.plot(scales, np.full(len(scales), 0.03), label="chosen scale", **style)
    if len(chosen) > 1:
        for scale, count in zip(scales, counts, strict=True):
            axes.text(
                scale, 0.03, f"  ×{count}", transform=place, va="center", fontsize=8, color=BLUE
            )


def training_curves(histories: Mapping[str, Mapping[str, Sequence[Row]]]) -> bytes:
    """Loss and validation score of each stage, one line a seed, the best score marked.

    histories: stage -> seed -> rows with "step", "loss" and perhaps "validation_score" in [0, 1];
    every stage has the same seeds.
    """
    figure = Figure(figsize=(3.4 * len(histories), 5.4), layout="constrained")
    grid = figure.subplots(2, len(histories), sharex="col", squeeze=False)
    for (stage, seeds), (loss, score) in zip(histories.items(), grid.T, strict=True):
        for number, (seed, rows) in enumerate(seeds.items()):
            style = {"color": PALETTE[number % len(PALETTE)], "linewidth": 1.4}
            loss.plot(*_column(rows, "loss", 1), label=seed, **style)
            steps, accuracy = _column(rows, "validation_score", 100)
            score.plot(steps, accuracy, **style)
            if accuracy:
                best = int(np.argmax(accuracy))
                score.plot(steps[best], accuracy[best], "*", markersize=12, color=style["color"])
        loss.set_title(stage, fontsize=11)
        score.set_xlabel("training step")
        score.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _clean(loss)
        _clean(score)
    grid[0, 0].set_ylabel("training loss")
    grid[1, 0].set_ylabel("validation accuracy (%)")
    lines, _ = grid[0, 0].get_legend_handles_labels()
    star = Line2D([], [], color=GREY, marker="*", markersize=12, linestyle="", label="best")
    figure.legend(
        handles=[*lines, star], loc="outside lower center", ncols=7, frameon=False, fontsize=9
    )
    return _png(figure)


def _column(rows: Sequence[Row], name: str, factor: float) -> tuple[list[float], list[float]]:
    """Steps and values times factor of the rows that have the value."""
    there = [row for row in rows if name in row]
    return [row["step"] for row in there], [factor * row[name] for row in there]


def principal_plane(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plane that keeps the most variance of latents [T, Z].

    Returns its origin [Z], its orthonormal axes [2, Z], each with its largest entry positive, and
    the share of the variance along each [2].
    """
    origin = latents.mean(axis=0)
    _, spread, axes = np.linalg.svd(latents - origin, full_matrices=False)
    axes = axes[:2]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1)
    return origin, axes * np.sign(largest), spread[:2] ** 2 / np.sum(spread**2)


def latent_map(
    adapted: np.ndarray,
    adapted_families: Sequence[str],
    generated: np.ndarray,
    generated_families: Sequence[str],
) -> bytes:
    """Latents in the principal plane of the adapted ones, coloured by question family.

    adapted: [T_train, Z]; generated: [T_test, Z]; families: one name for each row.
    """
    origin, plane, share = principal_plane(adapted)
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots()
    families = sorted({*adapted_families, *generated_families})
    handles = []
    for number, family in enumerate(families):
        colour = PALETTE[number % len(PALETTE)]
        shape = SHAPES[number // len(PALETTE) % len(SHAPES)]
        small = {"facecolor": colour, "marker": shape, "s": 16, "alpha": 0.5, "linewidth": 0}
        large = {"facecolor": colour, "marker": shape, "s": 60, "edgecolor": "black"}
        for latents, names, look, order in (
            (adapted, adapted_families, small, 2),
            (generated, generated_families, large, 3),
        ):
            points = (latents[np.array(names) == family] - origin) @ plane.T
            axes.scatter(points[:, 0], points[:, 1], zorder=order, **look)
        handles.append(Line2D([], [], linestyle="", color=colour, marker=shape, label=family))
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({share[1]:.0%})")
    _clean(axes)
    handles += _kinds_of_latents()
    figure.legend(
        handles=handles,
        loc="outside right center",
        ncols=-(-len(handles) // 30),
        frameon=False,
        fontsize=9,
    )
    return _png(figure)


def _kinds_of_latents() -> list[Line2D]:
    style = {"linestyle": "", "color": GREY, "marker": "o"}
    return [
        Line2D([], [], linestyle="", label=" "),
        Line2D([], [], **style, markersize=4, label="adapted to a training task"),
        Line2D(
            [],
            [],
            **style,
            markersize=8,
            markeredgecolor="black",
            label="generated for a test task",
        ),
    ]


def example_scenes(scenes: Sequence[Scene]) -> bytes:
    """A grid of scenes, each with its question above and the answers below."""
    columns = 4
    rows = -(-len(scenes) // columns)
    figure = Figure(figsize=(10, 3.3 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, scene in itertools.zip_longest(grid.flat, scenes):
        if scene is None:
            axes.remove()
        else:
            _draw_scene(axes, scene)
    return _png(figure)


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


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
