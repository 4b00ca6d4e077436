"""Eigenvalues on a logarithmic scale, and the share of the variance that the largest of them hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from gradhess._plot import figure as look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKED_UP_TO: Final = 40
"""More eigenvalues than this are a line without markers."""
ZERO: Final = 1e-14
"""Eigenvalues below this share of the largest are rounding, and are not drawn."""
HALF_DECADE: Final = 0.5
DECADES_SHOWN_WHOLE: Final = 1.5
"""Data that span less would be squeezed between two powers of ten."""
MARKERS: Final = ("o", "s", "^", "D")
DASHES: Final = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvalues of one matrix, and its name in the legend."""

    label: str
    eigenvalues: npt.NDArray[np.float64]
    """(p,), not negative, in any order."""


def draw_spectra(spectra: Sequence[Spectrum], path: Path, *, title: str) -> None:
    """Draw up to four spectra side by side into a PNG, PDF or SVG file."""
    figure = look.new_figure(9.0, 4.0)
    left, right = figure.subplots(1, 2)
    for position, spectrum in enumerate(spectra):
        values = np.sort(spectrum.eigenvalues)[::-1]
        _line(left, _without_zeros(values), spectrum.label, position)
        share = 100.0 * np.cumsum(values) / max(float(values.sum()), np.finfo(float).tiny)
        _line(right, share, spectrum.label, position)
    left.set_yscale("log")
    _set_scale(left)
    right.set_ylim(0, 103)
    look.tidy(left, x="rank", y="eigenvalue")
    look.tidy(right, x="rank", y="cumulative share (%)")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    right.legend(frameon=False, loc="lower right", fontsize=look.TEXT_SIZE, labelcolor=look.INK)
    look.title(figure, title)
    look.save(figure, path)


def _without_zeros(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Zeros as NaN, which leaves them out of a logarithmic plot."""
    return np.where(values > ZERO * values[0], values, np.nan)


def _set_scale(axes: Axes) -> None:
    """Limits at powers of ten if the data span some decades; else limits close to them, and plain numbers."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.lines])
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return
    low, high = float(np.log10(drawn.min())), float(np.log10(drawn.max()))
    if high - low >= DECADES_SHOWN_WHOLE:
        axes.set_ylim(10.0 ** (np.floor(low) - 0.05), 10.0 ** (np.ceil(high) + 0.05))
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    margin = max(0.06 * (high - low), 0.01)
    axes.set_ylim(10.0 ** (low - margin), 10.0 ** (high + margin))
    axes.yaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5)) if high - low > HALF_DECADE else MaxNLocator(nbins=7)
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _line(axes: Axes, values: npt.NDArray[np.float64], label: str, position: int) -> None:
    axes.plot(
        np.arange(1, values.size + 1),
        values,
        label=label,
        color=look.COLOURS[position],
        linestyle=DASHES[position],
        marker=MARKERS[position] if values.size <= MARKED_UP_TO else None,
        markersize=4.5,
        linewidth=1.6,
    )
