"""The tensor-core kernels on the processor: builds the emulated module, and calls it on NumPy arrays."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests" / "cuda_emulator" / "tensor_module.cpp"
GUARD = 0xA5


def _sources() -> list[Path]:
    folders = [ROOT / "csrc" / "cuda", ROOT / "csrc" / "bindings", ROOT / "tests" / "cuda_emulator"]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


@functools.cache
def load() -> Any:
    """The module, compiled once for each state of the sources."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    pybind11 = pytest.importorskip("pybind11")
    if compiler is None:
        pytest.skip("no C++ compiler")
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"gradhess-emulated-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    target = folder / f"_emulated_tensor_{digest.hexdigest()[:16]}.so"
    if not target.exists():
        part = target.with_suffix(f".{os.getpid()}")
        # fmt: off
        command = [
            compiler, "-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
            "-Wno-unknown-pragmas", "-DGRADHESS_CUDA_EMULATOR", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}",
            f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}", "-o", str(part), str(SOURCE),
        ]
        # fmt: on
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        part.replace(target)
    spec = importlib.util.spec_from_file_location("_emulated_tensor", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def require(status: tuple[int, str, str, int]) -> None:
    assert status[0] == 0, status


class Guarded:
    """An array with guard bytes on both sides, aligned to `align` bytes."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, *, align: int = 16, fill: int = 0xFF) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.buffer = np.full(size + 2 * 256 + align, GUARD, np.uint8)
        start = 256 + -(self.buffer.ctypes.data + 256) % align
        self.inside = slice(start, start + size)
        self.buffer[self.inside] = fill  # NaN in every floating type, unless told
        self.array = self.buffer[self.inside].view(dtype).reshape(shape)

    @property
    def address(self) -> int:
        return self.array.ctypes.data

    def check(self) -> None:
        assert (self.buffer[: self.inside.start] == GUARD).all()
        assert (self.buffer[self.inside.stop :] == GUARD).all()


class Planes:
    """Planes of float32 or float64 rows, written by the split kernel."""

    def __init__(self, y, count, half, *, exponents=None, factors=None, extra_pitch=0, seed=0) -> None:
        module = load()
        rows, columns = y.shape
        self.pitch = -(-columns // 8) * 8 + extra_pitch
        self.count = count
        self.stride = rows * self.pitch
        self.memory = Guarded((count, rows, self.pitch), np.uint16)
        self.exponents = None if exponents is None else np.ascontiguousarray(exponents, np.int32)
        self.overflow = np.zeros(1, np.int32)
        module.seed(seed)
        require(
            module.tensor_split_rows(
                data=y.ctypes.data,
                dtype=y.dtype.name,
                rows=rows,
                columns=columns,
                row_stride=y.strides[0] // y.itemsize,
                factors=0 if factors is None else factors.ctypes.data,
                planes=self.memory.address,
                count=count,
                half=half,
                pitch=self.pitch,
                plane_stride=self.stride,
                exponents=self._exponents,
                overflow=self.overflow.ctypes.data,
                stream=0,
            )
        )
        self.memory.check()
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
):
    """Lower triangle of C after the update, in chunks of rows that begin at the numbers in `chunks`."""
    module = load()
    size = blocks * columns
    pitch = size + 3
    target = Guarded((size, pitch), np.float64)
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
        module.seed(seed)
        require(
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
                gram_pitch=pitch,
                workspace=memory.address if workspace and bytes_needed else 0,
                stream=0,
                kernel=kernel,
                grid=grid,
            )
        )
        memory.check()
    target.check()
    assert np.array_equal(target.array[:, size:], margin, equal_nan=True)
    return target.array[:, :size].copy()


def mirror(gram, columns, blocks=1):
    full = np.array(gram, order="C")
    module = load()
    module.seed(0)
    require(
        module.tensor_mirror(
            gram=full.ctypes.data, gram_pitch=full.shape[1], columns=columns, blocks=blocks, stream=0
        )
    )
    return full
