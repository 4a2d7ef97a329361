"""The figures of the notebook, from what `inspection` computes: arrays in, matplotlib figures out.

A plane is what eval.latent_map.principal_plane gives; every map shows the adapted latents [T, Z] of
the training tasks in it.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from hyper_meta.eval.figure_style import BLUE, GREEN, GREY, INK, ORANGE, PALETTE
from hyper_meta.inspect.movements import Movement, Neighbours
from hyper_meta.inspect.networks import STATISTICS

DOTS_PER_INCH = 110
ADAPTED, GENERATED = "adapted to a training task", "generated for a test task"
GOAL = "adapted to the question's labelled images"
OUTLINED = {"edgecolor": "black"}

Plane = tuple[Float[np.ndarray, " Z"], Float[np.ndarray, "2 Z"], Float[np.ndarray, " 2"]]


def on_plane(plane: Plane, latents: Float[np.ndarray, "*B Z"]) -> Float[np.ndarray, "*B 2"]:
    """[..., Z] to the coordinates [..., 2] in a plane."""
    origin, axes, _ = plane
    return (latents - origin) @ axes.T


def draw_families(
    plane: Plane,
    adapted: Float[np.ndarray, "T Z"],
    adapted_families: Sequence[str],
    generated: Float[np.ndarray, "n Z"],
    generated_families: Sequence[str],
) -> Figure:
    """A small map for each family, its latents before those of all others.

    adapted: [T_train, Z]; generated: [T_test, Z]; families: one name for each row.
    """
    names = sorted({*adapted_families, *generated_families})
    columns = min(len(names), 6)
    rows = -(-len(names) // columns)
    figure = _figure(max(2 * columns, 5), 2 * rows + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    everyone = on_plane(plane, np.concatenate([adapted, generated]))
    for number, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        colour = PALETTE[number % len(PALETTE)]
        _scatter(axes, everyone, s=4, color="0.88")
        for latents, kinds, look in (
            (adapted, adapted_families, {"s": 16, "alpha": 0.75, "label": ADAPTED}),
            (generated, generated_families, {"s": 42, "edgecolor": "black", "label": GENERATED}),
        ):
            _scatter(axes, on_plane(plane, latents[np.array(kinds) == name]), color=colour, **look)
        axes.set_title(name, fontsize=9)
        axes.set(xticks=[], yticks=[])
    _legend(figure, grid.flat[0])
    return figure


def draw_movements(
    plane: Plane,
    adapted: Float[np.ndarray, "T Z"],
    movements: Sequence[Movement],
    *,
    places: str,
    chosen: float,
) -> Figure:
    """Latents that move over a map of the adapted ones [T, Z], and the curves along the way.

    places: what the movements' places are; chosen: the one that is best on validation tasks.
    """
    figure = _figure(12, 6)
    curves = list(movements[0].curves)
    panels = figure.subplot_mosaic([["map", name] for name in curves], width_ratios=(1.3, 1))
    _draw_map(panels["map"], plane, adapted)
    for name in curves:
        _clean(panels[name])
        panels[name].set(xlabel=places, ylabel=name)
        panels[name].xaxis.set_major_locator(MaxNLocator(integer=True))
    for movement, colour in zip(movements, itertools.cycle(PALETTE), strict=False):
        _draw_path(panels["map"], plane, movement, colour)
        for name in curves:
            line = movement.places, movement.curves[name]
            panels[name].plot(*line, color=colour, marker=".", linewidth=1.6)
        goal = {"color": colour, "linestyle": ":", "linewidth": 1.4}
        panels["accuracy"].axhline(movement.goal_accuracy, **goal)
    for name in curves:
        panels[name].axvline(chosen, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    # Of what is in every colour.
    style = {"color": GREY, "linewidth": 1.4}
    panels["map"].scatter([], [], color=GREY, marker="X", s=90, label=GOAL, **OUTLINED)
    panels["map"].plot([], [], linestyle=":", label=f"{GOAL}: its accuracy", **style)
    panels["map"].plot([], [], linestyle="--", label="best on validation tasks", **style)
    _legend(figure, panels["map"])
    return figure


def _draw_path(axes: Axes, plane: Plane, movement: Movement, colour: str) -> None:
    x, y = on_plane(plane, movement.latents).T
    axes.plot(x, y, color=colour, marker=".", linewidth=1.6, label=_words(movement.sentence))
    first, last = (f"{movement.places[end]:g}" for end in (0, -1))
    for end, text in ((0, first), (-1, last)):
        axes.annotate(text, (x[end], y[end]), xytext=(4, 4), textcoords="offset points", size=9)
    _scatter(axes, on_plane(plane, movement.goal[None]), color=colour, marker="X", s=90, **OUTLINED)


def draw_neighbours(plane: Plane, adapted: Float[np.ndarray, "T Z"], found: Neighbours) -> Figure:
    """A sentence's samples and their mean over a map of the adapted latents [T, Z], the nearest
    training tasks marked."""
    figure = _figure(8, 5.5)
    axes = figure.subplots()
    _draw_map(axes, plane, adapted)
    nearest = {
        "nearest by text": (found.by_text, {"marker": "s", "edgecolor": BLUE, "s": 90}),
        "nearest by latent": (found.by_latent, {"marker": "o", "edgecolor": ORANGE, "s": 170}),
    }
    for label, (rows, look) in nearest.items():
        points = on_plane(plane, adapted[rows])
        axes.scatter(*points.T, facecolor="none", linewidth=1.8, label=label, zorder=3, **look)
    _scatter(axes, on_plane(plane, found.samples), color=GREEN, s=30, label="samples")
    mean = on_plane(plane, found.samples.mean(axis=0, keepdims=True))
    _scatter(axes, mean, color=GREEN, marker="*", s=260, label="their mean", **OUTLINED)
    _legend(figure, axes)
    return figure


def draw_interpolation(
    shares: Float[np.ndarray, " n"],
    accuracies: Mapping[str, Float[np.ndarray, " n"]],
    start: Mapping[str, float],
) -> Figure:
    """Accuracy on two tasks over shares [n] of the way from the first latent to the second.

    accuracies: sentence -> [n]; start: sentence -> accuracy of the network of e0.
    """
    figure = _figure(8, 4.2)
    axes = figure.subplots()
    for (sentence, values), colour in zip(accuracies.items(), (BLUE, ORANGE), strict=True):
        axes.plot(shares, values, color=colour, marker=".", label=_words(sentence))
        axes.axhline(start[sentence], color=colour, linestyle=":", linewidth=1.4)
    axes.plot([], [], color=GREY, linestyle=":", label="the network of e0, on each")
    axes.set(xlabel="share of the way from the first latent to the second", ylabel="accuracy")
    _clean(axes)
    _legend(figure, axes)
    return figure


def draw_statistics(
    layers: Sequence[str], statistics: Mapping[str, Float[np.ndarray, "_ layers 3"]]
) -> Figure:
    """Boxes of STATISTICS of each layer, kind by kind; statistics: kind -> [n, layers, 3]."""
    figure = _figure(12, 3.9)
    grid = figure.subplots(1, len(STATISTICS))
    width, colours = 0.8 / len(statistics), _kind_colours(statistics)
    for column, (axes, name) in enumerate(zip(grid, STATISTICS, strict=True)):
        for number, (kind, values) in enumerate(statistics.items()):
            axes.boxplot(
                values[:, :, column],
                positions=np.arange(len(layers)) + (number + 0.5) * width - 0.4,
                widths=0.85 * width,
                patch_artist=True,
                boxprops={"facecolor": colours[kind]},
                medianprops={"color": INK},
                flierprops={"markersize": 2, "markeredgecolor": GREY},
                label=kind,
            )
        axes.set_xticks(range(len(layers)), layers)
        axes.set_title(name, fontsize=11)
        _clean(axes)
    norms = grid[STATISTICS.index("norm")]
    norms.set_yscale("log")
    norms.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    norms.yaxis.set_major_formatter("{x:g}")
    norms.yaxis.set_minor_formatter("")
    _legend(figure, grid[0])
    return figure


def draw_distances(distances: Mapping[str, Float[np.ndarray, " _"]]) -> Figure:
    """Histograms of distances between networks, one above the other; distances: kind -> [n]."""
    figure = _figure(8, 1.15 * len(distances) + 0.8)
    grid = figure.subplots(len(distances), 1, sharex=True, squeeze=False)[:, 0]
    largest = max(values.max() for values in distances.values())
    edges = np.linspace(0, 1.02 * largest, 60)
    colours = _kind_colours(distances)
    for axes, (kind, values) in zip(grid, distances.items(), strict=True):
        axes.hist(values, edges, color=colours[kind])
        axes.axvline(np.median(values), color=INK, linewidth=1.2)
        axes.set_title(f"{kind}: median {np.median(values):.3g}", fontsize=9, loc="left")
        axes.set_yticks([])
        _clean(axes)
    grid[-1].set_xlabel("distance of the weights to the nearest adapted network")
    return figure


def _kind_colours(kinds: Iterable[str]) -> dict[str, str]:
    """Greys for adapted networks, which others are measured against."""
    greys, colours = itertools.cycle(("0.75", "0.6", "0.45")), itertools.cycle(PALETTE)
    return {kind: next(greys if kind.startswith("adapted") else colours) for kind in kinds}


def _draw_map(axes: Axes, plane: Plane, adapted: np.ndarray) -> None:
    share = plane[2]
    _scatter(axes, on_plane(plane, adapted), color="0.8", s=14, label=ADAPTED)
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({share[1]:.0%})")
    _clean(axes)


def _scatter(axes: Axes, points: np.ndarray, **look: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], **{"linewidth": 0.7, "zorder": 3, **look})


def _figure(width: float, height: float) -> Figure:
    """Without pyplot, as in eval.figure_style; a notebook shows what a cell ends with."""
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _words(sentence: str) -> str:
    """A sentence for a legend, its dollar signs no mathematics."""
    return textwrap.shorten(sentence, 60, placeholder=" ...").replace("$", r"\$")


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.93", linewidth=0.8)
    axes.set_axisbelow(True)
