"""H, M and C of one linear layer, in one pass over its samples."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from gradhess._backends import registry
from gradhess._backends.protocol import Float64Array, KroneckerFactor, Rows
from gradhess.curvature import _checks
from gradhess.curvature._curvature import Curvature
from gradhess.curvature._kronecker import KroneckerSums
from gradhess.curvature._samples import LayerSamples, Source, chunks
from gradhess.errors import InputError

ROWS: Final = 1024
"""Samples whose factors are formed at a time: whole slabs."""
PIECE_ROWS: Final = 128
"""Of those, the share of a thread."""
PIECE_ENTRIES: Final = 1 << 20
"""Entries of Q that are formed at a time, 8 MiB."""
CANDIDATES: Final = 16
"""Samples whose eigenvalues are computed at a time in search of the largest."""
NEGATIVE: Final = 64.0
"""An eigenvalue of Q counts as negative below this many k eps times the norm of Q."""


def layer_curvature(samples: Source, *, batch_size: int = 1, label: str = "") -> Curvature:
    """H, M and C of a linear layer's weight, exactly, from one pass.

    ``H = E[Q (x) a a^T]``, ``M = E[||a||^2 Q^2 (x) a a^T]``, ``C = (1/B) (E[b b^T (x) a a^T] - m m^T)``, with
    ``m = E[b (x) a]``, over (k, m) row-major.

    Parameters
    ----------
    samples : LayerSamples, or an iterable of them, or a function that returns one
        Samples of one layer, in one piece or several.
    batch_size : int
        B, 1 by default.
    label : str
        For titles.

    Returns
    -------
    Curvature

    Raises
    ------
    InputError
        No samples; pieces of different layers.
    ResultTooLargeError
        The matrices would not fit in memory; ``layer_spectrum`` does without them.

    Notes
    -----
    Cost ``3 n k (k + 1) m (m + 1) / 2`` operations. C is formed from ``E[g g^T]``, so its entries carry an error of
    about ``n eps`` times the second moments, which matters only where the mean gradient is larger than its spread by
    orders of magnitude.
    """
    size = _checks.batch_size(batch_size)
    moments: LayerMoments | None = None
    for piece in chunks(samples):
        moments = moments or LayerMoments(piece.shape)
        moments.add(piece)
    if moments is None or moments.n_samples == 0:
        raise InputError("samples is empty: there is nothing to take the mean of")
    return moments.finish(size, label)


class LayerMoments:
    """The sums behind H, M and C, for samples that come in pieces."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.n_samples = 0
        self.kappa_max = 0.0
        self.positive = True
        self._gradient = np.zeros(shape)
        self._sums = KroneckerSums(shape, 3)

    def add(self, samples: LayerSamples) -> None:
        """Add a piece of the samples."""
        with ThreadPoolExecutor(registry.num_threads()) as pool:
            for start in range(0, samples.n_samples, ROWS):
                self._add(samples.part(start, start + ROWS), pool)
        if self.positive and not samples.positive:
            self.positive = all_positive(samples)
        self.n_samples += samples.n_samples

    def _add(self, part: LayerSamples, pool: ThreadPoolExecutor) -> None:
        lengths = part.squared_lengths()
        a, b = np.ascontiguousarray(part.activations), np.ascontiguousarray(part.errors)
        S = np.ascontiguousarray(part.core)
        # h = Q (x) a a^T and h^2 = ||a||^2 Q^2 (x) a a^T, of which Q = F'(SF) and Q^2 = (SF)'(F F')(SF), with few rows.
        if part.factor is None:
            F, left, right = None, S, S * lengths[:, np.newaxis, np.newaxis]
        else:
            F = np.ascontiguousarray(part.factor)
            left, right = np.empty_like(F), np.empty_like(F)

            def multiply(start: int) -> None:
                rows = slice(start, start + PIECE_ROWS)
                np.matmul(S[rows], F[rows], out=left[rows])
                N = (F[rows] @ F[rows].transpose(0, 2, 1)) * lengths[rows, np.newaxis, np.newaxis]
                np.matmul(N, left[rows], out=right[rows])

            for _ in pool.map(multiply, range(0, len(a), PIECE_ROWS)):
                pass
        h = KroneckerFactor(S) if F is None else KroneckerFactor(left, F)
        self._sums.add(
            a, [h, KroneckerFactor(right, left), KroneckerFactor(b[:, np.newaxis], b[:, np.newaxis])]
        )
        gradient = registry.active().rmatvec(Rows(a), b, threads=registry.num_threads())
        self._gradient += gradient.T
        squares = np.einsum("prk,prk->p", left, right) * lengths  # ||h||_F^2
        self._find_largest(part, lengths, np.sqrt(np.maximum(squares, 0.0)))

    def finish(self, batch_size: int, label: str) -> Curvature:
        n = self.n_samples
        H, M, C = (self._sums.matrix(i, 1.0 / n) for i in range(3))
        mean = self._gradient.ravel() / n
        for i, value in enumerate(mean):  # by rows, without another (p, p) array
            C[i] -= value * mean
        C /= batch_size
        return Curvature(H, M, C, self.kappa_max, self.positive, n, batch_size, label)

    def _find_largest(self, samples: LayerSamples, lengths: Float64Array, bound: Float64Array) -> None:
        """Update the largest per-sample eigenvalue. Only samples that could have it, by their norm, are decomposed."""
        order = np.argsort(-bound, kind="stable")
        for start in range(0, len(order), CANDIDATES):
            rows = order[start : start + CANDIDATES]
            if not bound[rows[0]] > self.kappa_max:
                break
            values = np.abs(np.linalg.eigvalsh(samples.select(rows).hessians())).max(axis=1) * lengths[rows]
            self.kappa_max = max(self.kappa_max, float(values.max()))


def all_positive(samples: LayerSamples) -> bool:
    """Whether no h has a negative eigenvalue: enough that no S has; where one has, Q decides, unless a is zero."""
    cores = np.linalg.eigvalsh(samples.core)
    suspects = np.flatnonzero((cores[:, 0] < 0) & samples.activations.any(axis=1))
    piece = max(PIECE_ENTRIES // samples.shape[0] ** 2, 8)
    for start in range(0, len(suspects), piece):
        values = np.linalg.eigvalsh(samples.select(suspects[start : start + piece]).hessians())
        roundoff = NEGATIVE * samples.shape[0] * np.finfo(np.float64).eps * np.abs(values).max(axis=1)
        if (values[:, 0] < -roundoff).any():
            return False
    return True
