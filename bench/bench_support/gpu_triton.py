"""The lower triangle of ``Y^T Y`` in Triton. A file of its own, since Triton reads the source of its kernels."""

import triton
import triton.language as tl


@triton.jit
def lower_triangle(
    Y, C, n: tl.constexpr, p: tl.constexpr, row_stride, out_stride, TILE: tl.constexpr, ROWS: tl.constexpr
):
    """Program i computes tile i of the lower triangle, in row order, from all rows; sums are float32."""
    number = tl.program_id(0)
    row = ((tl.sqrt(8.0 * number + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > number, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= number, row + 1, row)
    column = number - row * (row + 1) // 2
    left = row * TILE + tl.arange(0, TILE)
    right = column * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for first in range(0, n, ROWS):
        rows = first + tl.arange(0, ROWS)
        at = Y + rows.to(tl.int64)[:, None] * row_stride
        there = rows[:, None] < n
        a = tl.load(at + left[None, :], mask=there & (left[None, :] < p), other=0.0)
        b = tl.load(at + right[None, :], mask=there & (right[None, :] < p), other=0.0)
        total = tl.dot(tl.trans(a), b, total)
    out = C + left.to(tl.int64)[:, None] * out_stride + right[None, :]
    tl.store(out, total, mask=(left[:, None] < p) & (right[None, :] < p))
