"""The engine of compiled kernels: which kernel of ``csrc/cuda`` takes which block. Not yet run on hardware.

Up to 128 parameters one kernel reads X once and sums products in float64. Above, float64 rows are multiplied on tensor
cores (DMMA), and float32 rows and narrower types as 16-bit planes (csrc/cuda/planes.hpp), which the row pass writes, by
one of the schemes of ``panel``. ``products="plain"`` takes fused multiply-adds in two-level float32 sums for all of
them instead. Losses are evaluated in the row pass, custom ones by kernels that are compiled for them; softmax, and
custom losses that do not translate to C, give their slopes beforehand. Products of two matrices are in float64, on
tensor cores.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np

from gradhess._backends.cuda.fields import (
    address,
    block_arguments,
    current_stream,
    evaluated_in_kernels,
    factor,
    kernel_dtype,
    kernels,
)
from gradhess._backends.cuda.outer import outer_update
from gradhess._backends.cuda.panel import LARGEST_EXPONENT, CudaPanel, Scheme, scheme_of
from gradhess._backends.cupy import layout
from gradhess._backends.cupy.cublas_engine import scale_rows
from gradhess._backends.cupy.engine import Accuracy, Block, DeviceArray, Panel
from gradhess._backends.cupy.launch import device_errors, empty
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.cupy.slopes import plain, slopes
from gradhess._backends.protocol import FLOAT32, FLOAT64, Rows

NARROW: Final = 128
"""Parameters up to which the rows and their product take one kernel: kMostNarrow of csrc/cuda/api.hpp."""


class CudaEngine:
    """See ``gradhess._backends.cupy.engine.Engine``."""

    name = "cuda"

    def __init__(
        self,
        products: Literal["tensor", "plain"] = "tensor",
        kernel: Literal["automatic", "mma", "wgmma"] = "automatic",
    ) -> None:
        self.products = products
        self.kernel = kernel
        """Of products of planes: the fastest that the device has, or one by name, for comparison."""

    def serves(self, rows: Rows) -> bool:
        itemsize = rows.X.dtype.itemsize
        return (
            rows.kind in ("dense", "gradient", "hessian")
            and kernel_dtype(rows) is not None
            and all(stride % itemsize == 0 for stride in rows.X.strides)
        )

    def panel(self, n_rows: int, n_parameters: int, dtype: np.dtype[Any], *, accuracy: Accuracy) -> Panel:
        return CudaPanel(n_rows, n_parameters, dtype, accuracy)

    def prepare(self, block: Block, panel: Panel, *, squares: bool = False) -> None:
        assert isinstance(panel, CudaPanel)
        n = block.rows.n_samples
        panel.n, panel.weighted = n, block.weights is not None or block.rows.kind == "hessian"
        plain = panel.dtype == FLOAT64 or self.products == "plain"
        panel.scheme = scheme = None if plain or squares else scheme_of(block, panel.accuracy)
        outputs = panel.outputs()
        if panel.weighted:
            if panel.row_weight is None:
                panel.row_weight = empty(panel.capacity, FLOAT64, "the weights of a block")
            outputs["row_weight"] = address(panel.row_weight)
        if squares:
            outputs["squares"] = address(panel.squares)
        elif scheme is None or scheme.scaled or panel.weighted:
            if panel.rows is None:
                panel.rows = empty((panel.capacity, panel.pitch), panel.dtype, "a block of rows")
            outputs["rows"] = address(panel.rows)
        if scheme is not None and not scheme.scaled:
            outputs |= {
                "planes": panel.plane("right", scheme.right),
                "plane_count": scheme.right,
                "half": scheme.half,
                "plane_stride": panel.plane_stride,
            }
        given = block_arguments(block)
        module = kernels()
        module.row_pass(
            given.fields,
            outputs,
            workspace=panel.scratch(module.row_pass_workspace(n, panel.n_parameters)),
            stream=current_stream(),
            launch=given.launch,
        )
        # What was only made for this call may go: the pool gives its memory to later calls of the same stream only.
        del given
        if scheme is not None:
            self._split(panel, scheme)

    def slopes(self, rows: Rows) -> tuple[DeviceArray, DeviceArray]:
        if not self.serves(rows) or not evaluated_in_kernels(rows)[0]:
            return slopes(rows, plain(rows))
        n = rows.n_samples
        slope, value = empty((n, 1), FLOAT64, "the slopes"), empty(n, FLOAT64, "the losses")
        given = block_arguments(Block(rows))
        kernels().row_slopes(
            given.fields,
            slopes=address(slope),
            values=address(value),
            stream=current_stream(),
            launch=given.launch,
        )
        return slope, value

    def _split(self, panel: CudaPanel, scheme: Scheme) -> None:
        """The planes that the row pass does not write: scaled ones, and the left ones of rows with weights."""
        if panel.n == 0 or not (scheme.scaled or panel.weighted):
            return
        module, stream = kernels(), current_stream()
        rows = {
            "data": address(panel.rows),
            "dtype": "float32",
            "rows": panel.n,
            "columns": panel.n_parameters,
            "row_stride": panel.pitch,
        }
        exponents = {"left": 0, "right": 0}
        sides = {"right": 0}
        if panel.weighted:
            sides["left"] = address(panel.row_weight)
        if scheme.scaled and panel.exponents is None:
            panel.exponents = empty((2, panel.pitch), np.int32, "exponents of columns")
        for number, (side, factors) in enumerate(sides.items()):
            if scheme.scaled:
                exponents[side] = address(panel.exponents) + number * panel.pitch * 4
                module.tensor_column_exponents(
                    **rows,
                    factors=factors,
                    exponents=exponents[side],
                    largest=LARGEST_EXPONENT,
                    workspace=panel.scratch(
                        module.tensor_column_exponents_workspace(panel.n, panel.n_parameters)
                    ),
                    stream=stream,
                )
            elif side == "right":
                continue  # the row pass wrote them
            count = scheme.left if side == "left" else scheme.right
            module.tensor_split_rows(
                **rows,
                factors=factors,
                planes=panel.plane(side, count),
                count=count,
                half=scheme.half,
                pitch=panel.pitch,
                plane_stride=panel.plane_stride,
                exponents=exponents[side],
                overflow=0,
                stream=stream,
            )

    def rank_update(self, panel: Panel, scatter: DeviceArray) -> None:
        assert isinstance(panel, CudaPanel)
        if panel.n == 0:
            return
        if panel.scheme is not None:
            self._planes_update(panel, panel.scheme, scatter)
            return
        # Float32 sums end where those of cuBLAS do; float64 needs no end.
        size = panel.n if panel.dtype == FLOAT64 else layout.BLOCK_ROWS
        for start in range(0, panel.n, size):
            self._rows_update(panel, scatter, start, min(start + size, panel.n))

    def _rows_update(self, panel: CudaPanel, scatter: DeviceArray, start: int, stop: int) -> None:
        module, dtype, n = kernels(), panel.dtype.name, stop - start
        weights = address(panel.row_weight) + start * panel.row_weight.itemsize if panel.weighted else 0
        module.rank_update(
            rows=address(panel.rows) + start * panel.pitch * panel.dtype.itemsize,
            dtype=dtype,
            samples=n,
            columns=panel.n_parameters,
            pitch=panel.pitch,
            row_weight=weights,
            scatter=address(scatter),
            scatter_is_float=scatter.dtype == FLOAT32,
            workspace=panel.scratch(module.rank_update_workspace(dtype, n, panel.n_parameters)),
            stream=current_stream(),
        )

    def _planes_update(self, panel: CudaPanel, scheme: Scheme, scatter: DeviceArray) -> None:
        module = kernels()
        p = panel.n_parameters

        def operand(side: str, count: int) -> tuple[int, int, int, int]:
            scales = 0
            if scheme.scaled:
                scales = address(panel.exponents) + (side == "left") * panel.pitch * 4
            return panel.plane(side, count), panel.pitch, panel.plane_stride, scales

        right = operand("right", scheme.right)
        module.tensor_update(
            scheme=scheme.name,
            left=operand("left", scheme.left) if panel.weighted else right,
            right=right,
            rows=panel.n,
            first_row=0,
            columns=p,
            gram=address(scatter),
            gram_is_float=scatter.dtype == FLOAT32,
            gram_pitch=p,
            workspace=panel.scratch(module.tensor_update_workspace(first_row=0, rows=panel.n, columns=p)),
            stream=current_stream(),
            kernel=self.kernel,
        )

    def fused(self, block: Block, panel: Panel, scatter: DeviceArray) -> bool:
        assert isinstance(panel, CudaPanel)
        p = panel.n_parameters
        if p > NARROW:
            return False
        if block.rows.n_outputs > 1:
            block = self._formed(block)  # held until the kernel is queued
        given = block_arguments(block)
        module = kernels()
        module.narrow_update(
            given.fields,
            panel.outputs(),
            scatter=address(scatter),
            scatter_is_float=scatter.dtype == FLOAT32,
            workspace=panel.scratch(module.narrow_workspace(block.rows.n_samples, p)),
            stream=current_stream(),
            launch=given.launch,
        )
        del given
        return True

    def _formed(self, block: Block) -> Block:
        """Rows of several outputs, which the kernel of narrow rows does not take, formed."""
        rows = block.rows
        slope, value = self.slopes(rows)
        out = empty((rows.n_samples, rows.n_parameters), rows.compute_dtype, "rows")
        scale_rows(rows, plain(rows), slope, rows.n_samples, z=out)
        return Block(DeviceRows(out), block.weights, block.shift, block.gate, block.first_row, value)

    def product(self, left: DeviceArray, right: DeviceArray, out: DeviceArray, *, add: bool = False) -> None:
        rows, terms = (int(size) for size in left.shape)
        columns = int(right.shape[1])
        module = kernels()
        with device_errors("a product"):
            left, right = factor(left.T), factor(right)
            size = module.matrix_product_workspace(rows, columns, terms)
            work = empty(size, np.uint8, "partial sums of a product") if size else None
            module.matrix_product(
                left=left.arguments,
                right=right.arguments,
                rows=rows,
                columns=columns,
                terms=terms,
                out=address(out),
                row_stride=out.strides[0] // out.itemsize,
                column_stride=out.strides[1] // out.itemsize,
                add=add,
                workspace=address(work),
                stream=current_stream(),
            )

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
        # float64 would be rounded to the 24 bits of the planes.
        if A.dtype != FLOAT32 or self.products == "plain":
            return False
        outer_update(A, errors, row_weight, curvature, out)
        return True
