"""The picture of a report: cloud and fit, spectra, commutator beside its baseline."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess._plot import figure as look
from gradhess.curvature._alignment import what_is_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradhess.curvature._report import CurvatureReport

BLUE, ORANGE, GREEN = look.COLOURS[:3]
SMALLEST: Final = 1e-12
"""Eigenvalues below this share of the largest are rounding for the eye."""
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
        _nothing(axes, _why(report) or "no eigenvalue above rounding")
        return
    rest = drawn & ~fitted & (BELOW_FIT * d.H[fitted].min() < d.H)
    axes.set_xscale("log")
    axes.set_yscale("log")
    x = np.array([d.H[fitted].min(), d.H[fitted].max()])
    if rest.any():
        axes.plot(
            d.H[rest], d.C[rest], "o", color=look.MUTED, markersize=3, alpha=0.35, label="C, not fitted"
        )
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
    from matplotlib.ticker import MaxNLocator  # matplotlib is optional

    d = report.curvature.diagonals
    look.tidy(axes, x="rank of the eigenvalue of H", y="relative to the largest")
    lines: list[tuple[str, Any, str, str]] = [
        ("λᵢ of H", d.H, GREEN, "-"),
        ("Cᵢᵢ", d.C, BLUE, "--"),
        ("Mᵢᵢ", d.M, ORANGE, ":"),
    ]
    ranks = np.arange(1, d.H.size + 1)
    shown = False
    for label, values, colour, style in lines:
        largest = values.max(initial=0.0)
        if largest > 0:
            axes.plot(ranks, _above(values, largest), style, color=colour, linewidth=1.8, label=label)
            shown = True
    if not shown:
        _nothing(axes, "C, H and M have nothing above zero")
        return
    if d.H.max(initial=0.0) > 0 and d.H[-1] < -max(d.floor, SMALLEST * d.H[0]):
        # C and M rise again along these eigenvectors, which nobody would understand without them.
        axes.plot(ranks, _above(-d.H, d.H[0]), ".", color=GREEN, markersize=4, label="-λᵢ, where negative")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if report.top < np.count_nonzero(d.floor < d.H):
        axes.axvline(report.top, color=look.MUTED, linewidth=1.0, linestyle="dashdot", label="end of the fit")
    _legend(axes, "lower left", over_lines=True)  # which a descending curve leaves free


def _above(values: Float64Array, largest: float) -> Float64Array:
    """Relative to the largest; NaN, which is not drawn, below rounding."""
    return np.where(values > SMALLEST * largest, values / largest, np.nan)


def _commutators(axes: Axes, report: CurvatureReport) -> None:
    look.tidy(axes, x="", y="size of CH - HC")
    found = (report.commutator, report.commutator_window, report.commutator_product)
    if all(np.isnan(item.value) for item in found):
        _nothing(axes, _why(report))
        return
    tallest = max(max(item.value, *item.baseline, 0.0) for item in found)
    for position, item in enumerate(found):
        label = position == 0
        # Side by side, so that the number above the bar is never among the diamonds.
        bar = position - 0.17
        axes.bar(bar, item.value, width=0.3, color=BLUE, label="C and H" if label else None)
        spots = np.linspace(0.1, 0.38, item.baseline.size) + position
        axes.plot(
            spots,
            item.baseline,
            "D",
            color=ORANGE,
            markersize=4.5,
            label="C rotated at random" if label else None,
        )
        axes.annotate(
            f"{item.value:.2g}", (bar, item.value), xytext=(0, 4), textcoords="offset points",
            ha="center", fontsize=look.TEXT_SIZE, color=look.INK,
        )  # fmt: skip
    i0, i1 = report.window
    axes.set_xticks(range(3), ["over ‖CH‖", f"over ‖CH‖,\n{i0 + 1} to {i1}", "over ‖C‖ ‖H‖"])
    axes.set_xlim(-0.6, 2.6)
    axes.set_ylim(0, 1.3 * tallest if tallest > 0 else 1)
    axes.grid(False, axis="x")
    _legend(axes, "upper right")


def _why(report: CurvatureReport) -> str:
    return what_is_zero(report.curvature.C, report.curvature.H)


def _label(name: str, fit: Any) -> str:
    if fit is None:
        return name
    error = "" if np.isnan(fit.stderr) else f" ± {fit.stderr:.3f}"
    return f"{name}: exponent {fit.exponent:.3f}{error}"


def _legend(
    axes: Axes, place: Literal["upper left", "upper right", "lower left"], *, over_lines: bool = False
) -> None:
    axes.legend(
        loc=place,
        fontsize=look.TEXT_SIZE - 1,
        labelcolor=look.INK,
        frameon=over_lines,
        facecolor="white",
        edgecolor="none",
    )


def _nothing(axes: Axes, why: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=look.MUTED)
