"""What ``analyze`` found: variance, bound, and how large a batch must be before the signal shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gradhess import _validation as check
from gradhess._plot import Panel, Series, draw_panels
from gradhess._plot.figure import picture
from gradhess.informativeness._bounds import Bound
from gradhess.informativeness._estimate import (
    Estimate,
    counted,
    needed_batch,
    needed_batches,
    over_noise,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZES: Final = (1, 10, 100, 1_000, 10_000, 100_000)
MANY_STEPS: Final = 10**15


@dataclass(frozen=True, slots=True)
class Report:
    """What ``analyze`` found.

    Attributes
    ----------
    model_parameters, n_targets, n_inputs : int
        p; targets and inputs that were enumerated or drawn.
    exact : bool
        Whether both were enumerated.
    variance : Estimate
        ``Var_h[G_h]``, the informativeness; its standard error is 0 where it is exact.
    naive : float or None
        The biased estimate beside it; None where it is exact.
    noise : float
        ``E_h tr Cov_x`` of the gradient of one input's loss: what a batch of B independent inputs divides by B. 0 where
        it is below the rounding of the second moment that it is a difference of.
    collision_entropy : float
        Of the input distribution, in nats. Infinite where it was estimated and no two draws were equal.
    epsilon : float or None
        Pairwise dependence of the class, weighted by the inputs; None where it cannot be had.
    bound : Bound or None
        On the variance; None where epsilon is.
    batch_sizes : tuple of int
        Those that ``summary`` and ``plot`` show.
    notes : tuple of str
        What could not be computed, and why.
    """

    model_parameters: int
    n_targets: int
    n_inputs: int
    exact: bool
    variance: Estimate
    naive: float | None
    noise: float
    collision_entropy: float
    epsilon: float | None
    bound: Bound | None
    batch_sizes: tuple[int, ...]
    notes: tuple[str, ...]

    def signal_to_noise(self, batch_size: int) -> Estimate:
        """``batch_size * variance / noise`` of a mini-batch gradient; infinite without noise."""
        size = check.count(batch_size, "batch_size", 1)
        return over_noise(self.variance, size, self.noise)

    def batch_size(self, signal_to_noise: float = 1.0) -> float:
        """Inputs in a batch at which the signal is that many times the noise; infinite where there is no signal."""
        wanted = check.positive(signal_to_noise, "signal_to_noise")
        return needed_batch(self.variance.value, self.noise, wanted)

    def batch_size_range(self, n_errors: float = 2.0) -> tuple[float, float]:
        """The same for the variance plus and minus ``n_errors`` standard errors; (b, infinity) if it may be zero."""
        return needed_batches(self.variance, self.noise, n_errors)

    def gradient_steps(self, batch_size: int) -> float:
        """Mini-batch gradients at these weights whose mean has as much signal as noise.

        ``1 / signal_to_noise``, rounded up; infinite where there is no signal.

        A lower bound on the steps in which training with such batches can tell the targets of the class apart, as long
        as the weights, and with them the variance, do not change much.
        """
        ratio = self.signal_to_noise(batch_size).value
        return math.inf if not ratio > 0 else float(max(1, math.ceil(1.0 / ratio - 1e-12)))

    def summary(self) -> str:
        """A table in plain text."""
        how = "all" if self.exact else "a sample of"
        lines = [
            f"gradient of {counted(self.model_parameters, 'parameter')}, {how} {counted(self.n_targets, 'target')} and "
            f"{counted(self.n_inputs, 'input')}",
            _row("variance over targets", _number(self.variance.value, self._error())),
        ]
        if self.naive is not None:
            lines.append(_row("naive estimate of it", f"{self.naive:.4g} (biased upwards)"))
        lines.append(_row("noise of one input", f"{self.noise:.4g}" if self.noise else "below rounding"))
        lines.append(_row("collision entropy E_c", f"{self.collision_entropy:.4g} nats"))
        if self.bound is not None and self.epsilon is not None:
            lines.append(_row("pairwise dependence", f"{self.epsilon:.4g}"))
            lines.append(_row("bound (square root form)", f"{self.bound.tight:.4g}"))
            lines.append(_row("bound (sum form)", f"{self.bound.value:.4g}"))
        low, high = self.batch_size_range()
        shown = f"{self.batch_size():,.0f}" + ("" if self.exact else f" ({low:,.0f} to {high:,.0f})")
        lines.append(_row("batch for signal = noise", shown))
        lines.append("")
        lines.append(f"{'batch size':>12}{'signal / noise':>24}{'gradient steps':>18}")
        for size in self.batch_sizes:
            ratio, steps = self.signal_to_noise(size), self.gradient_steps(size)
            count = f"{steps:,.0f}" if steps < MANY_STEPS else "none"
            error = None if self.exact else ratio.stderr
            lines.append(f"{size:>12,}{_number(ratio.value, error):>24}{count:>18}")
        notes = [*self.notes, *self._why_no_ratio()]
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])

    def _why_no_ratio(self) -> tuple[str, ...]:
        """Why there are dashes; of all batch sizes or of none."""
        if self.noise > 0 or (self.noise == 0 and self.variance.value > 0):
            return ()
        if self.noise < 0:
            return ("signal / noise has no value: the estimated noise is negative; draw more inputs",)
        if self.variance.value < 0:
            return ("signal / noise has no value: no noise was seen, and the estimated variance is negative",)
        one = " (there is one)" if self.n_inputs == 1 else ""
        return (f"signal / noise is 0 / 0: the gradient differs neither between targets nor inputs{one}",)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<Report: {self.model_parameters:,} parameters, {self.n_targets:,} targets, {self.n_inputs:,} inputs>"

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the signal-to-noise ratio over batch sizes, and the variance below its bounds.

        Parameters
        ----------
        path : str or Path, optional
            A ``.png``, ``.pdf`` or ``.svg`` file to write. Needs matplotlib.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        InputError
            The name does not end in .png, .pdf or .svg.
        """
        file = None if path is None else picture(path)
        panels = [self._ratio_panel()]
        if self.bound is not None:
            panels.append(self._bound_panel(self.bound))
        return draw_panels(panels, file, title="what the gradient says about its target")

    def _ratio_panel(self) -> Panel:
        """On a logarithmic scale, which has no place for a ratio that is not positive, where any is."""
        found = [(size, self.signal_to_noise(size)) for size in self.batch_sizes]
        shown = [(size, ratio) for size, ratio in found if math.isfinite(ratio.value)]
        log = any(ratio.value > 0 for _, ratio in shown)
        series = Series(
            None,
            [size for size, _ in shown],
            [ratio.value for _, ratio in shown],
            None if self.exact else [ratio.stderr for _, ratio in shown],
        )
        heading = None if shown else "no noise: the ratio is infinite, or has no value"
        return Panel(
            [series] if shown else [],
            "batch size",
            "signal / noise",
            x_log=True,
            y_log=log,
            levels=[("signal = noise", 1.0)] if shown else [],
            heading=heading,
        )

    def _bound_panel(self, top: Bound) -> Panel:
        heights = {"variance": self.variance.value, "tight bound": top.tight, "sum bound": top.value}
        bars = Series(None, list(heights), list(heights.values()), kind="points", colour=1)
        # A variance of zero has a place on a linear scale only.
        return Panel([bars], "", "variance over targets", y_log=min(heights.values()) > 0)

    def _error(self) -> float | None:
        return None if self.exact else self.variance.stderr


def _row(name: str, value: str) -> str:
    return f"  {name:<26}{value}"


def _number(value: float, error: float | None) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if error is None or math.isnan(error) else f"{value:.4g} ± {error:.2g}"
