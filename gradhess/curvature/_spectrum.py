"""Leading eigenvalues of H, and the diagonals of M and C by their eigenvectors, without any p x p matrix."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess.curvature import _checks
from gradhess.curvature._curvature import Diagonals
from gradhess.curvature._extremes import all_positive, largest_eigenvalue
from gradhess.curvature._samples import OVERFLOW, LayerSamples, Source, chunks, repeatable
from gradhess.errors import InputError, NonFiniteError

ENTRIES: Final = 1 << 22
"""Entries of ``V_i a_p``, over samples and eigenvectors, that are formed at a time: 32 MiB."""


def layer_spectrum(
    samples: Source, k: int, *, batch_size: int = 1, tolerance: float = 0.0, rng: Any = 0
) -> Diagonals:
    """The k largest eigenvalues of H, with ``M_ii`` and ``C_ii``, for a layer whose (p, p) matrices do not fit.

    Lanczos iterations (ARPACK) on ``H V = E[(Q V a) a^T]``, one pass over the samples each; then one more pass for
    ``M_ii = E[||a||^2 ||Q V_i a||^2]`` and ``C_ii = (1/B) Var(b^T V_i a)``, with V_i the i-th eigenvector as (k, m).

    Parameters
    ----------
    samples : LayerSamples, or an iterable of them, or a function that returns a new one at each call
        Gone through many times: an iterator is refused.
    k : int
        How many eigenvalues, below p.
    batch_size : int
        B, 1 by default.
    tolerance : float
        Relative accuracy of the eigenvalues; 0 is machine precision.
    rng : int or numpy.random.Generator
        For the starting vector.

    Returns
    -------
    Diagonals
        Each of length k, with the eigenvectors (p, k). C is centred by Chan's formula over the pieces.

    Raises
    ------
    InputError
        No samples; k not in 1, ..., p - 1; an iterator; no convergence.
    NonFiniteError
        The square of a sample's Hessian or gradient overflows; ``row`` counts over all pieces.
    """
    size = _checks.batch_size(batch_size)
    source = repeatable(samples)
    shape, n, positive = _look(source)
    p = shape[0] * shape[1]
    count = check.count(k, "k", 1)
    if count >= p:
        raise InputError(
            f"k is {count}, but p, the parameters of the layer, is {p}: k must be below; use layer_curvature"
        )
    accuracy = _checks.number(tolerance, "tolerance", minimum=0.0)
    values, vectors = _lanczos(source, shape, n, count, accuracy, _checks.generator(rng))
    order = np.argsort(-values, kind="stable")
    values, vectors = values[order], np.ascontiguousarray(vectors[:, order])
    M, C, kappa = _diagonals(source, shape, n, vectors)
    floor = float(p * np.finfo(np.float64).eps * np.abs(values).max())
    return Diagonals(values, M, C / size, kappa, positive, vectors, floor)


def _look(source: Source) -> tuple[tuple[int, int], int, bool]:
    """Shape of the layer, number of samples, and whether all Hessians are positive semidefinite."""
    n, shape, positive = 0, (0, 0), True
    for piece in chunks(source):
        shape = piece.shape
        _refuse_overflow(piece, n)
        n += piece.n_samples
        positive = positive and all_positive(piece)
    if n == 0:
        raise InputError("samples is empty: there is nothing to take the mean of")
    return shape, n, positive


def _refuse_overflow(piece: LayerSamples, first: int) -> None:
    """By ``||h|| <= ||a||^2 ||F||^2 ||S||``, which needs no h."""
    with np.errstate(over="ignore"):
        lengths = piece.squared_lengths()
        size = lengths * np.sqrt(np.square(piece.core).sum(axis=(1, 2)))
        if piece.factor is not None:
            size *= np.square(piece.factor).sum(axis=(1, 2))
        good = np.isfinite(np.square(size) + lengths * np.square(piece.errors).sum(axis=1))
    if not good.all():
        row = first + int(np.argmin(good))
        raise NonFiniteError(row, OVERFLOW.format(row=row))


def _lanczos(
    source: Source, shape: tuple[int, int], n: int, k: int, tolerance: float, rng: np.random.Generator
) -> tuple[Float64Array, Float64Array]:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh  # SciPy is slow to import

    p = shape[0] * shape[1]

    def product(v: Float64Array) -> Float64Array:
        V = np.asarray(v, np.float64).reshape(shape)
        total = np.zeros(shape)
        for piece in chunks(source):
            image = piece.apply((piece.activations @ V.T)[:, np.newaxis, :])
            total += image[:, 0, :].T @ piece.activations
        return total.ravel() / n

    start = rng.standard_normal(p)
    if not product(start).any():  # almost surely H is zero, which ARPACK refuses
        return np.zeros(k), np.eye(p, k)
    operator = LinearOperator((p, p), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=k, which="LA", v0=start, tol=tolerance)
    except ArpackNoConvergence as error:
        raise InputError(
            f"of {k} eigenvalues {len(error.eigenvalues)} converged; pass a smaller k, or a tolerance above "
            f"{tolerance:g}"
        ) from None
    return values, vectors


def _diagonals(
    source: Source, shape: tuple[int, int], n: int, vectors: Float64Array
) -> tuple[Float64Array, Float64Array, float]:
    """``M_ii``, the variance of ``b^T V_i a``, and the largest per-sample eigenvalue."""
    k, m = shape
    count = vectors.shape[1]
    flat = np.ascontiguousarray(vectors.T).reshape(count * k, m)
    M, mean, scatter = np.zeros(count), np.zeros(count), np.zeros(count)
    kappa, seen = 0.0, 0
    step = max(ENTRIES // (count * k), 1)
    for whole in chunks(source):
        for start in range(0, whole.n_samples, step):
            piece = whole.part(start, start + step)
            lengths = piece.squared_lengths()
            u = (piece.activations @ flat.T).reshape(-1, count, k)
            image = piece.apply(u)
            M += np.einsum("p,pNq,pNq->N", lengths, image, image)
            slopes = np.einsum("pNq,pq->pN", u, piece.errors)
            local = slopes.mean(axis=0)
            rows = len(slopes)
            scatter += np.square(slopes - local).sum(axis=0)
            scatter += np.square(local - mean) * (seen * rows / (seen + rows))
            mean += (local - mean) * (rows / (seen + rows))
            seen += rows
            kappa = max(kappa, largest_eigenvalue(piece, lengths))
    return M / n, scatter / n, kappa
