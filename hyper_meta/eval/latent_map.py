"""Latents of networks in the plane of their largest variance, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hyper_meta.eval.figure_style import GREY, PALETTE, SHAPES, clean, png


def principal_plane(
    latents: Float[np.ndarray, "T Z"],
) -> tuple[Float[np.ndarray, " Z"], Float[np.ndarray, "2 Z"], Float[np.ndarray, " 2"]]:
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
    adapted: Float[np.ndarray, "T Z"],
    adapted_families: Sequence[str],
    generated: Float[np.ndarray, "n Z"],
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
        look = PALETTE[number % len(PALETTE)], SHAPES[number // len(PALETTE) % len(SHAPES)]
        for latents, names, draw in (
            (adapted, adapted_families, _draw_adapted),
            (generated, generated_families, _draw_generated),
        ):
            draw(axes, (latents[np.array(names) == family] - origin) @ plane.T, *look)
        handles.append(Line2D([], [], linestyle="", color=look[0], marker=look[1], label=family))
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({share[1]:.0%})")
    clean(axes)
    handles += _kinds_of_latents()
    figure.legend(
        handles=handles,
        loc="outside right center",
        ncols=-(-len(handles) // 30),
        frameon=False,
        fontsize=9,
    )
    return png(figure)


def _draw_adapted(axes: Axes, points: np.ndarray, colour: str, shape: str) -> None:
    look = {"facecolor": colour, "marker": shape, "s": 16, "alpha": 0.5, "linewidth": 0}
    axes.scatter(points[:, 0], points[:, 1], zorder=2, **look)


def _draw_generated(axes: Axes, points: np.ndarray, colour: str, shape: str) -> None:
    look = {"facecolor": colour, "marker": shape, "s": 60, "edgecolor": "black"}
    axes.scatter(points[:, 0], points[:, 1], zorder=3, **look)


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
