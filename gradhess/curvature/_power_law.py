"""The exponent of ``c ~ h^gamma``, by least squares of logarithms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess.curvature import _checks
from gradhess.errors import InputError


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """``log10 c = intercept + exponent log10 h``, fitted.

    Attributes
    ----------
    exponent : float
        The slope, gamma. Never clipped.
    stderr : float
        Its standard error under independent errors of equal variance; NaN for two points. Eigen-indices are not
        independent, so this is a lower bound on what is not known.
    intercept : float
        ``log10 c`` at h = 1.
    r_squared : float
        Share of the variance of ``log10 c`` that the line explains; NaN if c is constant.
    n_used : int
        Points that were left for the fit.
    """

    exponent: float
    stderr: float
    intercept: float
    r_squared: float
    n_used: int


ROUNDING: Final = 64 * float(np.finfo(np.float64).eps)
"""Times their number: how far computed eigenvalues that are equal may differ, relative to the largest."""


def have_a_slope(h: Float64Array) -> bool:
    """Whether there are two positive h that differ by more than rounding."""
    return h.size > 1 and bool(h.max() - h.min() > ROUNDING * h.size * h.max())


def power_law_fit(
    h: Any,
    c: Any,
    *,
    top: int | None = None,
    trim_percentile: float = 0,
    fit_fraction: float = 1.0,
) -> PowerLaw:
    """Fit ``c ~ h^gamma`` by ordinary least squares of ``log10 c`` on ``log10 h``.

    Parameters
    ----------
    h, c : array_like, shape (N,)
        Diagonals of H and of C (or M) in the eigenbasis of H, in any common order.
    top : int, optional
        Only the N largest h. All by default.
    trim_percentile : float
        Then drop points below this percentile of h or of c, each taken over the positive points. 0 drops none.
    fit_fraction : float
        Then keep this fraction of the points, those with the largest h. 1 keeps all.

    Returns
    -------
    PowerLaw

    Raises
    ------
    InputError
        Fewer than two points with positive h and c are left, or their h differ by rounding only; shapes that do not
        agree.
    InputTypeError
        Data or settings that are not real numbers.

    Notes
    -----
    Points where h or c is not positive are left out, since they have no logarithm; ``n_used`` says how many were left.
    The procedure is that of Zhang, Yang and Tu (arXiv 2602.05600).
    """
    hessian, covariance = _checks.vector(h, "h"), _checks.vector(c, "c")
    if hessian.shape != covariance.shape:
        raise InputError(f"h has shape {hessian.shape}, but c has shape {covariance.shape}: they must agree")
    percentile = _checks.number(trim_percentile, "trim_percentile", minimum=0.0)
    if percentile >= 100:
        raise InputError(f"trim_percentile is {percentile:g}; it must be in [0, 100)")
    fraction = _checks.fraction(fit_fraction, "fit_fraction")

    order = np.argsort(-hessian, kind="stable")
    order = order[: order.size if top is None else check.count(top, "top", 2)]
    order = order[(hessian[order] > 0) & (covariance[order] > 0)]
    if percentile > 0 and order.size:
        h_floor, c_floor = (np.percentile(values[order], percentile) for values in (hessian, covariance))
        order = order[(hessian[order] >= h_floor) & (covariance[order] >= c_floor)]
    order = order[: math.ceil(fraction * order.size)]
    x, y = np.log10(hessian[order]), np.log10(covariance[order])
    if not have_a_slope(hessian[order]):
        raise InputError(
            f"no slope: {_what_is_left(hessian, covariance, x.size)}, and a line needs two points of different h"
        )
    return _line(x, y)


def _what_is_left(h: Float64Array, c: Float64Array, n_left: int) -> str:
    """For people who wonder where their points are."""
    positive = int(((h > 0) & (c > 0)).sum())
    found = f"of {h.size} points {positive} {'has' if positive == 1 else 'have'} positive h and c"
    if n_left < positive:
        return f"{found}, of which the settings leave {n_left}"
    return f"{found}, with h equal but for rounding" if n_left > 1 else found


def _line(x: Float64Array, y: Float64Array) -> PowerLaw:
    dx, dy = x - x.mean(), y - y.mean()
    sxx, sxy, syy = float(dx @ dx), float(dx @ dy), float(dy @ dy)
    slope = sxy / sxx
    residual = dy - slope * dx
    rss = float(residual @ residual)
    n = x.size
    return PowerLaw(
        exponent=slope,
        stderr=math.sqrt(rss / (n - 2) / sxx) if n > 2 else math.nan,
        intercept=float(y.mean() - slope * x.mean()),
        r_squared=max(1.0 - rss / syy, 0.0) if syy > 0 else math.nan,
        n_used=n,
    )
