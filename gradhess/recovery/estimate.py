"""What ``recover_hessian`` returns: the Hessian, what it was made of, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess._streaming import StreamingCovariance
from gradhess.recovery.calibration import gradient_factor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BIASED: Final = ("calibrated", "rescaled")
"""Methods that keep the part of the covariance that is not of the noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HessianEstimate:
    """A Hessian recovered from gradients, made by ``recover_hessian``."""

    hessian: Float64Array
    """(d, d), symmetric: of the expected loss of a batch, or of that batch where the method uses one."""
    gradient: Float64Array
    """(d,): the mean gradient: free of the injected noise to rounding for antithetic and orthogonal, the mean of clean
    gradients for difference, and for the others the mean of noised ones, whose noise averages out."""
    covariance: StreamingCovariance
    """Of the batch gradients as they came, noise included."""
    n_gradients: int
    """m, gradients that were asked for."""
    noise_variance: float
    """s^2, injected."""
    method: str
    batch_size: int
    n_targets: int
    reduction: str
    existing_noise: float
    """What the oracle claims to be in the targets."""
    sampling_error: float
    """Predicted whitened operator-norm error from m being finite, of ``gradhess.recovery.sampling_error``, adjusted to
    the method. It is for Gaussian features: heavy tails make it larger in small batches."""
    bias_bound: float
    """The whitened error that more gradients would not remove: 0 for unbiased methods; of calibrated and rescaled
    ``2 q / sigma^2``, with the excess risk q told from the same gradients, and 0 if it is lost in their
    noise. That is right for Gaussian features and where no noise is in the targets but what the oracle claims. Heavy
    tails or unknown noise can make the bias far larger, and nothing in gradients with one level of noise would show it:
    antithetic does not have it. Infinite if q cannot be told: too few gradients, or a q that is not small
    against the batch."""
    pair_means: StreamingCovariance | None = None
    """antithetic: of ``(g+ + g-) / 2``, the clean gradients."""
    half_differences: StreamingCovariance | None = None
    """antithetic: of ``(g+ - g-) / 2`` about zero, the injected noise alone."""

    @property
    def n_params(self) -> int:
        """d."""
        return len(self.gradient)

    @property
    def second_moment(self) -> Float64Array:
        """``E[x x^T]`` (of a network ``E[J^T J]``, a row of J for each target): ``hessian`` without its scale."""
        n = self.batch_size * self.n_targets
        return self.hessian / (gradient_factor(self.reduction, n) * n)

    @property
    def n_vectors(self) -> int:
        """Independent vectors that the Hessian was told from: m, but m / 2 of antithetic (pairs) and difference."""
        return self.n_gradients // 2 if self.method in ("antithetic", "difference") else self.n_gradients

    def summary(self) -> str:
        """A few lines of text."""
        values = np.linalg.eigvalsh(self.hessian)
        zero = len(values) * np.finfo(np.float64).eps * float(np.abs(values).max())
        condition = values[-1] / values[0] if values[0] > zero else np.inf
        lines = [
            f"Hessian of {self._parameters()} from {self.n_gradients:,} gradients on batches of "
            f"{self.batch_size:,} ({self.method})",
            f"  noise on the targets    variance {self.noise_variance:.6g}, beside {self.existing_noise:.6g} known "
            "to be there",
            f"  loss of a batch         {self.reduction}",
            f"  eigenvalues             {values[0]:.4g} to {values[-1]:.4g}, condition number {condition:.4g}",
            f"  sampling error          {self.sampling_error:.3g} (whitened, predicted)",
            f"  bias                    {_bias(self.method, self.bias_bound)}",
            f"  length of the gradient  {np.linalg.norm(self.gradient):.4g}",
        ]
        # All others are means of squares, which only rounding makes indefinite.
        if self.method == "difference" and values[0] < -zero:
            lines.append("  indefinite: use project_psd=True, or method='antithetic'")
        return "\n".join(lines)

    def _parameters(self) -> str:
        return "1 parameter" if self.n_params == 1 else f"{self.n_params} parameters"

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<HessianEstimate: {self._parameters()} from {self.n_gradients:,} gradients, {self.method}>"

    def plot(self, path: str | Path | None = None, *, reference: Any = None) -> Figure:
        """Draw the spectrum, and the error to expect against the number of gradients.

        Parameters
        ----------
        path : str or Path, optional
            A ``.png``, ``.pdf`` or ``.svg`` file to write.
        reference : array_like, shape (d, d), optional
            The true Hessian, where it is known: its spectrum is drawn, and the error that was made.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from gradhess.recovery.plots import draw_estimate  # matplotlib is needed here alone

        return draw_estimate(self, path, reference)


def _bias(method: str, bound: float) -> str:
    if method not in BIASED:
        return "none: the method is unbiased"
    if bound == 0:
        return "estimated as 0 to within its noise, for Gaussian features and no other noise"
    if not np.isfinite(bound):
        return "not known: too few gradients, or an excess risk that is not small against the batch"
    return f"about {bound:.3g} (whitened), for Gaussian features and no other noise"
