"""What ``bench/gpu.py`` times: our kernels through their engine, and what they are compared with."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Job = Callable[[], Any]


@dataclass
class Bench:
    """A device with its libraries, and how long it may take."""

    cupy: Any
    torch: Any
    """None where there is no PyTorch with CUDA."""
    dry: bool
    seconds: float = 1.0
    """For one timing."""

    def milliseconds(self, job: Job, seconds: float | None = None) -> float:
        """Median of runs between two events, after one run that is not timed."""
        limit = 1e3 * (self.seconds if seconds is None else seconds)
        cuda = self.cupy.cuda
        start, end = cuda.Event(), cuda.Event()
        job()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < limit and len(times) < 50 and not self.dry):
            start.record()
            job()
            end.record()
            end.synchronize()
            times.append(cuda.get_elapsed_time(start, end))
        return max(statistics.median(times), 1e-6)

    def shape(self, n: int, d: int) -> tuple[int, int]:
        """As asked, or one that a stand-in does at once."""
        return (min(n, 300), min(d, 24)) if self.dry else (n, d)

    def normal(self, n: int, d: int, dtype: Any = np.float32, seed: int = 0) -> Any:
        if self.dry:
            return self.cupy.asarray(np.random.default_rng(seed).standard_normal((n, d)).astype(dtype))
        made = self.cupy.random.default_rng(seed)
        return made.standard_normal((n, d), dtype=dtype)

    def free(self) -> None:
        if not self.dry:
            self.cupy.get_default_memory_pool().free_all_blocks()
            if self.torch is not None:
                self.torch.cuda.empty_cache()

    def in_torch(self, array: Any) -> Any:
        return self.torch.from_dlpack(array)


# ---- ours -------------------------------------------------------------------------------------------------------


def rank_update(bench: Bench, engine: Any, rows: Any, p: int, blocks: int, accuracy: Any) -> Job:
    """The symmetric product of ``blocks`` blocks of rows that are prepared already."""
    from gradhess._backends.cupy.engine import NO_BAD_ROW, Block

    panel = engine.panel(rows.n_samples, p, rows.compute_dtype, accuracy=accuracy)
    panel.bad = bench.cupy.full(1, NO_BAD_ROW, np.int64)
    scatter = bench.cupy.zeros((p, p))
    engine.prepare(Block(rows), panel)

    def job() -> None:
        for _ in range(blocks):
            engine.rank_update(panel, scatter)

    return job


def row_pass(bench: Bench, engine: Any, rows: Any, p: int) -> tuple[Job, float]:
    """And the bytes of an entry that it reads and writes."""
    from gradhess._backends.cupy.engine import NO_BAD_ROW, Block

    panel = engine.panel(rows.n_samples, p, rows.compute_dtype, accuracy="float32")
    panel.bad = bench.cupy.full(1, NO_BAD_ROW, np.int64)
    block = Block(rows)
    engine.prepare(block, panel)
    written = float(getattr(panel, "bytes_per_entry", rows.compute_dtype.itemsize))
    return (lambda: engine.prepare(block, panel)), rows.X.itemsize + written


def whole_pass(backend: Any, rows: Any) -> Job:
    """Slopes, sums and product of a batch, as ``gram()`` does it."""
    from gradhess._backends.cupy.moments import moments

    state = moments(rows.n_parameters, "full", centred=False)
    return lambda: backend.add_call(rows, None, state)


# ---- what they are compared with --------------------------------------------------------------------------------


def syrk(bench: Bench, Y: Any) -> Job:
    """cuBLAS ``syrk`` on all rows at once: the lower triangle of ``Y^T Y``."""
    cublas, n, p = bench.cupy.cuda.cublas, int(Y.shape[0]), int(Y.shape[1])
    C = bench.cupy.zeros((p, p), Y.dtype)
    one, zero = np.ones(1, Y.dtype), np.zeros(1, Y.dtype)
    call = cublas.dsyrk if Y.dtype == np.float64 else cublas.ssyrk

    def job() -> None:
        handle = bench.cupy.cuda.device.get_cublas_handle()
        mode = cublas.getPointerMode(handle)
        cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_HOST)
        # By columns, Y is its own transpose: the upper triangle there is the lower one here.
        call(
            handle, cublas.CUBLAS_FILL_MODE_UPPER, cublas.CUBLAS_OP_N, p, n, one.ctypes.data, Y.data.ptr, p,
            zero.ctypes.data, C.data.ptr, p,
        )  # fmt: skip
        cublas.setPointerMode(handle, mode)

    return job


def panels(bench: Bench, Y: Any, count: int = 8) -> Job:
    """Eight column panels, each one GEMM from its first row down, on all rows at once."""
    cublas, n, p = bench.cupy.cuda.cublas, int(Y.shape[0]), int(Y.shape[1])
    C = bench.cupy.zeros((p, p), Y.dtype)
    one, zero = np.ones(1, Y.dtype), np.zeros(1, Y.dtype)
    call = cublas.dgemm if Y.dtype == np.float64 else cublas.sgemm
    width = -(-p // count)

    def job() -> None:
        handle = bench.cupy.cuda.device.get_cublas_handle()
        math = cublas.getMathMode(handle)
        cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)
        for first in range(0, p, width):
            last = min(first + width, p)
            at = first * Y.itemsize
            call(
                handle, cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T, last - first, p - first, n, one.ctypes.data,
                Y.data.ptr + at, p, Y.data.ptr + at, p, zero.ctypes.data, C.data.ptr + first * p * Y.itemsize + at, p,
            )  # fmt: skip
        cublas.setMathMode(handle, math)

    return job


def unfused(bench: Bench, X: Any, y: Any, w: Any) -> Job:
    """Residual, scaled rows, their sum and product in CuPy, one after the other."""
    narrow = w.astype(X.dtype)

    def job() -> Any:
        G = X * (X @ narrow - y.astype(X.dtype))[:, None]
        return G.T @ G, G.sum(axis=0)

    return job
