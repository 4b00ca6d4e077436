"""Loops over the scatter matrix, of which only the lower triangle is read and written.

``z`` is what ``slab_kernels.prepare`` leaves: slabs of rows, one after another, in ``rows_of_zeros``. Its products are
formed by panels, as in BLIS: ``PANEL_ROWS`` rows of the matrix by two vectors of its columns, over one slab. The
numbers of a panel stay in registers; what is multiplied is first copied to where it is read in order. Cost: ``n p^2 /
2`` multiply-adds, and for each row of panels those of half a panel or so in vain.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess._backends.numba.intrinsics import PANEL_ROWS, VECTOR_BYTES, multiply_panels
from gradhess._backends.numba.slab_kernels import kernel
from gradhess._backends.protocol import AnyArray

STRIP_ROWS: Final = 64
"""Rows of the scatter matrix that one job of another kind updates."""
TILE_ROWS: Final = 144
TILE_COLUMNS: Final = 512
"""A tile is the job of a thread. Its rows, 256 of each, stay in the L2 cache; a multiple of every ``PANEL_ROWS``."""

_u = np.uintp
"""A loop over a signed index is slow, unless it begins at 0: Numba asks each time whether it counts from the end."""


def rows_of_zeros(n: int, width: int, dtype: np.dtype[Any]) -> AnyArray:
    """(n, width or more), since panels read beyond the last column; no power of two, which would crowd a few sets of
    the cache."""
    return np.zeros((n, -(-width // 32) * 32 + 16), dtype)


@kernel
def _copy_rows(z: Any, w: Any, at: int, rows: int, top: int, panels: int, a: Any) -> None:
    """a[m, k, r] = w_k z[k, top + m PANEL_ROWS + r] for the rows from ``at`` on."""
    for m in range(_u(panels)):
        for k in range(_u(rows)):
            for r in range(_u(PANEL_ROWS)):
                a[m, k, r] = w[_u(at) + k] * z[_u(at) + k, _u(top) + m * _u(PANEL_ROWS) + r]


@kernel
def _copy_columns(z: Any, at: int, rows: int, left: int, b: Any) -> None:
    for k in range(_u(rows)):
        for c in range(_u(b.shape[1])):
            b[k, c] = z[_u(at) + k, _u(left) + c]


@kernel
def _add_panel(product: Any, top: int, bottom: int, left: int, scatter: Any) -> None:
    wide = product.shape[1]
    for r in range(_u(min(PANEL_ROWS, bottom - top))):
        for c in range(_u(min(wide, top + np.intp(r) + 1 - left))):
            scatter[_u(top) + r, _u(left) + c] += product[r, c]


@kernel
def add_tile(z: Any, w: Any, slab: int, top: int, left: int, scatter: Any) -> None:
    """scatter[i, j] += sum_k w_k z[k, i] z[k, j] in one tile, for j up to i, slab by slab.

    w (n,) is of the compute type, in which the sum over a slab is one chain.
    """
    n, p = len(w), len(scatter)
    wide = 2 * VECTOR_BYTES // z.itemsize
    bottom, right = min(top + TILE_ROWS, p), min(left + TILE_COLUMNS, top + TILE_ROWS, p)
    panels = (bottom - top + PANEL_ROWS - 1) // PANEL_ROWS
    a, b = np.empty((panels, min(slab, n), PANEL_ROWS), z.dtype), np.empty((min(slab, n), wide), z.dtype)
    product = np.empty((PANEL_ROWS, wide), z.dtype)
    for at in range(0, n, slab):
        rows = min(slab, n - at)
        _copy_rows(z, w, at, rows, top, panels, a)
        for j in range(left, right, wide):
            _copy_columns(z, at, rows, j, b)
            for m in range(max(0, j - top) // PANEL_ROWS, panels):
                multiply_panels(a[m], b, rows, product)
                _add_panel(product, top + m * PANEL_ROWS, bottom, j, scatter)


@kernel
def add_tiles(z: Any, w: Any, slab: int, scatter: Any) -> None:
    """``add_tile`` for all of them."""
    p = len(scatter)
    for top in range(0, p, TILE_ROWS):
        for left in range(0, min(top + TILE_ROWS, p), TILE_COLUMNS):
            add_tile(z, w, slab, top, left, scatter)


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
