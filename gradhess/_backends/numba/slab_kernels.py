"""From rows of X to slabs of rows of G, and sums over their columns.

Arrays are C-contiguous. A slab is ``slab`` rows, ``SLAB_ROWS`` where the argument is missing; the last one may be
shorter.

Names: ``x`` rows of X (n, d or more), ``factor`` (n, k) what a row of x~ is multiplied with, ``w`` (n,) moment weights,
``z`` the rows of G in the compute type, one slab after another.

Contraction of ``a * b + c`` into one rounding is allowed everywhere; reordering only where it is said.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from gradhess._backends import layout

SLAB_ROWS: Final = layout.SLAB_ROWS

kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
# Sums may be reordered into vector lanes. The order depends on how many terms there are, and on nothing else.
lane_kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})


# ---- one row ----------------------------------------------------------------------------------------------------


@lane_kernel
def _dot(x: Any, row: int, d: int, coef: Any, q: int) -> float:
    total = 0.0
    for j in range(d):
        total += np.float64(x[row, j]) * coef[q, j]
    return total


@lane_kernel
def _squares(x: Any, row: int, d: int) -> float:
    total = 0.0
    for j in range(d):
        total += np.float64(x[row, j]) * np.float64(x[row, j])
    return total


@lane_kernel
def _not_finite(x: Any, row: int, d: int, scale: Any) -> bool:
    zero = x.dtype.type(0)
    total = zero
    for j in range(d):
        total += (x[row, j] * scale) * zero  # 0, but NaN where the product is infinite or NaN
    return bool(total != zero)


@kernel
def predict(x: Any, d: int, coef: Any, intercept: Any, eta: Any) -> None:
    """eta[i, q] = x_i . coef_q + intercept_q, in float64."""
    for i in range(eta.shape[0]):
        for q in range(eta.shape[1]):
            eta[i, q] = _dot(x, i, d, coef, q) + intercept[q]


@kernel
def predict_in_order(x: Any, coef: Any, intercept: Any, eta: Any) -> None:
    """The same, one column after the other, from the intercept on: the bits of ``narrow_kernels``. By eight rows, since
    the additions of one wait for each other."""
    n, k = eta.shape
    whole = n // 8 * 8
    total = np.empty(8)
    for q in range(k):
        for i in range(0, whole, 8):
            total[:] = intercept[q]
            for j in range(coef.shape[1]):
                for r in range(8):
                    total[r] += np.float64(x[i + r, j]) * coef[q, j]
            for r in range(8):
                eta[i + r, q] = total[r]
        for i in range(whole, n):
            one = intercept[q]
            for j in range(coef.shape[1]):
                one += np.float64(x[i, j]) * coef[q, j]
            eta[i, q] = one


@kernel
def row_norms(x: Any, d: int, extra: float, out: Any) -> None:
    """sqrt(|x_i|^2 + extra)"""
    for i in range(out.shape[0]):
        out[i] = np.sqrt(_squares(x, i, d) + extra)


@kernel
def first_nonfinite(x: Any, d: int, factor: Any, w: Any) -> int:
    """The first row that is not finite in the compute type, or whose weight or factor is not; -1 if there is none."""
    for i in range(w.shape[0]):
        if not np.isfinite(w[i, 0]):
            return i
        for q in range(factor.shape[1]):
            scale = x.dtype.type(factor[i, q])
            if not np.isfinite(scale) or _not_finite(x, i, d, scale):
                return i
    return -1


# ---- a slab of rows of G ----------------------------------------------------------------------------------------


@kernel
def fill(
    x: Any,
    column: int,
    row: int,
    rows: int,
    d: int,
    width: int,
    factor: Any,
    first: int,
    last: int,
    z: Any,
    at: int,
    left: int,
) -> None:
    """Parameters ``first`` to ``last`` of rows ``row`` to ``row + rows`` into z[at:, left:].

    Parameter q * width + j of a row is factor_q x~_j, and x~_j = x[:, j - column], or 1 where j = d.
    """
    for i in range(rows):
        for q in range(first // width, (last - 1) // width + 1):
            scale = z.dtype.type(factor[row + i, q])
            origin = q * width
            low = max(first, origin)
            high = min(last, origin + d)
            source = x[row + i, low - origin - column :]
            target = z[at + i, left + low - first :]
            for c in range(high - low):
                target[c] = source[c] * scale
            if width > d and low <= origin + d < last:
                z[at + i, left + origin + d - first] = scale


@kernel
def add_columns(
    a: Any, row: int, rows: int, z: Any, at: int, left: int, columns: int, out: Any, start: int
) -> None:
    """out[r, start + c] += sum_i a[row + i, r] z[at + i, left + c] in float64, added when it is complete."""
    part = np.zeros(columns)
    for r in range(a.shape[1]):
        part[:] = 0.0
        whole = rows // 4 * 4
        for i in range(0, whole, 4):
            a0, a1, a2, a3 = a[row + i, r], a[row + i + 1, r], a[row + i + 2, r], a[row + i + 3, r]
            z0, z1, z2, z3 = (
                z[at + i, left:],
                z[at + i + 1, left:],
                z[at + i + 2, left:],
                z[at + i + 3, left:],
            )
            for c in range(columns):
                part[c] = (((part[c] + a0 * z0[c]) + a1 * z1[c]) + a2 * z2[c]) + a3 * z3[c]
        for i in range(whole, rows):
            z0 = z[at + i, left:]
            for c in range(columns):
                part[c] += a[row + i, r] * z0[c]
        for c in range(columns):
            out[r, start + c] += part[c]


@kernel
def _find_shift(w: Any, rows: int, z: Any, at: int, left: int, columns: int, shift: Any, start: int) -> None:
    """The weighted mean of the slab, rounded to the compute type."""
    total = w.sum()
    shift[start : start + columns] = 0.0
    add_columns(w, 0, rows, z, at, left, columns, shift.reshape(1, -1), start)
    for c in range(columns):
        shift[start + c] = z.dtype.type(shift[start + c] / total)


@kernel
def _add_squares(
    w: Any, row: int, rows: int, z: Any, at: int, left: int, columns: int, out: Any, start: int
) -> None:
    part = np.zeros(columns)
    for i in range(rows):
        weight, z0 = w[row + i, 0], z[at + i, left:]
        for c in range(columns):
            part[c] += (weight * z0[c]) * z0[c]
    for c in range(columns):
        out[0, start + c] += part[c]


@kernel
def prepare(
    slab: int,
    x: Any,
    column: int,
    d: int,
    width: int,
    factor: Any,
    w: Any,
    first: int,
    last: int,
    find_shift: bool,
    centred: bool,
    shift: Any,
    total: Any,
    diagonal: bool,
    scatter: Any,
    z: Any,
    left: int,
) -> int:
    """Slabs of rows into z[:, left:], for parameters ``first`` to ``last``: filled, centred and summed.

    ``find_shift`` says that the block has no weight yet: its first slab that has some gives the shift.

    Adds sum w z to ``total`` and, for a diagonal scatter (1, p), sum w z^2 to that. Each slab has its place in z, with
    zeros after its last row; or they take turns, where z has room for one only. Returns the first row of the first
    slab whose sum is not finite, or -1.
    """
    n = w.shape[0]
    columns = last - first
    bad = -1
    for row in range(0, n, slab):
        rows = min(slab, n - row)
        at = row if z.shape[0] >= row + slab else 0
        fill(x, column, row, rows, d, width, factor, first, last, z, at, left)
        if centred:
            if find_shift and w[row : row + rows].sum() != 0.0:
                _find_shift(w[row : row + rows], rows, z, at, left, columns, shift, first)
                find_shift = False
            narrow = shift[first:last].astype(z.dtype)
            for i in range(rows):
                z0 = z[at + i, left:]
                for c in range(columns):
                    z0[c] -= narrow[c]
        z[at + rows : at + slab, left : left + columns] = 0
        add_columns(w, row, rows, z, at, left, columns, total.reshape(1, -1), first)
        if diagonal:
            _add_squares(w, row, rows, z, at, left, columns, scatter, first)
        if bad < 0:
            for c in range(first, last):
                if not np.isfinite(total[c]):
                    bad = row
    return bad


@kernel
def add_cross(
    x: Any, column: int, d: int, width: int, factor: Any, a: Any, first: int, last: int, out: Any, z: Any
) -> None:
    """out[r, first:last] += sum_i a[i, r] g_i[first:last], slab by slab."""
    n = a.shape[0]
    for row in range(0, n, SLAB_ROWS):
        rows = min(SLAB_ROWS, n - row)
        fill(x, column, row, rows, d, width, factor, first, last, z, 0, 0)
        add_columns(a, row, rows, z, 0, 0, last - first, out, first)


@kernel
def add_totals(slab: int, w: Any, loss: Any, totals: Any) -> None:
    """Adds the sums of w, w^2 and loss to ``totals``, slab by slab."""
    n = w.shape[0]
    for row in range(0, n, slab):
        weight = 0.0
        squares = 0.0
        value = 0.0
        for i in range(row, min(row + slab, n)):
            weight += w[i, 0]
            squares += w[i, 0] * w[i, 0]
            value += loss[i]
        totals[0] += weight
        totals[1] += squares
        totals[2] += value
