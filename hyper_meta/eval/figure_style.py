"""The look of every figure: colours, shapes and grid, and the PNG of a figure.

Figures are made without pyplot, so there is no open figure or setting to leave behind. Colours are
those of Okabe and Ito (2008), told apart by the colour-blind; shapes and line styles say the same.
"""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PINK, GREY, INK = "#56B4E9", "#CC79A7", "#8C8C8C", "#333333"
PALETTE = (BLUE, ORANGE, GREEN, RED, SKY, PINK, INK)
SHAPES = "os^Dv"
STYLES = ((0, (5, 1, 1, 1, 1, 1)), ":", "-.", "--", "-")
DOTS_PER_INCH = 150


def clean(axes: Axes) -> None:
    """Leaves the axes a light grid and no frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
