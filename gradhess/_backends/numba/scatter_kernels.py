"""Loops over the scatter matrix, of which only the lower triangle is read and written. Its rows go in strips.

``z`` is what ``slab_kernels.prepare`` leaves: slabs of rows, one after another.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess._backends.numba.slab_kernels import SLAB_ROWS, kernel

STRIP_ROWS: Final = 64
"""Rows of the scatter matrix that one job updates."""
TILE_COLUMNS: Final = 256
"""Columns of it that are summed at a time: 64 x 256 numbers stay in the L2 cache, and 8 rows of z in L1."""


@kernel
def _add_products(
    z: Any, w: Any, at: int, rows: int, top: int, bottom: int, left: int, right: int, tile: Any
) -> None:
    """tile[i - top, j - left] += sum_k w_k z[k, i] z[k, j] over one slab, in the compute type, for j up to i.

    Two rows of the tile by eight rows of z at a time, so that each load and store of the tile serves eight
    multiply-adds; the loop over j becomes vector code. (Indices that begin at 0 matter: Numba need not ask whether they
    count from the end.) ``rows`` is a multiple of 8, and z has room for
    a row i + 1 and for columns up to the next multiple of 8.
    """
    for k in range(at, at + rows, 8):
        w0, w1, w2, w3, w4, w5, w6, w7 = (
            w[k],
            w[k + 1],
            w[k + 2],
            w[k + 3],
            w[k + 4],
            w[k + 5],
            w[k + 6],
            w[k + 7],
        )
        z0, z1, z2, z3 = z[k, left:], z[k + 1, left:], z[k + 2, left:], z[k + 3, left:]
        z4, z5, z6, z7 = z[k + 4, left:], z[k + 5, left:], z[k + 6, left:], z[k + 7, left:]
        for r in range(0, bottom - top, 2):
            i = top + r
            a0, b0 = w0 * z[k, i], w0 * z[k, i + 1]
            a1, b1 = w1 * z[k + 1, i], w1 * z[k + 1, i + 1]
            a2, b2 = w2 * z[k + 2, i], w2 * z[k + 2, i + 1]
            a3, b3 = w3 * z[k + 3, i], w3 * z[k + 3, i + 1]
            a4, b4 = w4 * z[k + 4, i], w4 * z[k + 4, i + 1]
            a5, b5 = w5 * z[k + 5, i], w5 * z[k + 5, i + 1]
            a6, b6 = w6 * z[k + 6, i], w6 * z[k + 6, i + 1]
            a7, b7 = w7 * z[k + 7, i], w7 * z[k + 7, i + 1]
            for j in range(min((i + 9) // 8 * 8, right) - left):
                a, b = tile[r, j], tile[r + 1, j]
                a, b = a + a0 * z0[j], b + b0 * z0[j]
                a, b = a + a1 * z1[j], b + b1 * z1[j]
                a, b = a + a2 * z2[j], b + b2 * z2[j]
                a, b = a + a3 * z3[j], b + b3 * z3[j]
                a, b = a + a4 * z4[j], b + b4 * z4[j]
                a, b = a + a5 * z5[j], b + b5 * z5[j]
                a, b = a + a6 * z6[j], b + b6 * z6[j]
                a, b = a + a7 * z7[j], b + b7 * z7[j]
                tile[r, j], tile[r + 1, j] = a, b


@kernel
def add_strip(z: Any, w: Any, top: int, bottom: int, scatter: Any) -> None:
    """scatter[i, j] += sum_k w_k z[k, i] z[k, j] for i in [top, bottom), j <= i, slab by slab.

    w is of the compute type, with zeros up to a multiple of 8 rows. n p^2 / 2 multiply-adds in all.
    """
    size = min((bottom + 7) // 8 * 8, TILE_COLUMNS)
    tile = np.empty(
        (STRIP_ROWS, size + 8), z.dtype
    )  # a pitch that is no power of two spreads rows over the cache
    for at in range(0, w.shape[0], SLAB_ROWS):
        rows = min(SLAB_ROWS, w.shape[0] - at)
        for upper in range(top, bottom, STRIP_ROWS):
            lower = min(upper + STRIP_ROWS, bottom)
            for left in range(0, lower, TILE_COLUMNS):
                tile[:, :] = 0
                _add_products(z, w, at, rows, upper, lower, left, left + size, tile)
                for i in range(upper, lower):
                    for j in range(left, min(i + 1, left + size)):
                        scatter[i, j] += tile[i - upper, j - left]


@kernel
def fold_strip(
    scatter: Any, block: Any, top: int, bottom: int, mean: Any, total: Any, delta: Any, gain: float
) -> None:
    """scatter += block - mean total^T + gain delta delta^T, in rows [top, bottom) of the lower triangle.

    ``block`` is (p, p), or (0, 0) where its rows are in ``scatter`` already.
    """
    for i in range(top, bottom):
        down = mean[i]
        up = delta[i] * gain
        if block.shape[0] > 0:
            for j in range(i + 1):
                scatter[i, j] += (block[i, j] - down * total[j]) + up * delta[j]
        else:
            for j in range(i + 1):
                scatter[i, j] += up * delta[j] - down * total[j]


@kernel
def symmetrize_strip(lower: Any, scale: float, out: Any, top: int, bottom: int) -> None:
    """out[i, j] = out[j, i] = lower[i, j] * scale for i in [top, bottom), j <= i."""
    for left in range(0, bottom, STRIP_ROWS):  # square by square, since out[j, i] runs down columns
        for i in range(top, bottom):
            for j in range(left, min(left + STRIP_ROWS, i + 1)):
                value = lower[i, j] * scale
                out[i, j] = value
                out[j, i] = value
