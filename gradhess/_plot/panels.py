"""Lines, points and their error bars on one or more panels beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from gradhess._plot import figure as look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS: Final = ("o", "s", "^", "D", "v", "P")
DASHES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
FEW_DECADES: Final = 3.0
MORE_COLOURS: Final = (*look.COLOURS, "#b03a48", "#4a5560")


@dataclass(frozen=True, slots=True)
class Series:
    """One line or cloud of points.

    ``errors`` are drawn as bars of that length up and down; ``colour`` picks one of six, by default in order.
    """

    label: str | None
    x: Any
    y: Any
    errors: Any = None
    kind: Literal["both", "line", "points"] = "both"
    colour: int | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """Series that share axes; ``levels`` are horizontal lines with their names at the left end."""

    series: Sequence[Series]
    x: str
    y: str
    x_log: bool = False
    y_log: bool = False
    levels: Sequence[tuple[str, float]] = field(default_factory=tuple)
    legend: str | None = "best"
    heading: str | None = None
    y_range: tuple[float, float] | None = None


def draw_panels(panels: Sequence[Panel], path: Path | None, *, title: str, height: float = 4.0) -> Figure:
    """Draw the panels side by side, into a PNG, PDF or SVG file if one is named."""
    figure = look.new_figure(min(4.6 * len(panels) + 0.6, 13.5) if len(panels) > 1 else 6.4, height)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, panel in zip(axes, panels, strict=True):
        _draw(place, panel)
    look.title(figure, title)
    if path is not None:
        look.save(figure, path)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    if panel.x_log:
        axes.set_xscale("log")
    if panel.y_log:
        axes.set_yscale("log")
    for position, series in enumerate(panel.series):
        style = (position if series.colour is None else series.colour) % len(MORE_COLOURS)
        axes.errorbar(
            series.x,
            series.y,
            yerr=series.errors,
            label=series.label,
            color=MORE_COLOURS[style],
            linestyle="none" if series.kind == "points" else DASHES[style],
            marker="none" if series.kind == "line" else MARKERS[style],
            markersize=4.5,
            linewidth=1.6,
            capsize=3,
            elinewidth=1.2,
        )
    for name, level in panel.levels:
        axes.axhline(level, color=look.MUTED, linewidth=1.0, linestyle=":")
        axes.annotate(
            name,
            (0.0, level),
            xycoords=("axes fraction", "data"),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=look.TEXT_SIZE - 1,
            color=look.MUTED,
        )
    look.tidy(axes, x=panel.x, y=panel.y)
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    elif panel.y_log:
        _whole_decades(axes)
    axes.margins(x=0.08)
    if panel.heading is not None:
        axes.set_title(panel.heading, fontsize=look.TEXT_SIZE, color=look.INK, loc="left")
    if panel.legend and any(series.label for series in panel.series):
        place: Any = panel.legend
        axes.legend(
            frameon=False,
            loc=place,
            fontsize=look.TEXT_SIZE - 1,
            labelcolor=look.INK,
            handlelength=2.4,
        )


def _whole_decades(axes: Axes) -> None:
    """Limits at powers of ten where the data span few of them, so that the labels are plain."""
    low, high = np.log10(axes.get_ylim())
    if high - low < FEW_DECADES:
        axes.set_ylim(10.0 ** np.floor(low), 10.0 ** np.ceil(high))
