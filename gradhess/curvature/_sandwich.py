"""What bounds the exponent: ``lambda_i^2 <= M_ii``, and ``M_ii <= kappa_max lambda_i`` where no h_p is indefinite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from gradhess.curvature._curvature import Curvature, Diagonals, as_diagonals

ROUNDING: Final = 8.0
"""Allowed error in ``M_ii`` and ``lambda_i^2``, in units of p eps times the largest of them."""


@dataclass(frozen=True, slots=True)
class Sandwich:
    """The two bounds at their worst index; indices count eigenvalues in descending order.

    Attributes
    ----------
    holds : bool
        Whether both bounds hold to rounding at every index (the upper one only where it applies).
    lower : float
        Smallest ``M_ii / lambda_i^2``, at least 1 but for rounding; NaN where no eigenvalue is above rounding.
    lower_index : int or None
        Where.
    upper : float or None
        Largest ``M_ii / (kappa_max lambda_i)``, at most 1. None where some per-sample Hessian is indefinite, or where
        nobody has looked: then the bound does not apply.
    upper_index : int or None
        Where.
    """

    holds: bool
    lower: float
    lower_index: int | None
    upper: float | None
    upper_index: int | None


def sandwich_check(curvature: Curvature | Diagonals) -> Sandwich:
    """Check ``lambda_i^2 <= M_ii``, and ``M_ii <= kappa_max lambda_i`` where all per-sample Hessians are ``>= 0``.

    The first is Jensen's inequality, ``(E h)^2 <= E h^2``; the second ``h^2 <= kappa_max h``. Together they bound the
    ratio of ``M_ii`` to ``lambda_i`` and to ``lambda_i^2``, but not the slope of a fit: gamma may leave [1, 2] while
    both hold (``rank_one_family``).

    Parameters
    ----------
    curvature : Curvature or Diagonals

    Returns
    -------
    Sandwich

    Raises
    ------
    InputTypeError
        Not a Curvature or Diagonals.
    """
    d = as_diagonals(curvature, "curvature")
    tolerance = ROUNDING * d.eigenvectors.shape[0] * np.finfo(np.float64).eps
    largest = max(float(np.abs(d.M).max(initial=0.0)), float(np.square(d.H).max(initial=0.0)))
    holds = bool((np.square(d.H) <= d.M + tolerance * largest).all())

    usable = np.flatnonzero((np.abs(d.H) > d.floor) & (np.square(d.H) > 0))
    lower, lower_index = np.nan, None
    if usable.size:
        ratios = d.M[usable] / np.square(d.H[usable])
        lower, lower_index = float(ratios.min()), int(usable[np.argmin(ratios)])

    upper, upper_index = None, None
    if d.positive:
        bound = d.kappa_max * d.H
        slack = tolerance * max(largest, float(np.abs(bound).max(initial=0.0)))
        holds = holds and bool((bound + slack >= d.M).all())
        above = usable[d.H[usable] > 0]
        if above.size:
            ratios = d.M[above] / bound[above]
            upper, upper_index = float(ratios.max()), int(above[np.argmax(ratios)])
    return Sandwich(holds, lower, lower_index, upper, upper_index)
