"""Sums of Kronecker products ``(L^T R) (x) a a^T``: a block of pairs of activations is the job of a thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from gradhess._backends.numba import workers
from gradhess._backends.numba.row_source import readonly
from gradhess._backends.numba.slab_kernels import SLAB_ROWS, kernel
from gradhess._backends.protocol import Float64Array, KroneckerFactor

PAIRS: Final = 256
"""Pairs of a block: their products over a slab, 512 KiB, stay in the L2 cache while all weights pass over them."""


@kernel
def _weights(left: Any, right: Any, W: Any) -> None:
    """W[i, j]: entry j of the upper triangle of ``left_i^T right_i``; of ``right_i`` where ``left`` is empty."""
    n, rank, k = right.shape
    for i in range(n):
        j = 0
        for q in range(k):
            for r in range(q, k):
                if left.shape[0] == 0:
                    total = right[i, q, r]
                else:
                    total = 0.0
                    for a in range(rank):
                        total += left[i, a, q] * right[i, a, r]
                W[i, j] = total
                j += 1


@kernel
def _add_block(A: Any, W: Any, first: Any, second: Any, out: Any) -> None:
    """out[j, c] += sum_i W[i, j] A[i, first[c]] A[i, second[c]] over one slab.

    Two weights by eight rows at a time, so that each load and store of a sum serves eight multiply-adds.
    """
    n, J, size = len(A), W.shape[1], len(first)
    whole = (n + 7) // 8 * 8
    z, w, sums = np.zeros((whole, PAIRS)), np.zeros((whole, 2)), np.zeros((2, PAIRS))
    for i in range(n):
        for c in range(size):
            z[i, c] = A[i, first[c]] * A[i, second[c]]
    for j in range(0, J, 2):
        pair = min(2, J - j)
        w[:, pair - 1] = 0.0
        for i in range(n):
            for r in range(pair):
                w[i, r] = W[i, j + r]
        sums[:] = 0.0
        _add_products(z, w, sums)
        for r in range(pair):
            for c in range(size):
                out[j + r, c] += sums[r, c]


@kernel
def _add_products(z: Any, w: Any, sums: Any) -> None:
    """sums[r, c] += sum_i w[i, r] z[i, c], for a multiple of 8 rows."""
    for i in range(0, z.shape[0], 8):
        a0, b0, a1, b1 = w[i, 0], w[i, 1], w[i + 1, 0], w[i + 1, 1]
        a2, b2, a3, b3 = w[i + 2, 0], w[i + 2, 1], w[i + 3, 0], w[i + 3, 1]
        a4, b4, a5, b5 = w[i + 4, 0], w[i + 4, 1], w[i + 5, 0], w[i + 5, 1]
        a6, b6, a7, b7 = w[i + 6, 0], w[i + 6, 1], w[i + 7, 0], w[i + 7, 1]
        z0, z1, z2, z3 = z[i], z[i + 1], z[i + 2], z[i + 3]
        z4, z5, z6, z7 = z[i + 4], z[i + 5], z[i + 6], z[i + 7]
        for c in range(PAIRS):
            a, b = sums[0, c], sums[1, c]
            a, b = a + a0 * z0[c], b + b0 * z0[c]
            a, b = a + a1 * z1[c], b + b1 * z1[c]
            a, b = a + a2 * z2[c], b + b2 * z2[c]
            a, b = a + a3 * z3[c], b + b3 * z3[c]
            a, b = a + a4 * z4[c], b + b4 * z4[c]
            a, b = a + a5 * z5[c], b + b5 * z5[c]
            a, b = a + a6 * z6[c], b + b6 * z6[c]
            a, b = a + a7 * z7[c], b + b7 * z7[c]
            sums[0, c], sums[1, c] = a, b


def kronecker_sums(
    A: Float64Array, factors: Sequence[KroneckerFactor], out: Float64Array, *, threads: int
) -> None:
    pairs = np.triu_indices(A.shape[1])
    W = np.empty((SLAB_ROWS, out.shape[1]))
    for factor, total in zip(factors, out, strict=True):
        for start in range(0, len(A), SLAB_ROWS):
            slab = slice(start, min(start + SLAB_ROWS, len(A)))
            left = np.empty((0, 0, 0)) if factor.left is None else factor.left[slab]
            weights = W[: slab.stop - start]
            _weights(readonly(left), readonly(factor.right[slab]), weights)
            _add_slab(readonly(A[slab]), weights, pairs, total, threads)


def _add_slab(A: Any, W: Any, pairs: Any, total: Float64Array, threads: int) -> None:
    """Share the blocks of pairs of one slab among threads."""
    first, second = pairs

    def add(index: int) -> None:
        block = slice(index * PAIRS, (index + 1) * PAIRS)
        _add_block(A, W, first[block], second[block], total[:, block])

    workers.run(-(-len(first) // PAIRS), add, threads)
