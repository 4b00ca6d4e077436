"""H, M and C of one linear layer, in one pass over its samples."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from gradhess._backends import registry
from gradhess._backends.layout import WIDE_SLAB_ROWS
from gradhess._backends.protocol import Float64Array, KroneckerFactor, Rows
from gradhess.curvature import _checks
from gradhess.curvature._curvature import Curvature
from gradhess.curvature._extremes import all_positive, largest_eigenvalue
from gradhess.curvature._kronecker import KroneckerSums
from gradhess.curvature._samples import OVERFLOW, LayerSamples, Source, blocks
from gradhess.errors import InputError, NonFiniteError

ROWS: Final = 4 * WIDE_SLAB_ROWS
"""Samples whose factors are formed at a time. Whole slabs, so that it changes no bits how the samples come."""
PIECE_ROWS: Final = 128
"""Of those, the share of a thread."""
CANDIDATES: Final = 16
"""Samples whose eigenvalues are computed at a time in search of the largest."""


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
    NonFiniteError
        The square of a sample's Hessian or gradient overflows; ``row`` counts over all pieces.
    ResultTooLargeError
        The matrices would not fit in memory; ``layer_spectrum`` does without them.

    Notes
    -----
    Cost ``3 n k (k + 1) m (m + 1) / 2`` operations at the most: activations and rows of Q that are zero, as behind a
    ReLU, are left out. C is formed from ``E[g g^T]``, so its entries carry an error of about ``n eps`` times the second
    moments, which matters only where the mean gradient is larger than its spread by orders of magnitude. Pieces are
    joined to whole slabs first, so the same samples give the same bits however they are cut.
    """
    size = _checks.batch_size(batch_size)
    moments: _LayerMoments | None = None
    with ThreadPoolExecutor(registry.num_threads()) as pool:
        for block in blocks(samples, ROWS):
            moments = moments or _LayerMoments(block.shape, pool)
            moments.add(block)
        if moments is None:
            raise InputError("samples is empty: there is nothing to take the mean of")
        return moments.finish(size, label)


class _LayerMoments:
    """The sums behind H, M and C, for samples that come in blocks."""

    def __init__(self, shape: tuple[int, int], pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self.n_samples = 0
        self.kappa_max = 0.0
        self.positive = True
        self._gradient = np.zeros(shape)
        self._sums = KroneckerSums(shape, 3)

    def add(self, samples: LayerSamples) -> None:
        """Add some samples."""
        lengths = samples.squared_lengths()
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by its row
            self._add(samples, lengths)
        self.positive = self.positive and all_positive(samples)
        self.n_samples += samples.n_samples

    def _add(self, samples: LayerSamples, lengths: Float64Array) -> None:
        a, b = np.ascontiguousarray(samples.activations), np.ascontiguousarray(samples.errors)
        S = np.ascontiguousarray(samples.core)
        # h = Q (x) a a^T and h^2 = ||a||^2 Q^2 (x) a a^T, of which Q = F'(SF) and Q^2 = (SF)'(F F')(SF), with few rows.
        if samples.factor is None:
            F, left, right = None, S, S * lengths[:, np.newaxis, np.newaxis]
        else:
            F = np.ascontiguousarray(samples.factor)
            left, right = np.empty_like(F), np.empty_like(F)

            def multiply(start: int) -> None:
                rows = slice(start, start + PIECE_ROWS)
                with np.errstate(over="ignore", invalid="ignore"):  # of this thread
                    np.matmul(S[rows], F[rows], out=left[rows])
                    N = (F[rows] @ F[rows].transpose(0, 2, 1)) * lengths[rows, np.newaxis, np.newaxis]
                    np.matmul(N, left[rows], out=right[rows])

            for _ in self._pool.map(multiply, range(0, len(a), PIECE_ROWS)):
                pass
        squares = np.einsum("prk,prk->p", left, right) * lengths  # ||h||_F^2 = tr h^2
        # No entry of h^2 or g g^T is larger than its trace, since neither has negative eigenvalues.
        self._refuse_overflow(squares + np.einsum("pk,pk->p", b, b) * lengths)
        h = KroneckerFactor(S) if F is None else KroneckerFactor(left, F)
        self._sums.add(
            a, [h, KroneckerFactor(right, left), KroneckerFactor(b[:, np.newaxis], b[:, np.newaxis])]
        )
        gradient = registry.active().rmatvec(Rows(a), b, threads=registry.num_threads())
        self._gradient += gradient.T
        self._find_largest(samples, lengths, np.sqrt(np.maximum(squares, 0.0)))

    def _refuse_overflow(self, traces: Float64Array) -> None:
        good = np.isfinite(traces)
        if not good.all():
            row = self.n_samples + int(np.argmin(good))
            raise NonFiniteError(row, OVERFLOW.format(row=row))

    def finish(self, batch_size: int, label: str) -> Curvature:
        n = self.n_samples
        H, M, C = self._sums.matrices(1.0 / n, self._pool)
        mean = self._gradient.ravel() / n
        for i, value in enumerate(mean):  # by rows, without another (p, p) array
            C[i] -= value * mean
            C[i] /= batch_size
        if n == 1:
            C[:] = 0.0  # not the rounding of a difference
        return Curvature(H, M, C, self.kappa_max, self.positive, n, batch_size, label)

    def _find_largest(self, samples: LayerSamples, lengths: Float64Array, bound: Float64Array) -> None:
        """Update the largest per-sample eigenvalue. Only samples that could have it, by their norm, are decomposed."""
        order = np.argsort(-bound, kind="stable")
        for start in range(0, len(order), CANDIDATES):
            rows = order[start : start + CANDIDATES]
            if not bound[rows[0]] > self.kappa_max:
                break
            self.kappa_max = max(self.kappa_max, largest_eigenvalue(samples.select(rows), lengths[rows]))
