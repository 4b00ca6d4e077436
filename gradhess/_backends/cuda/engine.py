"""The engine of compiled kernels: which kernel of ``csrc/cuda`` takes which block. Not yet run on hardware.

Up to 128 parameters one kernel reads X once and sums products in float64. Above, float64 rows are multiplied on tensor
cores (DMMA), and float32 rows and narrower types as 16-bit planes (csrc/cuda/planes.hpp), which the row pass writes:

==================  =======================================================  ===================================
scheme              rows                                                     accuracy
==================  =======================================================  ===================================
``bf16``, ``fp16``  that are 16-bit numbers already: dense, not shifted      exact products
``bf16_left3``      the same, bfloat16, with weights                         weights times rows in 24 bits
``fp16x3``          float32, where ``accuracy="fp16x3"`` asks for no more    about 1e-6 of a diagonal entry
``bf16x6``          all others                                               that of sums in float32
==================  =======================================================  ===================================

``products="plain"`` takes fused multiply-adds in two-level float32 sums for all of them instead. Losses that the row
pass knows are evaluated in it; softmax and custom losses give their slopes beforehand.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np

from gradhess._backends.cuda.outer import outer_update
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


@dataclass(frozen=True, slots=True)
class Scheme:
    """How rows are written as planes: the name in csrc/cuda/planes.hpp, planes of both operands, and their type."""

    name: str
    left: int
    right: int
    half: bool

    @property
    def scaled(self) -> bool:
        """Columns are multiplied by powers of two, so that float16 holds them."""
        return self.name == "fp16x3"


BF16: Final = Scheme("bf16", 1, 1, False)
FP16: Final = Scheme("fp16", 1, 1, True)
BF16_LEFT3: Final = Scheme("bf16_left3", 3, 1, False)
FP16X3: Final = Scheme("fp16x3", 2, 2, True)
BF16X6: Final = Scheme("bf16x6", 3, 3, False)
LARGEST_EXPONENT: Final = 14
"""Scaled columns reach [2^14, 2^15): below the largest float16, 65504."""


def scheme_of(block: Block, accuracy: Accuracy) -> Scheme:
    weighted = block.weights is not None or block.rows.kind == "hessian"
    if block.rows.kind != "gradient" and block.shift is None:
        name = kernel_dtype(block.rows)
        if name == "bfloat16":
            return BF16_LEFT3 if weighted else BF16
        if name == "float16" and not weighted:
            return FP16
    return FP16X3 if accuracy == "fp16x3" else BF16X6


class CudaPanel:
    """A block as ``rank_update`` multiplies it: rows (capacity, pitch), zero from ``n_parameters`` on, or planes."""

    def __init__(self, capacity: int, n_parameters: int, dtype: np.dtype[Any], accuracy: Accuracy) -> None:
        self.capacity, self.n_parameters, self.dtype = capacity, n_parameters, dtype
        self.accuracy = accuracy
        self.pitch = -(-n_parameters // PITCH) * PITCH
        self.n = 0
        self.weighted = False
        self.scheme: Scheme | None = None
        self.rows: DeviceArray = None
        self.row_weight: DeviceArray = None
        self.planes: dict[str, DeviceArray] = {}
        self.exponents: DeviceArray = None
        self.workspace: DeviceArray = None
        self.sums = empty(n_parameters, FLOAT64, "the sums of a block")
        self.squares: DeviceArray = empty(n_parameters, FLOAT64, "the squares of a block")
        self.totals = empty(3, FLOAT64, "the totals of a block")
        self.bad = empty(1, np.int64, "a flag")
        self.bad.fill(NO_BAD_ROW)

    @property
    def plane_stride(self) -> int:
        return self.capacity * self.pitch

    def plane(self, side: str, count: int) -> int:
        """The address of ``count`` planes of one operand; made when the first block needs them."""
        held = self.planes.get(side)
        if held is None or held.shape[0] < count:
            self.planes.pop(side, None)
            self.planes[side] = empty((count, self.capacity, self.pitch), np.uint16, "planes of a block")
        return address(self.planes[side])

    def outputs(self) -> dict[str, Any]:
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

    def __init__(self, products: Literal["tensor", "plain"] = "tensor") -> None:
        self.products = products

    def serves(self, rows: Rows, structure: str) -> bool:
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
        fields, kept = block_fields(block)
        module = kernels()
        module.row_pass(
            fields,
            outputs,
            workspace=panel.scratch(module.row_pass_workspace(n, panel.n_parameters)),
            stream=current_stream(),
        )
        # What was only made for this call may go: the pool gives its memory to later calls of the same stream only.
        del kept
        if scheme is not None:
            self._split(panel, scheme)

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
        # float64 would be rounded to the 24 bits of the planes.
        if A.dtype != FLOAT32 or self.products == "plain":
            return False
        outer_update(A, errors, row_weight, curvature, out)
        return True


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
