"""A family of exact curvatures whose exponent is known: rank-one Hessians along the axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess.curvature import _checks
from gradhess.curvature._curvature import Curvature
from gradhess.errors import InputError


def rank_one_family(spectrum: Any, t: float) -> Curvature:
    """Curvature with ``C_ii`` proportional to ``H_ii^(1 + t)`` exactly.

    A sample is of type i with probability ``s_i^(1 - t) / Z``, ``Z = sum_j s_j^(1 - t)``; its Hessian is
    ``Z s_i^t e_i e_i^T``. So ``H = diag(s)``, ``M = diag(Z s^(1 + t))``, and C = M. t = 0: one stiffness, frequencies
    vary, gamma = 1. t = 1: one frequency, stiffnesses vary, gamma = 2. A t outside [0, 1] leaves [1, 2], although
    ``lambda_i^2 <= M_ii <= kappa_max lambda_i`` holds for every t.

    Parameters
    ----------
    spectrum : array_like, shape (p,)
        The s_i, positive, in any order.
    t : float
        Any real number.

    Returns
    -------
    Curvature
        Diagonal, with B = 1.

    Raises
    ------
    InputError
        A spectrum that is not positive; a t that is not finite, or for which the numbers overflow.
    InputTypeError
        Not real numbers.
    """
    s = _checks.vector(spectrum, "spectrum")
    if (s <= 0).any():
        raise InputError(f"spectrum[{int(np.argmax(s <= 0))}] is {s[s <= 0][0]:g}; it must be positive")
    power = _checks.number(t, "t")
    with np.errstate(over="ignore"):
        stiffness = np.power(s, power) * np.power(s, 1.0 - power).sum()
        squares = stiffness * s
    if not np.isfinite(squares).all() or (squares == 0).any():
        raise InputError(
            f"with t = {power:g} the stiffnesses leave the range of float64; take a narrower spectrum"
        )
    M = np.diag(squares)
    return Curvature(
        np.diag(s), M, M, float(stiffness.max()), positive=True, label=f"rank-one family, t = {power:g}"
    )
