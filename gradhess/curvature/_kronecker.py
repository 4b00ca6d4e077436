"""Sums ``sum_p Q_p (x) a_p a_p^T`` of several quantities Q over the same activations, each a (p, p) matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from gradhess import _memory
from gradhess._backends.protocol import Float64Array
from gradhess.curvature._blocks import ROWS, BlockSums

GROUP_WEIGHTS: Final = 4096
"""Weights (quantities times pairs of outputs) that are summed in one product: 64 MiB of them for ``ROWS`` rows."""

Fill: TypeAlias = Callable[[slice, int, int, list[Float64Array]], None]
"""``fill(rows, q0, q1, targets)`` writes rows q0, ..., q1 - 1 of Q, from the diagonal on (``pack``), for every
quantity."""


class KroneckerSums:
    """``sum_p Q_p (x) a_p a_p^T`` for ``n_quantities`` symmetric Q of shape (k, k), and a of length m."""

    def __init__(self, shape: tuple[int, int], n_quantities: int) -> None:
        self.k, self.m = shape
        self.n_quantities = n_quantities
        p = self.k * self.m
        _memory.require(
            8 * p * p * 2 * n_quantities,
            f"{n_quantities} matrices of shape ({p:,}, {p:,})",
            {"layer_spectrum (matrix-free)": 8 * p * 200},
        )
        self._groups = _groups(self.k, max(GROUP_WEIGHTS // n_quantities, 1))
        sizes = [n_quantities * _pairs(self.k, *group) for group in self._groups]
        self._sums = BlockSums(sizes, self.m)
        self._weights = np.empty(0)  # grows to what the first rows need

    def add(self, A: Float64Array, fill: Fill) -> None:
        """Add the rows of A (n, m), for which ``fill`` writes the quantities."""
        for start in range(0, len(A), ROWS):
            rows = slice(start, min(start + ROWS, len(A)))
            n = rows.stop - rows.start
            self._sums.start(np.ascontiguousarray(A[rows]))
            for group, (q0, q1) in enumerate(self._groups):
                size = _pairs(self.k, q0, q1)
                if self._weights.size < n * size * self.n_quantities:
                    self._weights = np.empty(n * size * self.n_quantities)
                W = self._weights[: n * size * self.n_quantities].reshape(n, size * self.n_quantities)
                fill(rows, q0, q1, [W[:, i * size : (i + 1) * size] for i in range(self.n_quantities)])
                self._sums.add(group, W)

    def matrix(self, quantity: int) -> Float64Array:
        """(p, p), symmetric to the bit, row-major over (k, m). Divided by nothing."""
        out = np.empty((self.k, self.m, self.k, self.m))
        for group, (q0, q1) in enumerate(self._groups):
            start = quantity * _pairs(self.k, q0, q1)
            for q in range(q0, q1):
                stop = start + self.k - q
                blocks = self._sums.blocks(group, start, stop)
                out[q, :, q:, :] = blocks.transpose(1, 0, 2)
                out[q:, :, q, :] = blocks
                start = stop
        return out.reshape(self.k * self.m, self.k * self.m)


def pack(Q: Float64Array, q0: int, out: Float64Array) -> None:
    """Rows q0, q0 + 1, ... of symmetric matrices, (n, rows, k), from the diagonal on, side by side into ``out``."""
    k = Q.shape[2]
    column = 0
    for row in range(Q.shape[1]):
        stop = column + k - q0 - row
        out[:, column:stop] = Q[:, row, q0 + row :]
        column = stop


def pack_outer(left: Float64Array, right: Float64Array, q0: int, q1: int, out: Float64Array) -> None:
    """``left_q right_r`` for rows q0, ..., q1 - 1 and r from q on."""
    column = 0
    for q in range(q0, q1):
        stop = column + right.shape[1] - q
        np.multiply(left[:, q : q + 1], right[:, q:], out=out[:, column:stop])
        column = stop


def mean_kronecker(A: Float64Array, Q: Float64Array) -> Float64Array:
    """``(1/n) sum_p Q_p (x) a_p a_p^T``, (p, p), for symmetric Q of shape (n, k, k)."""
    sums = KroneckerSums((Q.shape[1], A.shape[1]), 1)
    sums.add(A, lambda rows, q0, q1, targets: pack(Q[rows, q0:q1], q0, targets[0]))
    return np.asarray(sums.matrix(0) / len(A))


def _pairs(k: int, q0: int, q1: int) -> int:
    """Pairs (q, r) with q0 <= q < q1 and r >= q."""
    return sum(k - q for q in range(q0, q1))


def _groups(k: int, most: int) -> list[tuple[int, int]]:
    """Ranges of rows q with at most ``most`` pairs each, but at least one row."""
    groups, q0 = [], 0
    while q0 < k:
        q1 = q0 + 1
        while q1 < k and _pairs(k, q0, q1 + 1) <= most:
            q1 += 1
        groups.append((q0, q1))
        q0 = q1
    return groups
