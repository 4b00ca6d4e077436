"""Figures of recovered Hessians."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess._plot import figure as look
from gradhess.recovery.arguments import symmetric
from gradhess.recovery.metrics import sampling_error, whitened_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradhess.recovery.estimate import HessianEstimate

MARKED_UP_TO: Final = 40
"""More eigenvalues than this are lines without markers."""


def draw_estimate(est: HessianEstimate, path: str | Path | None, reference: Any) -> Figure:
    """The spectrum with its sampling error, and errors against the number of gradients where any are known."""
    exact = None if reference is None else symmetric(reference, "reference", est.n_params)
    file = None if path is None else look.picture(path)
    # Of orthogonal noise, whose error is that of rounding, there is nothing to predict.
    errors = exact is not None or any(0 < value < np.inf for value in (est.sampling_error, est.bias_bound))
    figure = look.new_figure(9.0 if errors else 5.0, 4.0)
    axes = figure.subplots(1, 1 + errors, squeeze=False)[0]
    _spectrum(axes[0], est, exact)
    if errors:
        _errors(axes[1], est, exact)
    look.title(figure, f"Hessian from {est.n_gradients:,} gradients, {est.method}")
    if file is not None:
        look.save(figure, file)
    return figure


def _spectrum(axes: Axes, est: HessianEstimate, exact: Float64Array | None) -> None:
    values = np.linalg.eigvalsh(est.hessian)[::-1]
    rank = np.arange(1, len(values) + 1)
    shown = np.where(values > 0, values, np.nan)
    marker = "o" if len(values) <= MARKED_UP_TO else None
    error = est.sampling_error
    if 0 < error < 1:
        axes.fill_between(
            rank, shown / (1 + error), shown / (1 - error), color=look.COLOURS[0], alpha=0.15, linewidth=0,
            label="within the sampling error",
        )  # fmt: skip
    axes.plot(
        rank, shown, color=look.COLOURS[0], marker=marker, markersize=4.5, linewidth=1.6, label="recovered"
    )
    if exact is not None:
        true = np.linalg.eigvalsh(exact)[::-1]
        axes.plot(
            rank,
            np.where(true > 0, true, np.nan),
            color=look.COLOURS[1],
            linestyle="--",
            linewidth=1.6,
            label="exact",
        )
    axes.set_yscale("log")
    axes.locator_params(axis="x", integer=True)
    look.tidy(axes, x="rank", y="eigenvalue")
    legend(axes)


def _errors(axes: Axes, est: HessianEstimate, exact: Float64Array | None) -> None:
    d = est.n_params
    if 0 < est.sampling_error < np.inf:
        m = np.geomspace(max(2, est.n_gradients / 30), est.n_gradients * 30, 60)
        curve = 2 * np.sqrt(d / m) + d / m
        curve *= est.sampling_error / sampling_error(d, est.n_gradients)  # the factor of the method
        axes.plot(m, curve, color=look.COLOURS[0], linewidth=1.6, label="sampling error, predicted")
        axes.plot(
            [est.n_gradients],
            [est.sampling_error],
            "o",
            color=look.COLOURS[0],
            label="this estimate, predicted",
        )
    if 0 < est.bias_bound < np.inf:
        axes.axhline(
            est.bias_bound, color=look.COLOURS[3], linestyle=":", linewidth=1.6, label="bias, estimated"
        )
    if exact is not None:
        axes.plot(
            [est.n_gradients],
            [whitened_error(est, exact)],
            "s",
            color=look.COLOURS[1],
            label="this estimate, actual",
        )
    axes.set_xscale("log")
    plain_log(axes)
    look.tidy(axes, x="number of gradients", y="whitened error")
    legend(axes)


def plain_log(axes: Axes) -> None:
    """A logarithmic scale of errors, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def legend(axes: Axes) -> None:
    """Without a frame, where there is something to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=look.TEXT_SIZE - 1, labelcolor=look.INK)
