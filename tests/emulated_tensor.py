"""The tensor-core kernels, run by the emulator on NumPy arrays, between guard bytes."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from emulated_cuda import ROOT, Guarded, build, compiler


def load() -> Any:
    return build(900)


@functools.cache
def load_maps() -> Any:
    """The maps of csrc/cuda/tensor as functions of a Python module."""
    import pybind11

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "_tensor_maps.so"
        # fmt: off
        command = [
            compiler(), "-std=c++20", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
            "-Wno-unknown-pragmas", "-DGRADHESS_CUDA_EMULATOR", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}",
            f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}", "-o", str(target),
            str(ROOT / "tests" / "cuda_emulator" / "tensor_maps.cpp"),
        ]
        # fmt: on
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        spec = importlib.util.spec_from_file_location("_tensor_maps", target)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


class Planes:
    """Planes of float32 or float64 rows, written by the split kernel."""

    def __init__(
        self, y, count, half, *, exponents=None, factors=None, blocks=1, block_pitch=0, extra_pitch=0, seed=0
    ) -> None:
        module = load()
        rows, columns = y.shape
        self.pitch = -(-((blocks - 1) * block_pitch + columns) // 8) * 8 + extra_pitch
        self.count = count
        self.stride = rows * self.pitch
        self.memory = Guarded((count, rows, self.pitch), np.uint16)
        self.exponents = None if exponents is None else np.ascontiguousarray(exponents, np.int32)
        self.overflow = np.zeros(1, np.int32)
        module.emulate_schedule(seed)
        module.tensor_split_rows(
            data=y.ctypes.data,
            dtype=y.dtype.name,
            rows=rows,
            columns=columns,
            row_stride=y.strides[0] // y.itemsize,
            factors=0 if factors is None else factors.ctypes.data,
            factor_stride=blocks,
            blocks=blocks,
            block_pitch=block_pitch,
            planes=self.memory.address,
            count=count,
            half=half,
            pitch=self.pitch,
            plane_stride=self.stride,
            exponents=self._exponents,
            overflow=self.overflow.ctypes.data,
            stream=0,
        )
        assert self.memory.intact()
        self.half = half

    @property
    def _exponents(self) -> int:
        return 0 if self.exponents is None else self.exponents.ctypes.data

    def values(self) -> Any:
        bits = self.memory.array
        if self.half:
            return bits.view(np.float16).astype(np.float64)
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    def operand(self, first_row: int = 0) -> tuple[int, int, int, int]:
        return (self.memory.address + 2 * first_row * self.pitch, self.pitch, self.stride, self._exponents)


def update(
    scheme,
    left,
    right,
    *,
    rows,
    columns,
    gram=None,
    chunks=None,
    blocks=1,
    block_pitch=0,
    workspace=True,
    kernel="mma",
    grid=0,
    seed=0,
    first_row=0,
    dtype=np.float64,
):
    """Lower triangle of C after the update, in chunks of rows that begin at the numbers in `chunks`."""
    module = load()
    size = blocks * columns
    pitch = size + 3
    target = Guarded((size, pitch), dtype)
    target.array[:] = 0 if gram is None else np.nan
    if gram is not None:
        target.array[:, :size] = gram
    margin = target.array[:, size:].copy()
    starts = [*(chunks or [0]), rows]
    for start, end in itertools.pairwise(starts):
        bytes_needed = module.tensor_update_workspace(
            first_row=first_row + start, rows=end - start, columns=columns, blocks=blocks
        )
        memory = Guarded((max(bytes_needed, 4) // 4,), np.float32)
        module.emulate_schedule(seed)
        module.tensor_update(
            scheme=scheme,
            left=left.operand(start),
            right=right.operand(start),
            rows=end - start,
            first_row=first_row + start,
            columns=columns,
            blocks=blocks,
            block_pitch=block_pitch,
            gram=target.address,
            gram_is_float=np.dtype(dtype) == np.float32,
            gram_pitch=pitch,
            workspace=memory.address if workspace and bytes_needed else 0,
            stream=0,
            kernel=kernel,
            grid=grid,
        )
        assert memory.intact()
    assert target.intact()
    assert np.array_equal(target.array[:, size:], margin, equal_nan=True)
    return target.array[:, :size].copy()


def mirror(gram, columns, blocks=1):
    full = np.array(gram, order="C")
    module = load()
    module.emulate_schedule(0)
    module.tensor_mirror(
        gram=full.ctypes.data,
        gram_is_float=full.dtype == np.float32,
        gram_pitch=full.shape[1],
        columns=columns,
        blocks=blocks,
        stream=0,
    )
    return full
