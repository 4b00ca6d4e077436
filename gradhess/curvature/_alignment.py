"""How far C and H share their eigenvectors: scalars beside the commutator."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess.curvature import _checks
from gradhess.curvature._curvature import eigenbasis
from gradhess.errors import InputError


def offdiagonal_ratio(C: Any, H: Any) -> float:
    """Root mean square of the off-diagonal entries of ``K = V^T C V`` over that of its diagonal.

    V are the eigenvectors of H. 0 if C and H commute; where an eigenvalue of H is repeated, V is not unique, and
    neither is this number.

    Parameters
    ----------
    C, H : array_like, shape (p, p)
        Symmetric.

    Returns
    -------
    float
        NaN if the diagonal of K is zero; 0 for p = 1.

    Raises
    ------
    InputError, InputTypeError
        Not real, square, symmetric, finite and of one shape.
    """
    covariance, hessian = _checks.symmetric_pair(C, H, ("C", "H"))
    return spread(*squares(_rotated(covariance, hessian)), len(covariance))


def diagonal_recovery(C: Any, H: Any) -> float:
    """``||diag K||^2 / ||K||_F^2`` of ``K = V^T C V``: the share of C that is diagonal in the eigenbasis of H.

    Parameters
    ----------
    C, H : array_like, shape (p, p)
        Symmetric.

    Returns
    -------
    float
        From 0 to 1; NaN if C is zero.

    Raises
    ------
    InputError, InputTypeError
        Not real, square, symmetric, finite and of one shape.
    """
    covariance, hessian = _checks.symmetric_pair(C, H, ("C", "H"))
    diagonal, total = squares(_rotated(covariance, hessian))
    return diagonal / total if total > 0 else float("nan")


def cosine(A: Any, B: Any) -> float:
    """``<A, B>_F / (||A||_F ||B||_F)``: the cosine of the angle between two symmetric matrices; NaN if one is zero.

    Raises
    ------
    InputError, InputTypeError
        Not real, square, symmetric, finite and of one shape.
    """
    left, right = _checks.symmetric_pair(A, B, ("A", "B"))
    size = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float(np.vdot(left, right)) / size if size > 0 else float("nan")


def rank_correlation(h: Any, c: Any) -> float:
    """Spearman's rank correlation of two diagonals, of shape (N,); ties share their mean rank.

    NaN if one of them is constant.

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
    size = float(np.linalg.norm(left)) * float(np.linalg.norm(right))
    return float(left @ right) / size if size > 0 else float("nan")


def _rotated(covariance: Float64Array, hessian: Float64Array) -> Float64Array:
    """``V^T C V``."""
    _, vectors = eigenbasis(hessian)
    return vectors.T @ covariance @ vectors


def squares(K: Float64Array) -> tuple[float, float]:
    """``||diag K||^2`` and ``||K||_F^2``."""
    return float(np.square(np.diag(K)).sum()), float(np.square(K).sum())


def spread(diagonal: float, total: float, p: int) -> float:
    """The ratio of root mean squares, of p (p - 1) entries to p, from these squares."""
    if diagonal == 0:
        return float("nan")
    return float(np.sqrt(max(total - diagonal, 0.0) / max(p - 1, 1) / diagonal))
