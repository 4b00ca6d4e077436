"""How far C and H share their eigenvectors: scalars beside the commutator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess.curvature import _checks
from gradhess.curvature._curvature import eigenbasis
from gradhess.errors import InputError


def offdiagonal_ratio(C: Any, H: Any) -> float:
    """Root mean square of the off-diagonal entries of ``K = V^T C V`` over that of its diagonal.

    V are the eigenvectors of H. 0 if C and H commute. Where an eigenvalue of H is repeated, V is not unique, and
    neither is this number.

    Parameters
    ----------
    C, H : array_like, shape (p, p)
        Symmetric.

    Returns
    -------
    float
        At least 0, and 0 for p = 1. NaN where it is not defined: the diagonal of K is zero (for a covariance: C is
        zero), or H is zero and has no eigenvectors of its own.

    Raises
    ------
    InputError, InputTypeError
        Not real, square, symmetric, finite and of one shape.
    """
    covariance, hessian = _checks.symmetric_pair(C, H, ("C", "H"))
    return spread(*squares(_rotated(covariance, hessian)), len(covariance)) if hessian.any() else math.nan


def diagonal_recovery(C: Any, H: Any) -> float:
    """``||diag K||^2 / ||K||_F^2`` of ``K = V^T C V``: the share of C that is diagonal in the eigenbasis of H.

    Parameters
    ----------
    C, H : array_like, shape (p, p)
        Symmetric.

    Returns
    -------
    float
        From 0 to 1. NaN where it is not defined: C is zero, or H is zero and has no eigenvectors of its own.

    Raises
    ------
    InputError, InputTypeError
        Not real, square, symmetric, finite and of one shape.
    """
    covariance, hessian = _checks.symmetric_pair(C, H, ("C", "H"))
    return share(*squares(_rotated(covariance, hessian))) if hessian.any() else math.nan


def cosine(A: Any, B: Any) -> float:
    """``<A, B>_F / (||A||_F ||B||_F)``: the cosine of the angle between two symmetric matrices.

    Parameters
    ----------
    A, B : array_like, shape (p, p)
        Symmetric.

    Returns
    -------
    float
        From -1 to 1. NaN where it is not defined: one of them is zero.

    Raises
    ------
    InputError, InputTypeError
        Not real, square, symmetric, finite and of one shape.
    """
    left, right = map(_checks.of_moderate_size, _checks.symmetric_pair(A, B, ("A", "B")))
    return _cosine(left, right)


def rank_correlation(h: Any, c: Any) -> float:
    """Spearman's rank correlation of two diagonals; ties share their mean rank.

    Parameters
    ----------
    h, c : array_like, shape (N,)

    Returns
    -------
    float
        From -1 to 1. NaN where it is not defined: one of them is constant.

    Raises
    ------
    InputError, InputTypeError
        Not real, one-dimensional, finite and of one length.
    """
    from scipy.stats import rankdata  # slow to import, and needed here alone

    first, second = _checks.vector(h, "h"), _checks.vector(c, "c")
    if first.shape != second.shape:
        raise InputError(f"h has shape {first.shape}, but c has shape {second.shape}: they must agree")
    left, right = (rank - rank.mean() for rank in (rankdata(first), rankdata(second)))
    return _cosine(left, right)


def _cosine(left: Float64Array, right: Float64Array) -> float:
    """Rounding takes no cosine out of [-1, 1]."""
    size = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return min(max(float(np.vdot(left, right)) / size, -1.0), 1.0) if size > 0 else math.nan


def _rotated(covariance: Float64Array, hessian: Float64Array) -> Float64Array:
    """``V^T C V``, but for its scale."""
    _, vectors = eigenbasis(hessian)
    return vectors.T @ _checks.of_moderate_size(covariance) @ vectors


def squares(K: Float64Array) -> tuple[float, float]:
    """``||diag K||^2`` and ``||K||_F^2``."""
    return float(np.square(np.diag(K)).sum()), float(np.square(K).sum())


def share(diagonal: float, total: float) -> float:
    """Of the diagonal in all, from these squares."""
    return min(diagonal / total, 1.0) if total > 0 else math.nan


def spread(diagonal: float, total: float, p: int) -> float:
    """The ratio of root mean squares, of p (p - 1) entries to p, from these squares."""
    if diagonal == 0:
        return math.nan
    return float(np.sqrt(max(total - diagonal, 0.0) / max(p - 1, 1) / diagonal))


def what_is_zero(C: Float64Array, H: Float64Array) -> str:
    """Why measures of the two are 0 / 0, in words; empty if they are not."""
    zero = [name for name, matrix in (("C", C), ("H", H)) if not matrix.any()]
    return f"{' and '.join(zero)} {'are' if len(zero) > 1 else 'is'} zero" if zero else ""
