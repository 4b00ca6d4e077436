"""Compiling and launching the kernels of ``kernels.cu``, and turning errors of the device into typed ones."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np

from gradhess._backends.protocol import AnyArray
from gradhess.errors import BackendError, DeviceError, DeviceMemoryError, GradhessError

THREADS: Final = 256
SEGMENT: Final = 64
"""Rows that one thread sums; segments are folded in order."""
NULL: Final = np.uint64(0)

_TYPES: Final = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
_OPTIONS: Final = ("--std=c++17", "--fmad=false")
"""No contraction: a row is rounded once as a product and once as a difference, wherever it is computed."""


_REHEARSING: Final[ContextVar[bool]] = ContextVar("gradhess_gpu_rehearsal", default=False)


@contextmanager
def rehearsal() -> Iterator[None]:
    """Within it nothing is launched; memory is asked for, and kernels are compiled, as in earnest."""
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
        function = _function(name, np.dtype(dtype), extra)
        if not rehearsing():
            function((grid,), block, values)


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
    except MemoryError as error:
        asked = "" if n_bytes is None else f"; {what} needs {n_bytes:,} bytes"
        raise DeviceMemoryError(f"the GPU is out of memory in {what}: {error}{asked}") from error
    except Exception as error:
        if type(error).__module__.startswith(("cupy", "cupy_backends")):
            raise DeviceError(f"{what} failed on the GPU: {type(error).__name__}: {error}") from error
        raise


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
