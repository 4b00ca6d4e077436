"""Sums of weighted squares ``sum_p w_pj a_p a_p^T`` for many weights j at once.

Each sum is symmetric (m, m), and all of them share the products ``a_i a_l``. With the m (m + 1) / 2 products of a row
written out once, as A2, all sums are one matrix product ``W^T A2``: half the multiplications of full squares, and a
rectangular product runs close to the peak of the machine, which narrow weighted Gram matrices do not (0.9 against
0.47 of it at m = 50, on 2 cores of a Zen 5). From ``WIDE`` columns on, A2 is larger than it is worth, and each sum is
a weighted Gram matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess._gradients import weighted_gram

ROWS: Final = 4096
"""Rows that are summed at a time. The product runs at full speed from 1024 on; more, so that it alternates less often
with work on other threads, whose start it delays: the threads of a BLAS wait actively for some 20 ms."""
WIDE: Final = 96
"""From here on by weighted Gram matrices; below, A2 takes at most 150 MB."""


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
        self._wide = width >= WIDE
        first, second = np.triu_indices(width)
        self._upper = first * width + second
        n_pairs = len(self._upper)
        self._totals: list[Float64Array] = [
            np.zeros((size, width, width)) if self._wide else np.zeros((size, n_pairs), order="F")
            for size in sizes
        ]
        self._A2 = np.empty((0, n_pairs))
        self._rows = np.empty((0, width))

    def start(self, A: Float64Array) -> None:
        """The next rows, (n, m) with n up to ``ROWS``; ``load`` must then be called for all of them."""
        self._rows = A
        if not self._wide and len(self._A2) < len(A):
            self._A2 = np.empty((len(A), self._A2.shape[1]))

    def load(self, rows: slice, scratch: Float64Array) -> None:
        """Prepare some of the rows, with ``m^2`` numbers of scratch. Different rows may be in different threads."""
        if not self._wide:
            a = self._rows[rows]
            squares = scratch.reshape(len(a), self.width, self.width)
            np.multiply(a[:, :, np.newaxis], a[:, np.newaxis, :], out=squares)
            np.take(squares.reshape(len(a), -1), self._upper, axis=1, out=self._A2[rows], mode="clip")

    def add(self, group: int, W: Float64Array) -> None:
        """Add ``W[p, j] a_p a_p^T`` over these rows p to sum j of the group; W is (n, size), C-contiguous."""
        total = self._totals[group]
        if self._wide:
            for weights, block in zip(np.ascontiguousarray(W.T), total, strict=True):
                weighted_gram(self._rows, weights, out=block)
            return
        _add_product(W, self._A2[: len(self._rows)], total)

    def blocks(self, group: int, start: int, stop: int, scale: float) -> Float64Array:
        """``scale`` times sums start, ..., stop - 1 of the group, (stop - start, m, m)."""
        total = self._totals[group][start:stop] * scale
        if self._wide:
            return total
        m = self.width
        index = np.empty(m * m, np.intp)
        index[self._upper] = np.arange(len(self._upper))
        index.reshape(m, m).T.flat[self._upper] = np.arange(len(self._upper))
        return np.take(np.ascontiguousarray(total), index, axis=1, mode="clip").reshape(-1, m, m)


def transposed_product(A: Float64Array, B: Float64Array) -> Float64Array:
    """``A^T B``, by the same library as the sums: NumPy comes with another, whose threads would wait beside its own."""
    out = np.zeros((A.shape[1], B.shape[1]), order="F")
    _add_product(np.ascontiguousarray(A), np.ascontiguousarray(B), out)
    return out


def _add_product(A: Float64Array, B: Float64Array, out: Float64Array) -> None:
    """``out += A^T B``, in place; A and B C-contiguous, out Fortran-contiguous."""
    from scipy.linalg.blas import dgemm  # SciPy is slow to import

    dgemm(1.0, A.T, B.T, 1.0, out, trans_b=True, overwrite_c=True)
