"""Outer rows ``e (x) a`` on tensor cores: blocks ``A^T diag(c e_p e_q) A`` for all pairs of outputs in one product.

Left rows are ``c e_p a``, right ones ``e_q a``, written as bf16x6 planes for all outputs side by side. Every block is
symmetric, so the kernel computes only the lower triangle of the blocks p >= q: a quarter of the full product. The
Hessian's blocks, ``c e_p (delta_pq - e_q)``, are the same with the other sign, and ``c e_p`` once more on the diagonal.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from gradhess._backends.cuda.fields import address, current_stream, kernels
from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, empty
from gradhess._backends.protocol import FLOAT32

PLANES: Final = 3
ALIGN: Final = 8
ROW_ALIGN: Final = 128
PLANE_BYTES: Final = 512 << 20
"""Of the planes of one operand: rows come in pieces that keep within it."""


def outer_update(
    A: DeviceArray, errors: DeviceArray, row_weight: DeviceArray | None, curvature: bool, out: DeviceArray
) -> None:
    """``Engine.outer_rank_update`` for float32 ``A``. Arrays go back to the pool in the order of the stream."""
    xp = cupy()
    n, w = A.shape
    k = int(errors.shape[1])
    weighted = errors if row_weight is None else errors * row_weight[:, None]
    width = (k - 1) * _up(w) + w
    rows = max(PLANE_BYTES // (2 * PLANES * _up(width)) // ROW_ALIGN * ROW_ALIGN, ROW_ALIGN)
    rows = min(rows, -(-n // ROW_ALIGN) * ROW_ALIGN)
    if n == 0:
        return
    left, right = (empty((PLANES, rows, _up(width)), np.uint16, "planes of outer rows") for _ in range(2))
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        part, e, c = A[start:stop], errors[start:stop], weighted[start:stop]
        _split(part, xp.ascontiguousarray(-c if curvature else c), left)
        _split(part, xp.ascontiguousarray(e), right)
        _update(left, right, stop - start, w, k, out, 0)
        if curvature:
            _split(part, None, right)
            for p in range(k):
                _split(part, xp.ascontiguousarray(c[:, p : p + 1]), left)
                _update(left, right, stop - start, w, 1, out, p * w)
    kernels().tensor_mirror(
        gram=address(out),
        gram_is_float=out.dtype == FLOAT32,
        gram_pitch=k * w,
        columns=w,
        blocks=k,
        stream=current_stream(),
    )


def _split(A: DeviceArray, factors: DeviceArray | None, planes: DeviceArray) -> None:
    n, w = A.shape
    k = 1 if factors is None else int(factors.shape[1])
    kernels().tensor_split_rows(
        data=address(A),
        dtype="float32",
        rows=n,
        columns=w,
        row_stride=A.strides[0] // A.itemsize,
        factors=address(factors),
        factor_stride=k,
        blocks=k,
        block_pitch=_up(w),
        planes=address(planes),
        count=PLANES,
        half=False,
        pitch=planes.shape[2],
        plane_stride=planes.shape[1] * planes.shape[2],
        exponents=0,
        overflow=0,
        stream=current_stream(),
    )


def _update(
    left: DeviceArray, right: DeviceArray, n: int, w: int, blocks: int, out: DeviceArray, corner: int
) -> None:
    """Add the products to ``out`` from entry (corner, corner) on."""
    module = kernels()
    pitch = left.shape[2]
    stride = left.shape[1] * pitch
    columns = int(out.shape[1])
    work = empty(
        module.tensor_update_workspace(first_row=0, rows=n, columns=w, blocks=blocks),
        np.uint8,
        "partial sums",
    )
    module.tensor_update(
        scheme="bf16x6",
        left=(address(left), pitch, stride, 0),
        right=(address(right), pitch, stride, 0),
        rows=n,
        first_row=0,
        columns=w,
        blocks=blocks,
        block_pitch=_up(w),
        gram=address(out) + (corner * columns + corner) * out.itemsize,
        gram_is_float=out.dtype == FLOAT32,
        gram_pitch=columns,
        workspace=address(work) if work.size else 0,
        stream=current_stream(),
    )


def _up(columns: int) -> int:
    return -(-columns // ALIGN) * ALIGN
