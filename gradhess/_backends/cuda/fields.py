"""What the compiled module is given: addresses, and the struct Block of csrc/cuda/block.hpp as a dictionary."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any, Final, NamedTuple, cast

from gradhess._backends.cuda.custom import Launch, launcher
from gradhess._backends.cupy.engine import Block, DeviceArray
from gradhess._backends.cupy.launch import cupy, rehearsing
from gradhess._backends.cupy.slopes import plain, slopes
from gradhess._backends.protocol import FLOAT32, Rows

ROW_PASS_LOSSES: Final = ("squared", "logistic", "poisson", "huber")


class BlockArguments(NamedTuple):
    """What a kernel of the module takes of a block."""

    fields: dict[str, Any]
    """The struct Block of csrc/cuda/block.hpp."""
    launch: Launch | None
    """Compiles and launches the kernel of rows, for a custom loss."""
    kept: list[DeviceArray]
    """Arrays that must live until the kernel is queued."""


def kernels() -> Any:
    """The compiled module; in a rehearsal what stands in for it."""
    module = importlib.import_module("gradhess._cuda")
    return _Rehearsed(module) if rehearsing() else module


class _Rehearsed:
    """The module whose launches are validated and not queued: ``Stream::validate_only`` of csrc/cuda/stream.hpp."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)
        return function if name.endswith("_workspace") else partial(function, validate=True)


def kernel_dtype(rows: Rows) -> str | None:
    """The name that the kernels have for the dtype of X, or None."""
    if getattr(rows, "bfloat16", False):
        return "bfloat16"
    name = str(rows.X.dtype)
    return name if name in ("float64", "float32", "float16") else None


def evaluated_in_kernels(rows: Rows) -> tuple[bool, Launch | None]:
    """Whether the kernels of rows evaluate the loss, and what compiles them where it is a custom one."""
    if rows.kind == "dense" or rows.loss is None:
        return False, None
    if rows.loss.name in ROW_PASS_LOSSES:
        return True, None
    launch = launcher(rows) if rows.loss.name == "custom" else None
    return launch is not None, launch


def block_arguments(block: Block) -> BlockArguments:
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
    inside, launch = evaluated_in_kernels(rows)
    if inside:
        loss = rows.loss
        assert loss is not None
        fields |= {
            "loss": loss.name,
            "parameter": float(loss.parameter),
            "y": address(rows.y),
            "y_is_float": rows.y is not None and rows.y.dtype == FLOAT32,
            "coef": address(rows.coef),
            "intercept": address(rows.intercept),
            "loss_weight": address(rows.loss_weight),
        }
    elif rows.kind != "dense":
        slope, value = slopes(rows, plain(rows))
        kept += [slope, value]
        fields |= {"slopes": address(slope), "values": address(value)}
    elif block.values is not None:
        fields["values"] = address(block.values)
    return BlockArguments(fields, launch, kept)


class Factor(NamedTuple):
    """One side of a product of two matrices, as the module takes it."""

    arguments: tuple[int, int, bool]
    """Address, pitch in elements, and whether its terms lie that far apart, or side by side."""
    kept: DeviceArray
    """What must live until the kernel is queued."""


def factor(array: DeviceArray) -> Factor:
    """Of (terms, entries) float64: as it lies, where neighbours of a row, or of a column, are neighbours in memory."""
    item = array.itemsize
    of_terms, of_entries = array.strides
    terms, entries = array.shape
    if terms <= 1 or of_terms == item:
        pitch, apart = of_entries if entries > 1 else item * terms, False
    else:
        apart = True
        if entries > 1 and of_entries != item:
            array = cupy().ascontiguousarray(array)
            of_terms = array.strides[0]
        pitch = of_terms
    return Factor((address(array), pitch // item, apart), array)


def address(array: DeviceArray | None) -> int:
    return 0 if array is None else int(array.data.ptr)


def current_stream() -> int:
    return cast(int, cupy().cuda.get_current_stream().ptr)
