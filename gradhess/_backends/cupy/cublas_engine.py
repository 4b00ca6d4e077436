"""The engine from CuPy and cuBLAS alone: kernels of ``kernels.cu`` for the row pass, GEMM for the rank-k update.

The lower triangle of ``Z^T Z`` is computed in ``PANELS`` column panels, each one GEMM from its first row down: 9/8 of
the work of a perfect triangle, 9/16 of that of the full product. (``syrk`` is slow in some releases of cuBLAS for
Hopper; ``bench/gpu.py`` times both.) float32 panels are summed in float32 over slabs of ``layout.SLAB_ROWS`` rows, and
these over ``layout.BLOCK_ROWS`` rows, and then added to the float64 scatter. cuBLAS keeps its bits from run to run on
one kind of device; another number of multiprocessors or another release may choose other kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from gradhess._backends.cupy import layout
from gradhess._backends.cupy.engine import Accuracy, Block, DeviceArray, Panel
from gradhess._backends.cupy.launch import (
    SEGMENT,
    THREADS,
    cupy,
    device_errors,
    empty,
    flat,
    launch,
    rehearsing,
    table,
)
from gradhess._backends.cupy.slopes import plain, row_weights, slopes, strides
from gradhess._backends.protocol import FLOAT32, FLOAT64, Rows

PANELS: Final = 8
PANEL_MIN_COLUMNS: Final = 256
PANEL_MAX_BYTES: Final = 512 << 20
"""Of one panel of products that is added to the scatter apart."""


class CublasPanel:
    """Rows of a block as they are multiplied: z, and w z where the block has weights."""

    def __init__(self, n_rows: int, n_parameters: int, dtype: np.dtype[Any], accuracy: Accuracy) -> None:
        self.capacity, self.dtype, self.accuracy = n_rows, dtype, accuracy
        self.n_parameters = n_parameters
        self.rows: DeviceArray = None
        """(n_rows, p); made when the first block needs it."""
        self.scaled: DeviceArray = None
        self.n = 0
        self.weighted = False
        self.products: DeviceArray = None
        p = n_parameters
        segments = -(-n_rows // SEGMENT)
        self.partial = empty((segments, p), FLOAT64, "sums of segments")
        self.partial_squares: DeviceArray = None
        self.partial_totals = empty((segments, 3), FLOAT64, "sums of segments")
        self.sums = empty(p, FLOAT64, "the sums of a block")
        self.squares = empty(p, FLOAT64, "the squares of a block")
        self.totals = empty(3, FLOAT64, "the totals of a block")
        self.bad = empty(1, np.int64, "a flag")


class CublasEngine:
    """See ``engine.Engine``. It serves every kind of rows."""

    name = "cublas"

    def serves(self, rows: Rows) -> bool:
        return True

    def panel(self, n_rows: int, n_parameters: int, dtype: np.dtype[Any], *, accuracy: Accuracy) -> Panel:
        return CublasPanel(n_rows, n_parameters, dtype, accuracy)

    def prepare(self, block: Block, panel: Panel, *, squares: bool = False) -> None:
        assert isinstance(panel, CublasPanel)
        self.row_pass(block, panel, keep=not squares, squares=squares)

    def row_pass(
        self,
        block: Block,
        panel: CublasPanel,
        *,
        keep: bool,
        squares: bool = False,
        skip: DeviceArray | None = None,
        given: tuple[DeviceArray, DeviceArray] | None = None,
    ) -> None:
        """``prepare``; without ``keep`` only the sums are made. ``given``: slopes and values that are known already."""
        rows = block.rows
        n, p = rows.n_samples, rows.n_parameters
        X = plain(rows)
        slope, value = (None, None) if rows.kind == "dense" else given or slopes(rows, X)
        weights = row_weights(rows, block.weights, slope)
        if keep and panel.rows is None:
            panel.rows = empty((panel.capacity, p), panel.dtype, "a block of rows")
        if keep and weights is not None and panel.scaled is None:
            panel.scaled = empty((panel.capacity, p), panel.dtype, "a block of weighted rows")
        if squares and panel.partial_squares is None:
            panel.partial_squares = empty(panel.partial.shape, FLOAT64, "squares of segments")
        scale_rows(
            rows,
            X,
            slope,
            n,
            shift=block.shift,
            weights=weights,
            gate=block.gate,
            skip=skip,
            z=panel.rows if keep else None,
            scaled=panel.scaled if keep and weights is not None else None,
            partial=panel.partial,
            squares=panel.partial_squares if squares else None,
            bad=panel.bad,
            first=block.first_row,
        )
        segments = -(-n // SEGMENT)
        flat(
            "row_totals",
            FLOAT64,
            segments,
            weights,
            value,
            block.gate,
            skip,
            n,
            SEGMENT,
            panel.partial_totals,
        )
        flat("fold", FLOAT64, p, panel.partial, segments, p, panel.sums)
        flat("fold", FLOAT64, 3, panel.partial_totals, segments, 3, panel.totals)
        if squares:
            flat("fold", FLOAT64, p, panel.partial_squares, segments, p, panel.squares)
        panel.n, panel.weighted = n, weights is not None

    def slopes(self, rows: Rows) -> tuple[DeviceArray, DeviceArray]:
        return slopes(rows, plain(rows))

    def rank_update(self, panel: Panel, scatter: DeviceArray) -> None:
        assert isinstance(panel, CublasPanel)
        other = panel.scaled if panel.weighted else panel.rows
        p = panel.n_parameters
        columns = panel_columns(p, panel.dtype.itemsize)
        direct = panel.dtype == scatter.dtype and panel.dtype == FLOAT64
        if not direct and panel.products is None:
            panel.products = empty((p, min(columns, p)), panel.dtype, "a panel of products")
        with _math_mode(panel.accuracy), device_errors("the product of a block"):
            for first in range(0, p, columns):
                last = min(first + columns, p)
                if direct:
                    # Above the diagonal this writes what is not the scatter's; everything reads the lower triangle.
                    _products(panel.rows, other, panel.n, p, first, last, scatter, p, keep=True)
                    continue
                for start in range(0, panel.n, layout.BLOCK_ROWS):
                    stop = min(start + layout.BLOCK_ROWS, panel.n)
                    self._add_float32(panel, other, scatter, (first, last), (start, stop))

    def _add_float32(
        self,
        panel: CublasPanel,
        other: DeviceArray,
        scatter: DeviceArray,
        columns: tuple[int, int],
        rows: tuple[int, int],
    ) -> None:
        """Rows that are summed in float32, slab by slab, to the scatter."""
        p, (first, last), (begin, end) = panel.n_parameters, columns, rows
        for start in range(begin, end, layout.SLAB_ROWS):
            stop = min(start + layout.SLAB_ROWS, end)
            _products(
                panel.rows,
                other,
                stop - start,
                p,
                first,
                last,
                panel.products,
                last - first,
                keep=start > begin,
                from_row=start,
                packed=True,
            )
        add = "add_panel" if scatter.dtype == FLOAT64 else "add_panel_same"
        table(
            add,
            panel.dtype,
            p - first,
            last - first,
            panel.products,
            first,
            p - first,
            last - first,
            scatter,
            p,
        )

    def fused(self, block: Block, panel: Panel, scatter: DeviceArray) -> bool:
        return False

    def product(self, left: DeviceArray, right: DeviceArray, out: DeviceArray, *, add: bool = False) -> None:
        with device_errors("a product"):
            found = left @ right
            if add:
                out += found
            else:
                out[...] = found

    def outer_rank_update(
        self,
        A: DeviceArray,
        errors: DeviceArray,
        row_weight: DeviceArray | None,
        curvature: bool,
        out: DeviceArray,
        *,
        accuracy: Accuracy,
    ) -> bool:
        return False


def scale_rows(
    rows: Rows,
    X: DeviceArray,
    slope: DeviceArray | None,
    n: int,
    *,
    shift: DeviceArray | None = None,
    weights: DeviceArray | None = None,
    gate: DeviceArray | None = None,
    skip: DeviceArray | None = None,
    z: DeviceArray | None = None,
    scaled: DeviceArray | None = None,
    partial: DeviceArray | None = None,
    squares: DeviceArray | None = None,
    bad: DeviceArray | None = None,
    mask: DeviceArray | None = None,
    hold: bool = False,
    first: int = 0,
) -> None:
    """The kernel ``scale_rows`` over (n, p): every output that is not None."""
    p, d = rows.n_parameters, int(X.shape[1])
    factor = slope if rows.kind == "gradient" else None
    across = min(THREADS, max(32, 1 << (p - 1).bit_length()))
    down = THREADS // across
    column_blocks = -(-p // across)
    segments = -(-n // SEGMENT)
    grid = column_blocks * -(-segments // down)
    launch(
        "scale_rows",
        X.dtype,
        grid,
        (across, down),
        X,
        n,
        d,
        *strides(X),
        bool(rows.unit_column),
        factor,
        p // (d + rows.unit_column),
        shift,
        weights,
        gate,
        skip,
        z,
        scaled,
        partial,
        squares,
        bad,
        mask,
        hold,
        first,
        SEGMENT,
        column_blocks,
    )


def panel_columns(n_parameters: int, itemsize: int) -> int:
    """Columns of a panel: an eighth of all, but no fewer than pays, and within ``PANEL_MAX_BYTES`` of products."""
    most = max(PANEL_MAX_BYTES // (n_parameters * itemsize), 1)
    columns = -(-n_parameters // PANELS)
    return min(max(-(-columns // 64) * 64, PANEL_MIN_COLUMNS), max(most // 64 * 64, 64))


_ONE: Final[dict[Any, Any]] = {FLOAT32: np.ones(1, np.float32), FLOAT64: np.ones(1, np.float64)}
_ZERO: Final[dict[Any, Any]] = {FLOAT32: np.zeros(1, np.float32), FLOAT64: np.zeros(1, np.float64)}


def _products(
    rows: DeviceArray,
    other: DeviceArray,
    n: int,
    p: int,
    first: int,
    last: int,
    out: DeviceArray,
    out_stride: int,
    *,
    keep: bool,
    from_row: int = 0,
    packed: bool = False,
) -> None:
    """``out[i, j] (+)= sum other[:, i] rows[:, j]`` for i from ``first`` to p and j from ``first`` to ``last``.

    ``out`` is row-major; ``packed``: it begins at (first, first), else it is the whole scatter. For cuBLAS, which
    counts by columns, a row-major matrix is its own transpose: out^T = rows^T other becomes an N, T product.
    """
    if rehearsing():
        return
    cublas, dtype = cupy().cuda.cublas, rows.dtype
    gemm = cublas.sgemm if dtype == FLOAT32 else cublas.dgemm
    size = rows.itemsize
    offset = (from_row * p + first) * size
    target = out.data.ptr + (0 if packed else (first * out_stride + first) * size)
    gemm(
        cupy().cuda.device.get_cublas_handle(),
        cublas.CUBLAS_OP_N,
        cublas.CUBLAS_OP_T,
        last - first,
        p - first,
        n,
        _ONE[dtype].ctypes.data,
        rows.data.ptr + offset,
        p,
        other.data.ptr + offset,
        p,
        (_ONE if keep else _ZERO)[dtype].ctypes.data,
        target,
        out_stride,
    )


@contextmanager
def _math_mode(accuracy: Accuracy) -> Iterator[None]:
    """TF32 where it was asked for by name, plain float32 else, whatever the handle was set to before."""
    cublas = cupy().cuda.cublas
    handle = cupy().cuda.device.get_cublas_handle()
    math, pointers = cublas.getMathMode(handle), cublas.getPointerMode(handle)
    cublas.setMathMode(
        handle, cublas.CUBLAS_TF32_TENSOR_OP_MATH if accuracy == "tf32" else cublas.CUBLAS_DEFAULT_MATH
    )
    cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_HOST)
    try:
        yield
    finally:
        cublas.setMathMode(handle, math)
        cublas.setPointerMode(handle, pointers)
