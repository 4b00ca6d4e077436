"""A block in the form that the compiled kernels multiply: rows, or 16-bit planes of them, and by which scheme.

==================  =======================================================  ===================================
scheme              rows                                                     accuracy
==================  =======================================================  ===================================
``bf16``, ``fp16``  that are 16-bit numbers already: dense, not shifted      exact products
``bf16_left3``      the same, bfloat16, with weights                         weights times rows in 24 bits
``fp16x3``          float32, where ``accuracy="fp16x3"`` asks for no more    about 1e-6 of a diagonal entry
``bf16x6``          all others                                               that of sums in float32
==================  =======================================================  ===================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gradhess._backends.cuda.fields import address, kernel_dtype
from gradhess._backends.cupy.engine import NO_BAD_ROW, Accuracy, Block, DeviceArray
from gradhess._backends.cupy.launch import empty
from gradhess._backends.protocol import FLOAT64

PITCH: Final = 8
"""Rows of a panel are a multiple of this many entries long: 16 bytes of 16-bit planes."""


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
    if block.rows.kind != "gradient" and block.shift is None and not block.widened:
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

    @property
    def bytes_per_entry(self) -> int:
        """That the row pass writes: rows, planes, or both."""
        if self.scheme is None or self.scheme.scaled:
            return self.dtype.itemsize
        return 2 * self.scheme.right + (self.dtype.itemsize if self.weighted else 0)

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
