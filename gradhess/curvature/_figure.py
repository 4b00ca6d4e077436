"""The picture of a report: cloud and fit, spectra, commutator beside its baseline."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from gradhess._plot import figure as look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradhess.curvature._report import CurvatureReport

BLUE, ORANGE, GREEN = look.COLOURS[:3]
CLOSE: Final = 0.1
"""A diamond this close to the end of a bar, as a share of the axis, is in the way of its number."""
BELOW_FIT: Final = 1e-3
"""Points below this share of the smallest fitted eigenvalue are left out of the cloud: they would squeeze the rest."""


def save(report: CurvatureReport, path: Path) -> None:
    look.save(draw(report), path)


def png(report: CurvatureReport) -> bytes:
    """The picture in memory."""
    target = io.BytesIO()
    draw(report).savefig(target, format="png")
    return target.getvalue()


def draw(report: CurvatureReport) -> Figure:
    figure = look.new_figure(13.0, 4.3)
    cloud, spectra, commutators = figure.subplots(1, 3, width_ratios=(1.15, 1.0, 0.85))
    _cloud(cloud, report)
    _spectra(spectra, report)
    _commutators(commutators, report)
    look.title(figure, report.title())
    return figure


def _cloud(axes: Axes, report: CurvatureReport) -> None:
    d = report.curvature.diagonals
    drawn = (d.floor < d.H) & (d.C > 0)
    fitted = drawn & (np.arange(d.H.size) < report.top)
    look.tidy(axes, x="eigenvalue of H, λᵢ", y="C and M along that eigenvector")
    if not fitted.any():
        _nothing(axes)
        return
    rest = drawn & ~fitted & (BELOW_FIT * d.H[fitted].min() < d.H)
    axes.set_xscale("log")
    axes.set_yscale("log")
    x = np.array([d.H[fitted].min(), d.H[fitted].max()])
    axes.plot(d.H[rest], d.C[rest], "o", color=look.MUTED, markersize=3, alpha=0.35, label="C, not fitted")
    axes.plot(
        d.H[fitted], d.C[fitted], "o", color=BLUE, markersize=4.5, alpha=0.75, label=_label("C", report.fit_C)
    )
    if (d.M[fitted] > 0).all():
        # M has another unit than C: moved to the same height, so that the slopes can be compared.
        level = np.exp(np.mean(np.log(d.C[fitted]) - np.log(d.M[fitted])))
        axes.plot(
            d.H[fitted],
            level * d.M[fitted],
            "^",
            markerfacecolor="none",
            color=ORANGE,
            markersize=5,
            alpha=0.8,
            label=_label("M, moved", report.fit_M),
        )
    if report.fit_C is not None:
        top = 10.0 ** (report.fit_C.intercept + report.fit_C.exponent * np.log10(x[1]))
        axes.plot(
            x, top * (x / x[1]) ** report.fit_C.exponent, "-", color=look.INK, linewidth=1.6, label="fit to C"
        )
        for slope, dashes in ((1, (4, 2)), (2, (1, 1.5))):
            axes.plot(
                x,
                top * (x / x[1]) ** slope,
                color=look.MUTED,
                linewidth=1.2,
                dashes=dashes,
                label=f"slope {slope}",
            )
    low = d.C[fitted | rest].min()
    axes.set_ylim(bottom=low / 3)
    _legend(axes, "upper left")


def _spectra(axes: Axes, report: CurvatureReport) -> None:
    d = report.curvature.diagonals
    look.tidy(axes, x="rank of the eigenvalue of H", y="relative to the largest")
    lines: list[tuple[str, Any, str, str]] = [
        ("λᵢ of H", d.H, GREEN, "-"),
        ("Cᵢᵢ", d.C, BLUE, "--"),
        ("Mᵢᵢ", d.M, ORANGE, ":"),
    ]
    shown = False
    for label, values, colour, style in lines:
        largest = values.max(initial=0.0)
        if largest > 0:
            relative = np.where(values > 1e-12 * largest, values / largest, np.nan)
            axes.plot(
                np.arange(1, values.size + 1), relative, style, color=colour, linewidth=1.8, label=label
            )
            shown = True
    if not shown:
        _nothing(axes)
        return
    axes.set_yscale("log")
    axes.axvline(report.top, color=look.GRID, linewidth=1.2, zorder=0)
    _legend(axes, "upper right")


def _commutators(axes: Axes, report: CurvatureReport) -> None:
    look.tidy(axes, x="", y="size of CH - HC")
    found = (report.commutator, report.commutator_window, report.commutator_product)
    if all(np.isnan(item.value) for item in found):
        _nothing(axes)
        return
    tallest = max(max(item.value, *item.baseline, 0.0) for item in found)
    for position, item in enumerate(found):
        label = position == 0
        axes.bar(position, item.value, width=0.5, color=BLUE, label="C and H" if label else None)
        spots = np.linspace(-0.18, 0.18, item.baseline.size) + position
        axes.plot(
            spots,
            item.baseline,
            "D",
            color=ORANGE,
            markersize=5,
            label="C rotated at random" if label else None,
        )
        height = item.value
        if item.baseline.size and item.baseline.min() < item.value + CLOSE * tallest:
            height = max(
                item.value, item.baseline.max()
            )  # the number goes above the diamonds, not among them
        axes.annotate(
            f"{item.value:.2g}", (position, height), xytext=(0, 4), textcoords="offset points",
            ha="center", fontsize=look.TEXT_SIZE, color=look.INK,
        )  # fmt: skip
    i0, i1 = report.window
    axes.set_xticks(range(3), ["over ‖CH‖", f"over ‖CH‖,\n{i0 + 1} to {i1}", "over ‖C‖ ‖H‖"])
    axes.set_xlim(-0.6, 2.6)
    axes.set_ylim(0, 1.3 * tallest if tallest > 0 else 1)
    axes.grid(False, axis="x")
    _legend(axes, "upper right")


def _label(name: str, fit: Any) -> str:
    if fit is None:
        return name
    error = "" if np.isnan(fit.stderr) else f" ± {fit.stderr:.3f}"
    return f"{name}: exponent {fit.exponent:.3f}{error}"


def _legend(axes: Axes, place: Literal["upper left", "upper right", "lower right"]) -> None:
    axes.legend(frameon=False, loc=place, fontsize=look.TEXT_SIZE - 1, labelcolor=look.INK)


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "zero", transform=axes.transAxes, ha="center", va="center", color=look.MUTED)
