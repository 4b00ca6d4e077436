"""The commutator of C and H, beside that of randomly rotated matrices with the same spectra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess.curvature import _checks
from gradhess.curvature._curvature import eigenbasis

NORMS = ("relative", "product")


class Commutator(NamedTuple):
    """A measure of ``CH - HC``, and the same measure for random rotations of C."""

    value: float
    baseline: Float64Array
    """(n_baseline,)"""


def commutator(
    C: Any,
    H: Any,
    norm: str = "relative",
    window: tuple[int, int] | None = None,
    n_baseline: int = 8,
    rng: Any = 0,
) -> Commutator:
    """How far C and H are from commuting, and how far they would be by chance.

    Parameters
    ----------
    C, H : array_like, shape (p, p)
        Symmetric.
    norm : {"relative", "product"}
        ``||CH - HC||_F / ||CH||_F``, at most 2; or ``||CH - HC||_F / (||C||_F ||H||_F)``, at most ``sqrt(2)``
        (Boettcher and Wenzel 2008).
    window : (i0, i1), optional
        Only the span of the eigenvectors i0, ..., i1 - 1 of H, counted from 0 in descending order of the eigenvalues:
        ``V_w^T C V_w`` against ``diag(lambda_w)``.
    n_baseline : int
        Number of random rotations.
    rng : int or numpy.random.Generator
        For the rotations.

    Returns
    -------
    Commutator
        ``(value, baseline)``: the measure, and an array (n_baseline,) of the same measure for ``R C R^T`` with R from
        the uniform (Haar) distribution over rotations: both spectra stay, the eigenvectors share nothing. All are NaN
        where they are not defined: C or H is zero (within the window), or, under the first norm, CH is.

    Raises
    ------
    InputError, InputTypeError
        Matrices that are not real, square, symmetric, finite and of one shape; an unknown norm; a window outside p.

    Notes
    -----
    The value alone says little: under the second norm, matrices of low rank nearly commute by chance. Cost: one
    eigendecomposition of each, and for each rotation a QR decomposition and two products, O(p^3).
    """
    covariance, hessian = _checks.symmetric_pair(C, H, ("C", "H"))
    check.one_of(norm, NORMS, "norm")
    i0, i1 = _checks.window(window, len(hessian))
    count = check.count(n_baseline, "n_baseline", 0)
    generator = _checks.generator(rng)

    values, vectors = eigenbasis(hessian)
    values, vectors = values[i0:i1], vectors[:, i0:i1]
    # The measures do not depend on scale; their squares are to stay within float64.
    values, covariance = _checks.of_moderate_size(values), _checks.of_moderate_size(covariance)
    inside = vectors.T @ covariance @ vectors
    baseline = [measure(rotated, values, norm) for rotated in rotations(inside, count, generator)]
    return Commutator(measure(inside, values, norm), np.array(baseline))


def rotations(C: Float64Array, count: int, generator: np.random.Generator) -> Iterator[Float64Array]:
    """``R C R^T`` for ``count`` random R."""
    spectrum = np.linalg.eigvalsh((C + C.T) / 2) if count else np.empty(0)
    for _ in range(count):
        R = _haar(len(C), generator)
        yield (R * spectrum) @ R.T


def measure(C: Float64Array, eigenvalues: Float64Array, norm: str) -> float:
    """In the eigenbasis of H, where ``(CH - HC)_ij = C_ij (lambda_j - lambda_i)``."""
    difference = np.linalg.norm(C * (eigenvalues - eigenvalues[:, np.newaxis]))
    ch = np.linalg.norm(C * eigenvalues)
    size = ch if norm == "relative" else np.linalg.norm(C) * np.linalg.norm(eigenvalues)
    return float(difference / size) if size > 0 else float("nan")


def _haar(p: int, generator: np.random.Generator) -> Float64Array:
    """A uniformly distributed rotation (Mezzadri 2007): QR, with the signs that make it unique."""
    Q, R = np.linalg.qr(generator.standard_normal((p, p)))
    return np.asarray(Q * np.where(np.diag(R) < 0, -1.0, 1.0))
