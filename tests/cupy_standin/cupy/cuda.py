"""Devices, streams and events of the stand-in.

Kernels run at once. Copies from the host into a device run late: when a stream that they were queued in is waited for.
So a compute stream that does not wait for the copy, or a host that fills a buffer again too early, gives wrong numbers.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cupy import _memory

counts = {"synchronize": 0, "to_host": 0, "to_device": 0, "launches": 0}
"""What tests look at: waits of the host, copies from and to the device, kernel launches."""
log: list[tuple[Any, ...]] = []
"""Launches: (kernel or routine, stream, ...)."""
refused: set[tuple[Any, ...]] = set()
"""(kernel, threads of a block, bytes of shared memory) that the device does not run; ``most_blocks`` of a grid, too."""
most_blocks = 2**31 - 1
launched: list[tuple[Any, ...]] = []
"""(kernel, threads, shared memory, blocks) of launches."""
n_devices = 2
_state = threading.local()
_addresses = itertools.count(0x1000, 0x10)


def reset() -> None:
    for name in counts:
        counts[name] = 0
    log.clear()


def _stack(name: str, first: Any) -> list[Any]:
    if not hasattr(_state, name):
        setattr(_state, name, [first])
    stack: list[Any] = getattr(_state, name)
    return stack


def synchronized() -> None:
    from cupyx import DeviceSynchronized, _allowed

    if not _allowed[-1]:
        raise DeviceSynchronized("the device was synchronized")
    counts["synchronize"] += 1


class Device:
    def __init__(self, device: int | Device | None = None) -> None:
        self.id = get_device_id() if device is None else int(getattr(device, "id", device))
        if not 0 <= self.id < n_devices:
            raise runtime.CUDARuntimeError(101)

    def __enter__(self) -> Device:
        _stack("devices", 0).append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        _stack("devices", 0).pop()

    def use(self) -> None:
        _stack("devices", 0)[-1] = self.id

    def synchronize(self) -> None:
        synchronized()
        for stream in _streams:
            stream._run()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return self.id

    def __int__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    @property
    def compute_capability(self) -> str:
        return "90"

    @property
    def mem_info(self) -> tuple[int, int]:
        return runtime.memGetInfo()


def get_device_id() -> int:
    return int(_stack("devices", 0)[-1])


_streams: list[Stream] = []


class Stream:
    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int = 0):
        self.ptr = 0 if null else next(_addresses)
        self.device_id = -1 if null else get_device_id()
        self._queue: list[Any] = []
        _streams.append(self)

    @staticmethod
    def from_external(stream: Any) -> Stream:
        version, ptr = stream.__cuda_stream__()
        assert version == 0
        for known in _streams:
            if known.ptr == ptr:
                return known
        new = Stream()
        new.ptr = ptr
        return new

    def _run(self) -> None:
        queue, self._queue = self._queue, []
        for copy in queue:
            copy()

    def __enter__(self) -> Stream:
        _stack("streams", Stream.null).append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _stack("streams", Stream.null).pop()

    def use(self) -> Stream:
        _stack("streams", Stream.null)[-1] = self
        return self

    def synchronize(self) -> None:
        synchronized()
        self._run()

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event.stream is not None and event.stream is not self:
            event._run()


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.stream: Stream | None = None
        self._copies: list[Any] = []
        self.time = 0.0

    def record(self, stream: Stream | None = None) -> None:
        import time

        self.stream = stream or get_current_stream()
        self._copies = list(self.stream._queue)
        self.time = time.perf_counter()

    def _run(self) -> None:
        assert self.stream is not None
        for copy in self._copies:
            if copy in self.stream._queue:
                self.stream._queue.remove(copy)
                copy()

    def synchronize(self) -> None:
        counts["synchronize"] += 1
        if self.stream is not None:
            self._run()

    @property
    def done(self) -> bool:
        return not self._copies


Stream.null = Stream(null=True)


def get_current_stream(device_id: int | None = None) -> Stream:
    current: Stream = _stack("streams", Stream.null)[-1]
    current._run()  # what was queued in the stream itself comes first
    return current


def get_elapsed_time(start: Event, end: Event) -> float:
    return 1e3 * (end.time - start.time)


def is_available() -> bool:
    return n_devices > 0


def _malloc(n_bytes: int) -> _memory.MemoryPointer:
    return _memory.MemoryPointer(_memory.Allocation(n_bytes, get_device_id()), 0)


def get_allocator() -> Any:
    return _stack("allocators", _malloc)[-1]


@contextmanager
def using_allocator(allocator: Any) -> Iterator[None]:
    _stack("allocators", _malloc).append(allocator)
    try:
        yield
    finally:
        _stack("allocators", _malloc).pop()


MemoryPointer, UnownedMemory = _memory.MemoryPointer, _memory.UnownedMemory


class MemoryPool:
    def free_all_blocks(self, stream: Any = None) -> None:
        return None


# ---- runtime and cuBLAS -----------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError {status}: of the stand-in")
        self.status = status


runtime = types.ModuleType("cupy.cuda.runtime")
runtime.CUDARuntimeError = CUDARuntimeError
runtime.free = 140 << 30
runtime.getDeviceCount = lambda: n_devices
runtime.getDevice = get_device_id
runtime.memGetInfo = lambda: (runtime.free, 141 << 30)
runtime.runtimeGetVersion = lambda: 13000
runtime.driverGetVersion = lambda: 13000
runtime.getDeviceProperties = lambda device: {
    "name": b"stand-in",
    "major": 9,
    "minor": 0,
    "multiProcessorCount": 132,
}
runtime.deviceCanAccessPeer = lambda device, peer: 0
runtime.deviceGetAttribute = lambda attribute, device: {5: most_blocks}[attribute]
runtime.status = 0
runtime.streamQuery = lambda stream: runtime.status


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA_ERROR {status}: of the stand-in")
        self.status = status


CUDADriverError.__module__ = "cupy_backends.cuda.api.driver"
kernels: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Kernels that were compiled, by address."""


def require_legal(kernel: Any, grid: tuple[int, ...], threads: int, shared_bytes: int) -> None:
    """What a launch is refused for."""
    if (kernel.identity, threads, shared_bytes) in refused or grid[0] > most_blocks:
        raise CUDADriverError(701)
    launched.append((kernel.identity, threads, shared_bytes, grid[0]))


def _occupancy(ptr: int, threads: int, shared_bytes: int) -> int:
    kernel = kernels[ptr]
    assert threads <= kernel.max_threads_per_block
    assert shared_bytes <= kernel.max_dynamic_shared_size_bytes
    return 0 if (kernel.identity, threads, shared_bytes) in refused else 1


driver = types.ModuleType("cupy_backends.cuda.api.driver")
driver.CUDADriverError = CUDADriverError
driver.occupancyMaxActiveBlocksPerMultiprocessor = _occupancy


class CompileException(Exception):
    pass


compiler = types.ModuleType("cupy.cuda.compiler")
compiler.CompileException = CompileException

memory = types.ModuleType("cupy.cuda.memory")
memory.OutOfMemoryError = _memory.OutOfMemoryError

cublas = types.ModuleType("cupy.cuda.cublas")
cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T = 0, 1
cublas.CUBLAS_FILL_MODE_LOWER, cublas.CUBLAS_FILL_MODE_UPPER = 0, 1
cublas.CUBLAS_DEFAULT_MATH, cublas.CUBLAS_TF32_TENSOR_OP_MATH = 0, 3
cublas.CUBLAS_POINTER_MODE_HOST, cublas.CUBLAS_POINTER_MODE_DEVICE = 0, 1
cublas.math_mode, cublas.pointer_mode = 0, 0
_HANDLE = 77


def _set_math_mode(handle: int, mode: int) -> None:
    assert handle == _HANDLE
    cublas.math_mode = mode


cublas.setMathMode = _set_math_mode
cublas.getMathMode = lambda handle: cublas.math_mode
cublas.setPointerMode = lambda handle, mode: setattr(cublas, "pointer_mode", mode)
cublas.getPointerMode = lambda handle: cublas.pointer_mode
cublas.getVersion = lambda handle: 130000


def _gemm(dtype: type) -> Any:
    def gemm(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        """Column-major, as cuBLAS: C (m, n) = alpha op(A) op(B) + beta C."""
        assert handle == _HANDLE
        # A column-major (r, c) matrix of leading dimension ld is the transpose of a row-major (c, r) one.
        a = _memory.view(A, *((k, m) if transa == 0 else (m, k)), lda, dtype)
        b = _memory.view(B, *((n, k) if transb == 0 else (k, n)), ldb, dtype)
        c = _memory.view(C, n, m, ldc, dtype)
        scale, keep = (_scalar(pointer, dtype) for pointer in (alpha, beta))
        left, right = (a.T if transa == 0 else a), (b.T if transb == 0 else b)
        product = scale * (left @ right).T
        c[...] = product if keep == 0 else product + keep * c
        counts["launches"] += 1
        log.append((f"gemm-{np.dtype(dtype).char}", get_current_stream().ptr, m, n, k, cublas.math_mode))

    return gemm


def _syrk(dtype: type) -> Any:
    def syrk(handle, uplo, trans, n, k, alpha, A, lda, beta, C, ldc):
        """Column-major: the triangle ``uplo`` of C (n, n) = alpha op(A) op(A)^T + beta C."""
        assert handle == _HANDLE
        a = _memory.view(A, *((k, n) if trans == 0 else (n, k)), lda, dtype)
        c = _memory.view(C, n, n, ldc, dtype)
        scale, keep = (_scalar(pointer, dtype) for pointer in (alpha, beta))
        left = a.T if trans == 0 else a
        product = scale * (left @ left.T)
        # The lower triangle of the column-major matrix is the upper one of the row-major view.
        rows, columns = np.triu_indices(n) if uplo == 0 else np.tril_indices(n)
        old = c[rows, columns] if keep != 0 else 0
        c[rows, columns] = product[rows, columns] + keep * old
        counts["launches"] += 1
        log.append((f"syrk-{np.dtype(dtype).char}", get_current_stream().ptr, n, k, cublas.math_mode))

    return syrk


def _scalar(pointer: int, dtype: type) -> float:
    assert cublas.pointer_mode == 0
    kind = ctypes.c_double if dtype is np.float64 else ctypes.c_float
    return kind.from_address(pointer).value


cublas.sgemm, cublas.dgemm = _gemm(np.float32), _gemm(np.float64)
cublas.ssyrk, cublas.dsyrk = _syrk(np.float32), _syrk(np.float64)

device = types.ModuleType("cupy.cuda.device")
device.get_cublas_handle = lambda: _HANDLE
get_cublas_handle = device.get_cublas_handle

for _module in (runtime, memory, cublas, device, compiler):
    sys.modules[_module.__name__] = _module
