"""The CUDA module compiled for the emulator of tests/cuda_emulator: the same kernels and binding, run by the processor.

Addresses are those of NumPy arrays, streams mean nothing, and ``emulate_schedule(seed)`` chooses the order in which
threads and thread blocks run (0: in order).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def why_not() -> str | None:
    """The reason why the emulated module cannot be built here, or None."""
    if not (ROOT / "csrc" / "cuda").is_dir():
        return "no CUDA sources beside the tests"
    if compiler() is None:
        return "no C++ compiler"
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is not installed"
    return None


@functools.cache
def build(architecture: int) -> ModuleType:
    """Compile and import the module, once per process and emulated architecture (as ``__CUDA_ARCH__``)."""
    import pybind11

    folder = Path(tempfile.mkdtemp(prefix="gradhess-emulated-cuda-"))
    # fmt: off
    flags = [
        "-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
        "-ffp-contract=off", "-DGRADHESS_CUDA_EMULATOR", f"-DGRADHESS_EMULATED_ARCH={architecture}",
        '-DGRADHESS_CUDA_ARCHITECTURES="emulator"', f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}",
        f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}",
    ]
    # fmt: on
    sources = [
        *sorted((ROOT / "csrc" / "cuda").rglob("*.cu")),
        *sorted((ROOT / "csrc" / "bindings").glob("cuda_*.cpp")),
    ]

    def compile_one(source: Path) -> str:
        output = folder / f"{source.stem}.o"
        command = [compiler(), *flags, "-x", "c++", "-c", str(source), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return str(output)

    with ThreadPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else 2) as pool:
        objects = list(pool.map(compile_one, sources))
    module_file = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    link = [compiler(), "-shared", "-o", str(module_file), *objects]
    linked = subprocess.run(link, capture_output=True, text=True, check=False)
    assert linked.returncode == 0, linked.stderr
    spec = importlib.util.spec_from_file_location(f"emulated{architecture}._cuda", module_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.rmtree(folder)  # what is mapped stays
    return module


@pytest.fixture(scope="module", params=[900, 800], ids=["sm_90", "sm_80"])
def cuda(request):
    module = build(900)
    module.emulate_architecture(request.param)
    yield module
    module.emulate_schedule(0)
    module.emulate_architecture(900)


@pytest.fixture(scope="module")
def newest():
    return build(900)


class Guarded:
    """An array between guard bytes, aligned to ``alignment`` bytes plus ``offset``, filled with NaN bytes."""

    GUARD = 256

    def __init__(self, shape, dtype, *, alignment=256, offset=0):
        self.dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * self.dtype.itemsize
        self.memory = np.full(size + 2 * self.GUARD + alignment + offset, 0xA5, np.uint8)
        start = -(self.memory.ctypes.data + self.GUARD) % alignment + self.GUARD + offset
        self.inside = slice(start, start + size)
        self.memory[self.inside] = 0xFF
        self.array = self.memory[self.inside].view(self.dtype).reshape(shape)

    @property
    def address(self) -> int:
        return self.array.ctypes.data

    def intact(self) -> bool:
        outside = np.ones(self.memory.shape, bool)
        outside[self.inside] = False
        return bool((self.memory[outside] == 0xA5).all())
