"""Sums of Kronecker products: ``sum_p w_pj a_p a_p^T`` for many weights j at once.

Each sum is symmetric (m, m), and all of them share the products ``a_i a_l``. With the m (m + 1) / 2 products of a row
written out once, as A2, all sums are one matrix product ``W^T A2``: half the multiplications of full squares, and a
rectangular product runs close to the peak of the machine, which narrow weighted Gram matrices do not (0.88 against
0.47 of it at m = 50, on 2 cores of a Zen 5). From ``WIDE`` columns on, A2 is larger than it is worth, and each sum is
a weighted Gram matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess._gradients import weighted_gram

ROWS: Final = 2048
"""Rows that are summed at a time: long enough for the product to run at full speed, small enough for the cache."""
WIDE: Final = 128
"""From here on by weighted Gram matrices; below, A2 takes at most 133 MB."""


class BlockSums:
    """Groups of sums over the same rows; a group is what fits in memory beside them.

    Parameters
    ----------
    sizes : sequence of int
        Number of weights in each group.
    width : int
        m.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        self.width = width
        self._pairs = np.triu_indices(width)
        self._wide = width >= WIDE
        n_pairs = width * (width + 1) // 2
        self._totals: list[Float64Array] = [
            np.zeros((size, width, width)) if self._wide else np.zeros((size, n_pairs), order="F")
            for size in sizes
        ]
        self._buffer = np.empty((0, n_pairs))
        self._rows = np.empty((0, width))

    def start(self, A: Float64Array) -> None:
        """The next rows, (n, m) with n up to ``ROWS``."""
        self._rows = A
        if self._wide:
            return
        if not len(self._buffer):
            self._buffer = np.empty((ROWS, self._buffer.shape[1]))
        column = 0
        for i in range(self.width):
            stop = column + self.width - i
            np.multiply(A[:, i : i + 1], A[:, i:], out=self._buffer[: len(A), column:stop])
            column = stop

    def add(self, group: int, W: Float64Array) -> None:
        """Add ``W[p, j] a_p a_p^T`` over these rows p to sum j of the group; W is (n, size), C-contiguous."""
        total = self._totals[group]
        if self._wide:
            for weights, block in zip(np.ascontiguousarray(W.T), total, strict=True):
                weighted_gram(self._rows, weights, out=block)
            return
        from scipy.linalg.blas import dgemm  # SciPy is slow to import

        products = self._buffer[: len(self._rows)]
        result = dgemm(1.0, W.T, products.T, 1.0, total, trans_b=True, overwrite_c=True)
        assert result is total or np.shares_memory(result, total)

    def blocks(self, group: int, start: int, stop: int) -> Float64Array:
        """Sums start, ..., stop - 1 of the group, (stop - start, m, m)."""
        part = self._totals[group][start:stop]
        if self._wide:
            return part
        index = np.empty((self.width, self.width), np.intp)
        index[self._pairs] = np.arange(part.shape[1])
        index.T[self._pairs] = index[self._pairs]
        return np.ascontiguousarray(part)[:, index]
