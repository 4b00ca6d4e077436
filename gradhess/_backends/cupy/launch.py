"""Compiling and launching the kernels of ``kernels.cu``, and turning errors of the device into typed ones."""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from gradhess._backends.protocol import AnyArray
from gradhess.errors import BackendError, DeviceError, DeviceMemoryError, GradhessError

THREADS: Final = 256
SEGMENT: Final = 64
"""Rows that one thread sums; segments are folded in order."""
NULL: Final = np.uint64(0)
STATIC_SHARED: Final = 48 << 10
"""Bytes of shared memory that a kernel has without asking for more."""
NOT_READY: Final = 600
"""cudaErrorNotReady: work is queued, and nothing is wrong."""
MAX_GRID_DIM_X: Final = 5
"""cudaDevAttrMaxGridDimX."""
_OUT_OF_MEMORY: Final = {"CUDARuntimeError": 2, "CUDADriverError": 2, "CUBLASError": 3}
"""What is out of memory among errors that CuPy raises under other names, by their ``status``."""

_TYPES: Final = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
_OPTIONS: Final = ("--std=c++17", "--fmad=false")
"""No contraction: a row is rounded once as a product and once as a difference, wherever it is computed."""


_REHEARSING: Final[ContextVar[bool]] = ContextVar("gradhess_gpu_rehearsal", default=False)


@contextmanager
def rehearsal() -> Iterator[None]:
    """Within it nothing is launched: memory is asked for as in earnest, and launches are validated.

    Kernels are compiled and loaded, grids, blocks, registers and shared memory are held against what the device has,
    and handles are made: what is refused is refused here. Work of others that failed on the device raises first.
    """
    require_working_device()
    token = _REHEARSING.set(True)
    try:
        yield
    finally:
        _REHEARSING.reset(token)


def rehearsing() -> bool:
    return _REHEARSING.get()


@cache
def cupy() -> Any:
    """The module CuPy; BackendError with what to do where it is not installed or does not load."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise BackendError(
            f"CuPy does not load ({error}); pip install 'gradhess[cuda13]', or 'gradhess[cuda12]' for CUDA 12"
        ) from error


@cache
def _module(dtype: np.dtype[Any], extra: str) -> Any:
    source = resources.files("gradhess._backends.cupy").joinpath("kernels.cu").read_text("utf-8")
    return raw_module(f"#define T {_TYPES[dtype]}\n{source}{extra}")


def raw_module(source: str) -> Any:
    """CUDA source, compiled by NVRTC on first use, once for each device; CuPy keeps what it compiled in files."""
    return cupy().RawModule(code=source, options=_OPTIONS, backend="nvrtc")


@cache
def _function(name: str, dtype: np.dtype[Any], extra: str) -> Any:
    return _module(dtype, extra).get_function(name)


def launch(
    name: str,
    dtype: Any,
    grid: int,
    block: tuple[int, ...],
    *args: Any,
    extra: str = "",
) -> None:
    """Queue a kernel in the current stream. None is a null pointer; numbers become the kernel's 64-bit types."""
    if grid < 1:
        return
    values = tuple(_argument(value) for value in args)
    with device_errors(name):
        queue(_function(name, np.dtype(dtype), extra), (grid,), block, values)


def queue(
    kernel: Any, grid: tuple[int], block: tuple[int, ...], values: tuple[Any, ...], shared_bytes: int = 0
) -> None:
    """The one place where kernels that NVRTC compiles are launched; in a rehearsal it finds what would be refused."""
    if shared_bytes > STATIC_SHARED:
        kernel.max_dynamic_shared_size_bytes = shared_bytes
    if rehearsing():
        _validate(kernel, grid, block, shared_bytes)
    else:
        kernel(grid, block, values, shared_mem=shared_bytes)


def _validate(kernel: Any, grid: tuple[int], block: tuple[int, ...], shared_bytes: int) -> None:
    """All that the current device refuses a launch for: see csrc/cuda/device/launch.cuh, which does so for the compiled
    kernels."""
    cuda, threads = cupy().cuda, math.prod(block)
    most_threads = kernel.max_threads_per_block  # compiled, and loaded on this device
    most_blocks = cuda.runtime.deviceGetAttribute(MAX_GRID_DIM_X, cuda.get_device_id())
    if grid[0] > most_blocks or threads > most_threads:
        raise DeviceError(
            f"a launch of {grid[0]} blocks of {threads} threads, where this device runs {most_blocks} of "
            f"{most_threads} at most, at {_place()}"
        )
    resident = cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, threads, shared_bytes)
    if resident < 1:
        raise DeviceError(
            f"a block of {threads} threads and {shared_bytes} bytes of shared memory does not fit on a multiprocessor "
            f"of this device, at {_place()}"
        )


def require_working_device() -> None:
    """DeviceError if work that was queued before, of anybody's, has failed on the device; without waiting for it.

    Such an error stays with the process, and would otherwise be met by the next launch.
    """
    runtime, stream = cupy().cuda.runtime, cupy().cuda.get_current_stream()
    status = runtime.streamQuery(stream.ptr)
    if status not in (0, NOT_READY):
        raise DeviceError(
            f"work that was queued earlier failed on the GPU (CUDA error {status}), and all later work of this process "
            f"on it fails; nothing was added; found at {_place()}"
        )


def flat(name: str, dtype: Any, count: int, *args: Any, extra: str = "") -> None:
    """One thread for each of ``count`` results."""
    launch(name, dtype, -(-count // THREADS), (THREADS,), *args, extra=extra)


def table(name: str, dtype: Any, rows: int, columns: int, *args: Any) -> None:
    """One thread for each entry of a (rows, columns) table; the kernel's last argument is the blocks of a row."""
    threads = min(THREADS, max(32, 1 << (columns - 1).bit_length()))
    blocks = -(-columns // threads)
    launch(name, dtype, rows * blocks, (threads,), *args, blocks)


def _argument(value: Any) -> Any:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return np.int32(value)
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value


@contextmanager
def device_errors(what: str, n_bytes: int | None = None) -> Iterator[None]:
    """Errors of CuPy, of the driver and of cuBLAS as DeviceError, out of memory as DeviceMemoryError."""
    try:
        yield
    except GradhessError:
        raise
    except Exception as error:
        kind = type(error)
        of_cupy = kind.__module__.startswith(("cupy", "cupy_backends"))
        full = of_cupy and getattr(error, "status", None) == _OUT_OF_MEMORY.get(kind.__name__, -1)
        if full or isinstance(error, MemoryError):
            asked = "" if n_bytes is None else f"; {what} needs {n_bytes:,} bytes"
            raise DeviceMemoryError(
                f"the GPU is out of memory in {what}: {error}{asked}; at {_place(error)}"
            ) from error
        if of_cupy:
            raise DeviceError(
                f"{what} failed on the GPU: {kind.__name__}: {error}; at {_place(error)}"
            ) from error
        raise


def _place(error: BaseException | None = None) -> str:
    """File and line of gradhess, but for this file, that asked for what failed."""
    package = Path(__file__).parents[2]
    below = [] if error is None else list(traceback.walk_tb(error.__traceback__))[::-1]
    for frame, line in (*below, *traceback.walk_stack(None)):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(package) and file != Path(__file__):
            return f"{file.relative_to(package.parent)}:{line}"
    return "an unknown place"


def to_host(array: Any) -> AnyArray:
    """A copy on the host; waits for the device."""
    with device_errors("a copy to the host"):
        copied: AnyArray = array.get()
    return copied


def set_from_host(array: Any, values: Any) -> None:
    """Overwrite an array of the device by one of the host, of the same shape and dtype."""
    with device_errors("a copy to the device"):
        array.set(np.ascontiguousarray(values))


def empty(shape: Any, dtype: Any, what: str) -> Any:
    """Memory of the current device, from CuPy's pool."""
    count = int(np.prod(shape)) if isinstance(shape, tuple) else int(shape)
    with device_errors(what, count * np.dtype(dtype).itemsize):
        return cupy().empty(shape, dtype)


def zeros(shape: Any, dtype: Any, what: str) -> Any:
    made = empty(shape, dtype, what)
    made.fill(0)
    return made
