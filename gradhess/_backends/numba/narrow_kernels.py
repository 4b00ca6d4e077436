"""The moments of narrow rows, where vector lanes run over the rows of a slab instead of the columns of a row.

A row of few columns fills no vector, and each loop over it costs more to enter than to run. So a slab is transposed
first, into ``xt``, and everything after that is a loop over 256 rows: predictions, factors, sums, and the products of
columns, 4 by 4 of them at a time. Cost of the products: ``n p (p + 4) / 2`` multiply-adds, half a load for each, and 16
sums over lanes for each tile and slab.

Names: ``xt`` (d, pitch), entry [j, i] is column j of row i of a slab; ``z`` and ``zw`` (p or more, pitch), the
columns of one slab of G, and w times them; zero where there is no row or column.
Blocks are numbered b: ``scatter`` (b, p, p), or (b, 1, p) of a diagonal, ``shift`` and ``total`` (b, p), ``totals``
(b, 3).

Sums over the rows of a slab are made lane by lane, the lanes in a fixed order, which depends on the
length of a vector alone.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess._backends import layout
from gradhess._backends.numba.intrinsics import SQUARE_BYTES, prefetch, transpose_square
from gradhess._backends.numba.loss_kernels import GIVEN, NONE, built_in
from gradhess._backends.numba.slab_kernels import SLAB_ROWS, kernel, lane_kernel
from gradhess._backends.protocol import LOSS, WEIGHT

TILE: Final = 4
LINE_BYTES: Final = 64
PIECE_ROWS: Final = 64
"""A slab is summed over a whole number of these, of zeros where it is shorter: loops of whole vectors, whatever their
length."""


@kernel
def _transpose(x: Any, rows: int, xt: Any) -> None:
    """xt[j, i] = x[i, j], while the rows of the next slab are asked for.

    By as many columns as a cache line holds, and by eight rows. Before each such square the same one of the next slab
    is asked for: many lines at once would have to wait for each other, and so would this loop for them. Of few columns
    the compiler shuffles vectors, where it knows their number.
    """
    d = x.shape[1]
    if d == 1:
        for i in range(rows):
            xt[0, i] = x[i, 0]
        return
    if d == 2:
        for i in range(rows):
            xt[0, i], xt[1, i] = x[i, 0], x[i, 1]
        return
    if d == 3:
        for i in range(rows):
            xt[0, i], xt[1, i], xt[2, i] = x[i, 0], x[i, 1], x[i, 2]
        return
    if d == 4:
        for i in range(rows):
            xt[0, i], xt[1, i], xt[2, i], xt[3, i] = x[i, 0], x[i, 1], x[i, 2], x[i, 3]
        return
    line, side = LINE_BYTES // x.itemsize, SQUARE_BYTES // x.itemsize
    whole = rows // 8 * 8
    for left in range(0, d, line):
        right = min(left + line, d)
        rest = right - (right - left) % side
        for i in range(0, whole, 8):
            for r in range(8):
                prefetch(x, SLAB_ROWS + i + r, left)
            for j in range(left, rest, side):
                for r in range(i, i + 8, side):
                    transpose_square(x, r, j, xt, r)
            for j in range(rest, right):
                for r in range(8):
                    xt[j, i + r] = x[i + r, j]
    for j in range(d):
        for i in range(whole, rows):
            xt[j, i] = x[i, j]


@kernel
def _copy_columns(x: Any, start: int, rows: int, xt: Any) -> None:
    for j in range(xt.shape[0]):
        column = x[j, start:]
        for i in range(rows):
            xt[j, i] = column[i]


@kernel
def _predict(xt: Any, coef: Any, intercept: float, pieces: int, eta: Any) -> None:
    """eta[i] = x_i . coef + intercept, in float64, one column after the other."""
    d = len(coef)
    eta[:] = intercept
    whole = d // 4 * 4
    for j in range(0, whole, 4):
        c0, c1, c2, c3 = coef[j], coef[j + 1], coef[j + 2], coef[j + 3]
        for i in range(pieces * PIECE_ROWS):
            first = (eta[i] + xt[j, i] * c0) + xt[j + 1, i] * c1
            eta[i] = (first + xt[j + 2, i] * c2) + xt[j + 3, i] * c3
    for j in range(whole, d):
        for i in range(pieces * PIECE_ROWS):
            eta[i] += xt[j, i] * coef[j]


@lane_kernel
def _weighted_sum(w: Any, column: Any, rows: int) -> float:
    total = 0.0
    for i in range(rows):
        total += w[i] * column[i]
    return total


@kernel
def _scale_column(xt: Any, j: int, scale: Any, rows: int, z: Any, c: int) -> None:
    """z[c] = scale * xt[j]. A loop of its own, so that products are rounded before the shift is subtracted: a row that
    waited, formed, for the rest of its slab has these bits."""
    for i in range(rows):
        z[c, i] = xt[j, i] * scale[i]


@lane_kernel
def _shift_column(z: Any, c: int, less: Any, w: Any, rows: int) -> float:
    """z[c] -= less; its weighted sum."""
    total = 0.0
    for i in range(rows):
        entry = z[c, i] - less
        z[c, i] = entry
        total += w[i] * entry
    return total


@lane_kernel
def _shift_rows(xt: Any, j: int, less: Any, rows: int, z: Any, c: int) -> float:
    """z[c] = xt[j] - less; its sum."""
    total = 0.0
    for i in range(rows):
        entry = xt[j, i] - less
        z[c, i] = entry
        total += entry
    return total


@kernel
def _fill_plain(xt: Any, rows: int, shift: Any, z: Any, sums: Any) -> None:
    """``_fill`` where factors and weights are one."""
    for j in range(xt.shape[0]):
        sums[j] = _shift_rows(xt, j, z.dtype.type(shift[j]), rows, z, j)


@kernel
def _fill(
    xt: Any, factor: Any, width: int, rows: int, w: Any, shift: Any, scale: Any, z: Any, sums: Any
) -> None:
    """z[q * width + j] = factor_q x~_j - shift of one slab, and the sums of w z."""
    d = xt.shape[0]
    kind = z.dtype.type
    for q in range(factor.shape[0]):
        for i in range(rows):
            scale[i] = factor[q, i]
        for j in range(d):
            c = q * width + j
            _scale_column(xt, j, scale, rows, z, c)
            sums[c] = _shift_column(z, c, kind(shift[c]), w, rows)
        if width > d:
            c = q * width + d
            less = kind(shift[c])
            for i in range(rows):
                z[c, i] = scale[i] - less
            sums[c] = _weighted_sum(w, z[c], rows)


@lane_kernel
def _weighted_squares(w: Any, column: Any, rows: int) -> float:
    total = 0.0
    for i in range(rows):
        total += (w[i] * column[i]) * column[i]
    return total


@lane_kernel
def _add_tile(a: Any, top: int, b: Any, left: int, pieces: int, tile: Any) -> None:
    """tile[r, c] = a[top + r] . b[left + c] over a slab."""
    zero = a.dtype.type(0)
    s00, s01, s02, s03 = zero, zero, zero, zero
    s10, s11, s12, s13 = zero, zero, zero, zero
    s20, s21, s22, s23 = zero, zero, zero, zero
    s30, s31, s32, s33 = zero, zero, zero, zero
    for i in range(pieces * PIECE_ROWS):
        u0, u1, u2, u3 = a[top, i], a[top + 1, i], a[top + 2, i], a[top + 3, i]
        v0, v1, v2, v3 = b[left, i], b[left + 1, i], b[left + 2, i], b[left + 3, i]
        s00, s01, s02, s03 = s00 + u0 * v0, s01 + u0 * v1, s02 + u0 * v2, s03 + u0 * v3
        s10, s11, s12, s13 = s10 + u1 * v0, s11 + u1 * v1, s12 + u1 * v2, s13 + u1 * v3
        s20, s21, s22, s23 = s20 + u2 * v0, s21 + u2 * v1, s22 + u2 * v2, s23 + u2 * v3
        s30, s31, s32, s33 = s30 + u3 * v0, s31 + u3 * v1, s32 + u3 * v2, s33 + u3 * v3
    tile[0, 0], tile[0, 1], tile[0, 2], tile[0, 3] = s00, s01, s02, s03
    tile[1, 0], tile[1, 1], tile[1, 2], tile[1, 3] = s10, s11, s12, s13
    tile[2, 0], tile[2, 1], tile[2, 2], tile[2, 3] = s20, s21, s22, s23
    tile[3, 0], tile[3, 1], tile[3, 2], tile[3, 3] = s30, s31, s32, s33


@lane_kernel
def _add_corner(a: Any, b: Any, top: int, pieces: int, tile: Any) -> None:
    """The same on the diagonal, for c up to r."""
    zero = a.dtype.type(0)
    s00, s10, s11, s20, s21, s22 = zero, zero, zero, zero, zero, zero
    s30, s31, s32, s33 = zero, zero, zero, zero
    for i in range(pieces * PIECE_ROWS):
        u0, u1, u2, u3 = a[top, i], a[top + 1, i], a[top + 2, i], a[top + 3, i]
        v0, v1, v2, v3 = b[top, i], b[top + 1, i], b[top + 2, i], b[top + 3, i]
        s00, s10, s11 = s00 + u0 * v0, s10 + u1 * v0, s11 + u1 * v1
        s20, s21, s22 = s20 + u2 * v0, s21 + u2 * v1, s22 + u2 * v2
        s30, s31, s32, s33 = s30 + u3 * v0, s31 + u3 * v1, s32 + u3 * v2, s33 + u3 * v3
    tile[0, 0], tile[1, 0], tile[1, 1] = s00, s10, s11
    tile[2, 0], tile[2, 1], tile[2, 2] = s20, s21, s22
    tile[3, 0], tile[3, 1], tile[3, 2], tile[3, 3] = s30, s31, s32, s33


@lane_kernel
def _add_row(a: Any, row: int, b: Any, left: int, pieces: int, tile: Any) -> None:
    """tile[0, c] = a[row] . b[left + c] over a slab."""
    zero = a.dtype.type(0)
    s0, s1, s2, s3 = zero, zero, zero, zero
    for i in range(pieces * PIECE_ROWS):
        u = a[row, i]
        s0, s1 = s0 + u * b[left, i], s1 + u * b[left + 1, i]
        s2, s3 = s2 + u * b[left + 2, i], s3 + u * b[left + 3, i]
    tile[0, 0], tile[0, 1], tile[0, 2], tile[0, 3] = s0, s1, s2, s3


@kernel
def _add_products(zw: Any, z: Any, pieces: int, tile: Any, scatter: Any) -> None:
    """scatter[r, c] += zw_r . z_c over one slab, for c up to r: by four rows, and the last ones alone."""
    p = scatter.shape[0]
    whole = p // TILE * TILE
    for top in range(0, whole, TILE):
        for left in range(0, top, TILE):
            _add_tile(zw, top, z, left, pieces, tile)
            for r in range(TILE):
                for c in range(TILE):
                    scatter[top + r, left + c] += tile[r, c]
        _add_corner(zw, z, top, pieces, tile)
        for r in range(TILE):
            for c in range(r + 1):
                scatter[top + r, top + c] += tile[r, c]
    for r in range(whole, p):
        for left in range(0, r + 1, TILE):
            _add_row(zw, r, z, left, pieces, tile)
            for c in range(min(TILE, r + 1 - left)):
                scatter[r, left + c] += tile[0, c]


@kernel
def add_blocks(
    x: Any,
    turned: bool,
    begin: int,
    unit: bool,
    code: int,
    parameter: float,
    second: bool,
    coef: Any,
    intercept: Any,
    y: Any,
    c: Any,
    factor: Any,
    loss: Any,
    w: Any,
    plain: bool,
    centred: bool,
    diagonal: bool,
    scatter: Any,
    shift: Any,
    total: Any,
    totals: Any,
) -> int:
    """Rows of x, columns where it is ``turned``, from ``begin`` on into blocks, the first row into the first block.

    x is C-contiguous either way, so that one compiled signature serves both and all of them have the same bits.

    ``w`` (n,) are the moment weights, all ones where ``plain``. With the code of a loss, factors and losses come from
    it, by the labels ``y`` and loss weights ``c`` (n,), and with its ``second`` derivative so do weights. With
    ``GIVEN`` they are ``factor`` (n, k), what a row of x~ is multiplied with, and ``loss`` (n,); with ``NONE`` ones and
    zeros.

    Adds to ``totals`` the sums of w, w^2 and the loss, to ``total`` that of w z, to ``scatter`` that of w z z^T, z
    being the rows less ``shift``: that of the block, or the weighted mean of the first slab that has weight. Returns
    the first row of the first slab whose sums are not finite, or -1.
    """
    n, d, p, k = len(w), x.shape[0] if turned else x.shape[1], total.shape[1], factor.shape[1]
    width = d + (1 if unit else 0)
    full = scatter.shape[1] == p and not diagonal
    room = (p + TILE - 1) // TILE * TILE
    kind = x.dtype
    longest = min(SLAB_ROWS, (n + PIECE_ROWS - 1) // PIECE_ROWS * PIECE_ROWS)
    pitch = longest + LINE_BYTES // x.itemsize  # no power of two, which would crowd a few sets of the cache
    xt = np.zeros((d, pitch), kind)
    z, zw = np.zeros((room, pitch), kind), np.zeros((1 if plain else room, pitch), kind)
    scale, tile = np.empty(SLAB_ROWS, kind), np.empty((TILE, TILE), kind)
    eta, slope, value = np.empty(SLAB_ROWS), np.ones((k, SLAB_ROWS)), np.zeros(SLAB_ROWS)
    weight, sums, ones = np.ones(SLAB_ROWS), np.empty(p), np.ones(SLAB_ROWS)
    bad = -1
    for row in range(0, n, SLAB_ROWS):
        b = row // layout.BLOCK_ROWS
        rows = min(SLAB_ROWS, n - row)
        pieces = (rows + PIECE_ROWS - 1) // PIECE_ROWS
        if rows < SLAB_ROWS:
            xt[:, rows:] = 0
            z[:, rows:] = 0
            zw[:, rows:] = 0
        if turned:
            _copy_columns(x, begin + row, rows, xt)
        else:
            _transpose(x[begin + row : begin + row + rows], rows, xt)
        if not plain:
            for i in range(rows):
                weight[i] = w[row + i]
        if code == GIVEN:
            for q in range(k):
                for i in range(rows):
                    slope[q, i] = factor[row + i, q]
            for i in range(rows):
                value[i] = loss[row + i]
        elif code != NONE:
            _predict(xt, coef[0], intercept[0], pieces, eta)
            built_in(
                code, parameter, second, eta[:rows], y[row : row + rows], c[row : row + rows], value, slope[0]
            )
            if second:
                for i in range(rows):
                    weight[i] *= slope[0, i]
                    slope[0, i] = 1.0
        mass = np.float64(rows) if plain else _weighted_sum(weight, ones, rows)
        ready = not centred or totals[b, 0] != 0.0 or mass == 0.0
        while True:
            if code == NONE and plain and not unit:
                _fill_plain(xt, rows, shift[b], z, sums)
            else:
                _fill(xt, slope, width, rows, weight, shift[b], scale, z, sums)
            if ready:
                break
            for j in range(p):
                shift[b, j] = z.dtype.type(sums[j] / mass)
            ready = True
        for j in range(p):
            total[b, j] += sums[j]
            if bad < 0 and not np.isfinite(total[b, j]):
                bad = row
        if diagonal:
            for j in range(p):
                scatter[b, 0, j] += _weighted_squares(weight, z[j], rows)
        elif full and plain:
            _add_products(z, z, pieces, tile, scatter[b])
        elif full:
            for i in range(rows):
                scale[i] = weight[i]
            for j in range(p):
                for i in range(rows):
                    zw[j, i] = scale[i] * z[j, i]
            _add_products(zw, z, pieces, tile, scatter[b])
        totals[b, 0] += mass
        totals[b, 1] += mass if plain else _weighted_sum(weight, weight, rows)
        if code != NONE:
            totals[b, 2] += _weighted_sum(ones, value, rows)
    return bad


@kernel
def _fold_scatter(
    block: Any, mean: Any, total: Any, delta: Any, gain: float, diagonal: bool, scatter: Any
) -> None:
    if diagonal:
        for c in range(len(mean)):
            scatter[0, c] += (block[0, c] - mean[c] * total[c]) + gain * delta[c] * delta[c]
        return
    for r in range(scatter.shape[0]):
        down, up = mean[r], delta[r] * gain
        for c in range(r + 1):
            scatter[r, c] += (block[r, c] - down * total[c]) + up * delta[c]


@kernel
def fold_blocks(
    blocks: int,
    block_scatter: Any,
    shift: Any,
    total: Any,
    totals: Any,
    centred: bool,
    diagonal: bool,
    scatter: Any,
    location: Any,
    scalars: Any,
) -> None:
    """Adds whole blocks to the totals of a state, in order: what ``moments.fold`` does, for many small ones at once."""
    p = len(location)
    mean, delta = np.empty(p), np.empty(p)
    for b in range(blocks):
        if centred:
            weight, before = totals[b, 0], scalars[WEIGHT]
            share = weight / (before + weight) if weight != 0.0 else 0.0
            for c in range(p):
                mean[c] = total[b, c] / weight if weight != 0.0 else 0.0
                delta[c] = (shift[b, c] - location[c]) + mean[c]
                location[c] += delta[c] * share
            _fold_scatter(block_scatter[b], mean, total[b], delta, before * share, diagonal, scatter)
        else:
            for c in range(p):
                location[c] += total[b, c]
            for r in range(scatter.shape[0]):
                for c in range(p if diagonal else r + 1):
                    scatter[r, c] += block_scatter[b, r, c]
        for j in range(LOSS + 1 - WEIGHT):
            scalars[WEIGHT + j] += totals[b, j]
