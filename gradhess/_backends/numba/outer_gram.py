"""Blocks of the Gram matrix of outer rows: each is a weighted Gram matrix of the same rows, and the job of a thread.

Everything is float64 here, whatever the rows are, so that no product of two small errors vanishes. Between the pieces
of a matrix, ``out`` holds the lower triangles of its lower blocks.
"""

from __future__ import annotations

import numpy as np

from gradhess._backends.numba import scatter_kernels, workers
from gradhess._backends.numba.slab_kernels import SLAB_ROWS
from gradhess._backends.protocol import AnyArray, PairWeights


def outer_gram(
    A: AnyArray, pairs: PairWeights, unit_column: bool, out: AnyArray, *, begin: bool, end: bool, threads: int
) -> None:
    n, m = A.shape
    width = m + int(unit_column)
    k = pairs.errors.shape[1]
    z = scatter_kernels.rows_of_zeros(n, width, np.dtype(np.float64))
    z[:, :m] = A
    if unit_column:
        z[:, m] = 1
    columns = np.ascontiguousarray(pairs.errors.T)
    jobs = [(p, q) for p in range(k) for q in range(p + 1)]

    def add(index: int) -> None:
        p, q = jobs[index]
        at = (slice(p * width, (p + 1) * width), slice(q * width, (q + 1) * width))
        block = np.zeros((width, width)) if begin else out[at].astype(np.float64)
        scatter_kernels.add_tiles(z, _weight(pairs, columns, p, q), SLAB_ROWS, block)
        if end:
            block = np.tril(block) + np.tril(block, -1).T
            out[at[1], at[0]] = block
        out[at] = block

    workers.run(len(jobs), add, threads)


def _weight(pairs: PairWeights, columns: AnyArray, p: int, q: int) -> AnyArray:
    """``s_pq``"""
    out: AnyArray = columns[p] * ((p == q) - columns[q] if pairs.curvature else columns[q])
    if pairs.row_weight is not None:
        out *= pairs.row_weight
    return out
