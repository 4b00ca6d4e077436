"""Sums ``sum_p Q_p (x) a_p a_p^T`` of several quantities Q over the same activations, each a (p, p) matrix."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final

import numpy as np

from gradhess import _memory
from gradhess._backends import registry
from gradhess._backends.protocol import AnyArray, Float64Array, KroneckerFactor
from gradhess._gradients import weighted_gram

FEW_WEIGHTS: Final = 24
"""Below so many entries of all Q together, and from ``WIDE`` columns of A on, each has a weighted Gram matrix of its
own: products of activations that serve so few sums cost more to form than to use."""
WIDE: Final = 64


class KroneckerSums:
    """``sum_p Q_p (x) a_p a_p^T`` for ``n_quantities`` symmetric Q of shape (k, k), and a of length m.

    Only entries (q, i, r, l) with r >= q and l >= i are kept, a quarter of them.
    """

    def __init__(self, shape: tuple[int, int], n_quantities: int) -> None:
        self.k, self.m = shape
        self.n_quantities = n_quantities
        p = self.k * self.m
        weights = self.k * (self.k + 1) // 2
        self._by_gram = n_quantities * weights < FEW_WEIGHTS and self.m >= WIDE
        squares = self.m * self.m if self._by_gram else self.m * (self.m + 1) // 2
        _memory.require(
            8 * n_quantities * (p * p + weights * squares),
            f"{n_quantities} matrices of shape ({p:,}, {p:,})",
            {"layer_spectrum with 100 eigenvalues, from (p, 100) arrays,": 3 * 8 * p * 100},
        )
        self._totals = np.zeros((n_quantities, weights, squares))

    def add(self, A: Float64Array, factors: Sequence[KroneckerFactor]) -> None:
        """Add the rows of A (n, m), and one factor for each quantity; all C-contiguous."""
        if not self._by_gram:
            registry.active().kronecker_sums(A, factors, self._totals, threads=registry.num_threads())
            return
        q, r = np.triu_indices(self.k)
        for factor, totals in zip(factors, self._totals, strict=True):
            Q = factor.right if factor.left is None else factor.left.transpose(0, 2, 1) @ factor.right
            for j, total in enumerate(totals):
                weighted_gram(A, Q[:, q[j], r[j]], out=total.reshape(self.m, self.m))

    def matrices(self, scale: float, executor: Executor | None = None) -> list[Float64Array]:
        """``scale`` times each sum, (p, p), symmetric to the bit, row-major over (k, m)."""
        k, m = self.k, self.m
        out = [np.empty((k, m, k, m)) for _ in range(self.n_quantities)]
        squares = self._squares()

        def expand(job: tuple[int, int]) -> None:
            quantity, q = job
            start = q * k - q * (q - 1) // 2
            totals = self._totals[quantity, start : start + k - q] * scale
            blocks = np.take(totals, squares, axis=1, mode="clip").reshape(-1, m, m)
            out[quantity][q, :, q:, :] = blocks.transpose(1, 0, 2)
            out[quantity][q:, :, q, :] = blocks

        for _ in (executor.map if executor else map)(expand, np.ndindex(self.n_quantities, k)):
            pass
        return [matrix.reshape(k * m, k * m) for matrix in out]

    def _squares(self) -> AnyArray:
        """Where the entries of an (m, m) block are among those that are kept."""
        if self._by_gram:
            return np.arange(self.m * self.m)
        first, second = np.triu_indices(self.m)
        index = np.empty((self.m, self.m), np.intp)
        index[first, second] = index[second, first] = np.arange(len(first))
        return index.ravel()


def mean_kronecker(A: Float64Array, Q: Float64Array) -> Float64Array:
    """``(1/n) sum_p Q_p (x) a_p a_p^T``, (p, p), for symmetric Q of shape (n, k, k)."""
    sums = KroneckerSums((Q.shape[1], A.shape[1]), 1)
    sums.add(np.ascontiguousarray(A), [KroneckerFactor(np.ascontiguousarray(Q))])
    return sums.matrices(1.0 / len(A))[0]
