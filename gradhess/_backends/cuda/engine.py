"""The engine of compiled kernels: which kernel of ``csrc/cuda`` takes which block. Not yet run on hardware.

Up to 128 parameters one kernel reads X once and sums products in float64. Above, float64 rows are multiplied on tensor
cores (DMMA), and float32 rows and narrower types by fused multiply-adds in two-level sums, which is what the accuracy
``"float32"`` asks for, and more than the others do. Losses that the row pass knows are evaluated in it; softmax and
custom losses give their slopes beforehand.
"""

from __future__ import annotations

import importlib
from typing import Any, Final, cast

import numpy as np

from gradhess._backends.cupy.engine import NO_BAD_ROW, Accuracy, Block, DeviceArray, Panel
from gradhess._backends.cupy.launch import cupy, empty
from gradhess._backends.cupy.slopes import plain, slopes
from gradhess._backends.protocol import FLOAT32, FLOAT64, Rows

ROW_PASS_LOSSES: Final = ("squared", "logistic", "poisson", "huber")
NARROW: Final = 128
"""Parameters up to which the rows and their product take one kernel: kMostNarrow of csrc/cuda/api.hpp."""

PITCH: Final = 8
"""Rows of a panel are a multiple of this many entries long: 16 bytes of 16-bit planes."""


def kernels() -> Any:
    """The compiled module."""
    return importlib.import_module("gradhess._cuda")


def kernel_dtype(rows: Rows) -> str | None:
    """The name that the kernels have for the dtype of X, or None."""
    if getattr(rows, "bfloat16", False):
        return "bfloat16"
    name = str(rows.X.dtype)
    return name if name in ("float64", "float32", "float16") else None


class CudaPanel:
    """Rows of a block as ``rank_update`` multiplies them: (capacity, pitch), zero from ``n_parameters`` on."""

    def __init__(self, capacity: int, n_parameters: int, dtype: np.dtype[Any]) -> None:
        self.capacity, self.n_parameters, self.dtype = capacity, n_parameters, dtype
        self.pitch = -(-n_parameters // PITCH) * PITCH
        self.n = 0
        self.weighted = False
        self.rows: DeviceArray = None
        self.row_weight: DeviceArray = None
        self.workspace: DeviceArray = None
        self.sums = empty(n_parameters, FLOAT64, "the sums of a block")
        self.squares: DeviceArray = empty(n_parameters, FLOAT64, "the squares of a block")
        self.totals = empty(3, FLOAT64, "the totals of a block")
        self.bad = empty(1, np.int64, "a flag")
        self.bad.fill(NO_BAD_ROW)

    def outputs(self) -> dict[str, int]:
        """The fields of the struct Panel of csrc/cuda/block.hpp that every kernel writes."""
        return {
            "pitch": self.pitch,
            "sums": address(self.sums),
            "totals": address(self.totals),
            "bad": address(self.bad),
        }

    def scratch(self, n_bytes: int) -> int:
        """The address of that much device memory, the same from call to call: calls of a stream come in order."""
        if n_bytes == 0:
            return 0
        if self.workspace is None or self.workspace.size < n_bytes:
            self.workspace = None  # before the larger one is made
            self.workspace = empty(n_bytes, np.uint8, "partial sums")
        return address(self.workspace)


class CudaEngine:
    """See ``gradhess._backends.cupy.engine.Engine``."""

    name = "cuda"

    def serves(self, rows: Rows, structure: str) -> bool:
        itemsize = rows.X.dtype.itemsize
        return (
            rows.kind in ("dense", "gradient", "hessian")
            and kernel_dtype(rows) is not None
            and all(stride % itemsize == 0 for stride in rows.X.strides)
        )

    def panel(self, n_rows: int, n_parameters: int, dtype: np.dtype[Any], *, accuracy: Accuracy) -> Panel:
        return CudaPanel(n_rows, n_parameters, dtype)

    def prepare(self, block: Block, panel: Panel, *, squares: bool = False) -> None:
        assert isinstance(panel, CudaPanel)
        rows, n = block.rows, block.rows.n_samples
        panel.n, panel.weighted = n, block.weights is not None or rows.kind == "hessian"
        if not squares and panel.rows is None:
            panel.rows = empty((panel.capacity, panel.pitch), panel.dtype, "a block of rows")
        if panel.weighted and panel.row_weight is None:
            panel.row_weight = empty(panel.capacity, FLOAT64, "the weights of a block")
        fields, kept = block_fields(block)
        module = kernels()
        module.row_pass(
            fields,
            panel.outputs()
            | {
                "rows": 0 if squares else address(panel.rows),
                "row_weight": address(panel.row_weight) if panel.weighted else 0,
                "squares": address(panel.squares) if squares else 0,
            },
            workspace=panel.scratch(module.row_pass_workspace(n, panel.n_parameters)),
            stream=current_stream(),
        )
        # What was only made for this call may go: the pool gives its memory to later calls of the same stream only.
        del kept

    def rank_update(self, panel: Panel, scatter: DeviceArray) -> None:
        assert isinstance(panel, CudaPanel)
        module = kernels()
        dtype = panel.dtype.name
        module.rank_update(
            rows=address(panel.rows),
            dtype=dtype,
            samples=panel.n,
            columns=panel.n_parameters,
            pitch=panel.pitch,
            row_weight=address(panel.row_weight) if panel.weighted else 0,
            scatter=address(scatter),
            scatter_is_float=scatter.dtype == FLOAT32,
            workspace=panel.scratch(module.rank_update_workspace(dtype, panel.n, panel.n_parameters)),
            stream=current_stream(),
        )

    def fused(self, block: Block, panel: Panel, scatter: DeviceArray) -> bool:
        assert isinstance(panel, CudaPanel)
        p = panel.n_parameters
        if p > NARROW or block.rows.n_outputs > 1:
            return False
        fields, kept = block_fields(block)
        module = kernels()
        module.narrow_update(
            fields,
            panel.outputs(),
            scatter=address(scatter),
            scatter_is_float=scatter.dtype == FLOAT32,
            workspace=panel.scratch(module.narrow_workspace(block.rows.n_samples, p)),
            stream=current_stream(),
        )
        del kept
        return True

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


def block_fields(block: Block) -> tuple[dict[str, Any], list[DeviceArray]]:
    """The struct Block of csrc/cuda/block.hpp, and the arrays that must live until the kernel is queued."""
    rows = block.rows
    itemsize = rows.X.dtype.itemsize
    fields: dict[str, Any] = {
        "data": address(rows.X),
        "dtype": kernel_dtype(rows),
        "samples": rows.n_samples,
        "features": int(rows.X.shape[1]),
        "row_stride": rows.X.strides[0] // itemsize,
        "column_stride": rows.X.strides[1] // itemsize,
        "kind": rows.kind,
        "unit_column": bool(rows.unit_column),
        "outputs": rows.n_outputs,
        "weights": address(block.weights),
        "gate": address(block.gate),
        "first_row": block.first_row,
    }
    kept: list[DeviceArray] = []
    if block.shift is not None:
        shift = cupy().asarray(block.shift, dtype=rows.compute_dtype)
        kept.append(shift)
        fields["shift"] = address(shift)
    if rows.kind == "dense":
        return fields, kept
    loss = rows.loss
    assert loss is not None
    if loss.name in ROW_PASS_LOSSES:
        fields |= {
            "loss": loss.name,
            "parameter": float(loss.parameter),
            "y": address(rows.y),
            "y_is_float": rows.y is not None and rows.y.dtype == FLOAT32,
            "coef": address(rows.coef),
            "intercept": address(rows.intercept),
            "loss_weight": address(rows.loss_weight),
        }
        return fields, kept
    slope, value = slopes(rows, plain(rows))
    kept += [slope, value]
    fields |= {"slopes": address(slope), "values": address(value)}
    return fields, kept


def address(array: DeviceArray | None) -> int:
    return 0 if array is None else int(array.data.ptr)


def current_stream() -> int:
    return cast(int, cupy().cuda.get_current_stream().ptr)
