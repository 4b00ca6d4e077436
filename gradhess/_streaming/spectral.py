"""What follows from the eigenvalues of a finished covariance: precision, distances, log-determinant.

An eigenvalue that rounding alone could have made counts as zero. For a full matrix that is one of at most
``p * eps * (largest eigenvalue)``, the bound of ``numpy.linalg.matrix_rank``, with the eps of the type in which the
rows were computed. The entries of a diagonal do not mix, so there each is compared with the rounding of its own
column: ``(SLAB_ROWS * eps * mean)^2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gradhess._backends import registry
from gradhess._backends.layout import SLAB_ROWS
from gradhess._backends.protocol import AnyArray, Float64Array, Rows
from gradhess._gradients.passes import check_result, spans

DISTANCE_CHUNK_BYTES: Final = 4 << 20
"""Rows that are centred and rotated at a time."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvalues in descending order, and eigenvectors as columns in the same order.

    For a diagonal matrix ``vectors`` is None, and ``order`` says which parameter each eigenvalue belongs to.
    """

    values: Float64Array
    vectors: Float64Array | None
    order: Any
    cutoff: Float64Array
    """(p,): at or below it the eigenvalue at the same place counts as zero."""

    @property
    def kept(self) -> Any:
        """(p,) booleans: the eigenvalues that are not zero."""
        return self.values > self.cutoff

    def top(self, k: int) -> tuple[Float64Array, Float64Array]:
        """The k largest eigenvalues (k,), and their eigenvectors (p, k)."""
        if self.vectors is not None:
            return self.values[:k].copy(), self.vectors[:, :k].copy()
        vectors = np.zeros((self.values.size, k))
        vectors[self.order[:k], np.arange(k)] = 1.0
        return self.values[:k].copy(), vectors

    def precision(self) -> Float64Array:
        """The pseudo-inverse, (p, p), symmetric to the bit; (p,) of a diagonal."""
        kept = self.kept
        if self.vectors is None:
            diagonal = np.zeros(self.values.size)
            diagonal[self.order[kept]] = 1.0 / self.values[kept]
            return diagonal
        half = self.vectors[:, kept] / np.sqrt(self.values[kept])
        inverse: Float64Array = half @ half.T
        return inverse

    def logdet(self) -> float:
        """The sum of the logarithms; minus infinity if an eigenvalue counts as zero."""
        return float(np.log(self.values).sum()) if self.kept.all() else float("-inf")

    def distances(self, rows: Rows, centre: Float64Array) -> Float64Array:
        """(n,) squared Mahalanobis distances from ``centre``, over the eigenvalues that are kept."""
        backend = registry.active()
        kept = self.kept
        scale = 1.0 / np.sqrt(self.values[kept])
        chunk_rows = max(DISTANCE_CHUNK_BYTES // (8 * centre.size), 1)
        buffer = np.empty((min(chunk_rows, rows.n_samples), centre.size), rows.compute_dtype)
        out = np.empty(rows.n_samples)
        for start, stop in spans(rows.n_samples, chunk_rows):
            chunk = buffer[: stop - start]
            backend.materialize(rows.slice(start, stop), chunk)
            check_result(backend, rows.slice(start, stop), chunk)
            centred = chunk - centre
            rotated = (
                centred[:, self.order[kept]] if self.vectors is None else centred @ self.vectors[:, kept]
            )
            rotated *= scale
            out[start:stop] = np.einsum("ij,ij->i", rotated, rotated)
        return out


def of_full(covariance: AnyArray, compute_dtype: np.dtype[Any]) -> Spectrum:
    """The spectrum of a symmetric (p, p) matrix; cost about 9 p^3 flops and 3 p^2 numbers of memory."""
    values, vectors = np.linalg.eigh(covariance.astype(np.float64, copy=False))
    values, vectors = values[::-1], vectors[:, ::-1]
    cutoff = max(float(values[0]), 0.0) * values.size * np.finfo(compute_dtype).eps
    return Spectrum(values, vectors, None, np.full(values.size, cutoff))


def of_diagonal(variances: AnyArray, mean: Float64Array, compute_dtype: np.dtype[Any]) -> Spectrum:
    """The spectrum of a diagonal, given as (p,)."""
    order = np.argsort(-variances, kind="stable")
    cutoff = np.square(SLAB_ROWS * np.finfo(compute_dtype).eps * mean)
    return Spectrum(variances[order].astype(np.float64), None, order, cutoff[order])


def largest(covariance: AnyArray, k: int) -> tuple[Float64Array, Float64Array]:
    """The k largest eigenvalues of a symmetric matrix and their eigenvectors, without the others."""
    from scipy.linalg import eigh  # slow to import, and needed here alone

    p = covariance.shape[0]
    values, vectors = eigh(covariance.astype(np.float64, copy=False), subset_by_index=(p - k, p - 1))
    return values[::-1].copy(), vectors[:, ::-1].copy()
