"""Sums ``sum_p Q_p (x) a_p a_p^T`` of several quantities Q over the same activations, each a (p, p) matrix."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np

from gradhess import _memory
from gradhess._backends import registry
from gradhess._backends.protocol import Float64Array
from gradhess.curvature._blocks import ROWS, BlockSums

GROUP_WEIGHTS: Final = 4096
"""Weights (quantities times pairs of outputs) that are summed in one product: 128 MiB of them for ``ROWS`` rows."""
PIECE_ENTRIES: Final = 1 << 19
"""Entries of Q that are formed at a time, 4 MiB: at k = 50 pieces of 64 to 256 rows are equally fast."""

Fill: TypeAlias = Callable[[slice, int, int, Float64Array], None]
"""``fill(rows, q0, q1, out)`` writes rows q0, ..., q1 - 1 of each Q to ``out``, (rows, n_quantities, q1 - q0, k)."""


class KroneckerSums:
    """``sum_p Q_p (x) a_p a_p^T`` for ``n_quantities`` symmetric Q of shape (k, k), and a of length m."""

    def __init__(self, shape: tuple[int, int], n_quantities: int) -> None:
        self.k, self.m = shape
        self.n_quantities = n_quantities
        p = self.k * self.m
        _memory.require(
            8 * p * p * 2 * n_quantities,
            f"{n_quantities} matrices of shape ({p:,}, {p:,})",
            {"layer_spectrum with 100 eigenvalues, from (p, 100) arrays,": 3 * 8 * p * 100},
        )
        self._groups = _groups(self.k, max(GROUP_WEIGHTS // n_quantities, 1))
        self._indices = [self._upper(q0, q1) for q0, q1 in self._groups]
        self._sums = BlockSums([len(index) for index in self._indices], self.m)
        self._weights = np.empty(0)  # grows to what the first rows need
        self._scratch = (
            threading.local()
        )  # one buffer for each thread: new memory costs more than what is done in it

    def add(self, A: Float64Array, fill: Fill) -> None:
        """Add the rows of A (n, m), for which ``fill`` writes the quantities."""
        with ThreadPoolExecutor(registry.num_threads()) as pool:
            for start in range(0, len(A), ROWS):
                self._add(A, fill, start, min(start + ROWS, len(A)), pool)

    def _add(self, A: Float64Array, fill: Fill, start: int, stop: int, pool: ThreadPoolExecutor) -> None:
        n = stop - start
        self._sums.start(np.ascontiguousarray(A[start:stop]))
        for group, (q0, q1) in enumerate(self._groups):
            size = len(self._indices[group])
            if self._weights.size < n * size:
                self._weights = np.empty(n * size)
            W = self._weights[: n * size].reshape(n, size)
            rows = max(PIECE_ENTRIES // (self.n_quantities * (q1 - q0) * self.k), 8)
            pieces = [slice(first, min(first + rows, n)) for first in range(0, n, rows)]
            for _ in pool.map(lambda piece: self._prepare(piece, fill, start, group, W), pieces):  # noqa: B023
                pass
            self._sums.add(group, W)

    def _prepare(self, piece: slice, fill: Fill, start: int, group: int, W: Float64Array) -> None:
        """The weights of some rows of a group, and, for the first group, the products of their activations."""
        if group == 0:
            self._sums.load(piece, self._buffer((piece.stop - piece.start) * self.m * self.m))
        q0, q1 = self._groups[group]
        shape = (piece.stop - piece.start, self.n_quantities, q1 - q0, self.k)
        full = self._buffer(math.prod(shape)).reshape(shape)
        fill(slice(start + piece.start, start + piece.stop), q0, q1, full)
        np.take(full.reshape(len(full), -1), self._indices[group], axis=1, out=W[piece], mode="clip")

    def _buffer(self, size: int) -> Float64Array:
        """Memory of this thread, whatever is in it."""
        buffer: Float64Array | None = getattr(self._scratch, "buffer", None)
        if buffer is None or buffer.size < size:
            buffer = self._scratch.buffer = np.empty(size)
        return buffer[:size]

    def matrix(self, quantity: int, scale: float) -> Float64Array:
        """``scale`` times the sum, (p, p), symmetric to the bit, row-major over (k, m)."""
        out = np.empty((self.k, self.m, self.k, self.m))
        for group, (q0, q1) in enumerate(self._groups):
            size = len(self._indices[group]) // self.n_quantities
            start = quantity * size
            for q in range(q0, q1):
                blocks = self._sums.blocks(group, start, start + self.k - q, scale)
                out[q, :, q:, :] = blocks.transpose(1, 0, 2)
                out[q:, :, q, :] = blocks
                start += self.k - q
        return out.reshape(self.k * self.m, self.k * self.m)

    def _upper(self, q0: int, q1: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """Where entries (q, r), r >= q, of rows q0, ..., q1 - 1 are among those of all quantities."""
        rows, k = q1 - q0, self.k
        one = np.concatenate([q * k + np.arange(q0 + q, k) for q in range(rows)])
        return np.concatenate([quantity * rows * k + one for quantity in range(self.n_quantities)])


def mean_kronecker(A: Float64Array, Q: Float64Array) -> Float64Array:
    """``(1/n) sum_p Q_p (x) a_p a_p^T``, (p, p), for symmetric Q of shape (n, k, k)."""
    sums = KroneckerSums((Q.shape[1], A.shape[1]), 1)

    def fill(rows: slice, q0: int, q1: int, out: Float64Array) -> None:
        out[:, 0] = Q[rows, q0:q1]

    sums.add(A, fill)
    return sums.matrix(0, 1.0 / len(A))


def _groups(k: int, most: int) -> list[tuple[int, int]]:
    """Ranges of rows q of the upper triangle with at most ``most`` entries each, but at least one row."""
    groups, q0 = [], 0
    while q0 < k:
        q1, size = q0 + 1, k - q0
        while q1 < k and size + k - q1 <= most:
            size += k - q1
            q1 += 1
        groups.append((q0, q1))
        q0 = q1
    return groups
