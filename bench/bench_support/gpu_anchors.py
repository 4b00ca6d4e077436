"""Symmetric products of others, which ``bench/gpu.py`` times beside ours: cuBLAS by PyTorch, Triton, QuACK, CUTLASS.

One that is not there, or fails, or computes something else says so, and stops nothing. Triton's comes with PyTorch, but
its symmetric product does not: the kernel below is written for this comparison, in the way of Triton's own tutorial on
matrix products, one program for each tile on or below the diagonal. CUTLASS's ``RankK`` is C++, built here
(``gpu_cutlass``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from bench_support.gpu_cutlass import rank_k
from bench_support.gpu_jobs import Bench

Anchor = dict[str, Any]

# Rows of Y at a time, warps and stages that are tried for tiles of 128 x 128.
TRITON_CHOICES = ((64, 8, 3), (64, 8, 4), (128, 8, 2), (32, 4, 4))
TILE = 128


def anchors(bench: Bench) -> list[Anchor]:
    """Milliseconds and TFLOP/s (n p (p + 1) operations) of bfloat16 rows (2^18, 4096)."""
    n, p = bench.shape(1 << 18, 4096)
    names: dict[str, Callable[[Bench, Any], Callable[[], Any]]] = {
        "torch, full product": _torch,
        "Triton, lower triangle": _triton,
        "QuACK gemm_symmetric": _quack,
        "CUTLASS RankK (sm_80)": _cutlass,
    }
    if bench.torch is None:
        return [_absent(name, "no PyTorch with CUDA") for name in names]
    Y = bench.in_torch(bench.normal(n, p)).to(bench.torch.bfloat16)
    found = [_measured(bench, name, make, Y) for name, make in names.items()]
    del Y
    bench.free()
    return found


def _absent(name: str, reason: str) -> Anchor:
    return {"anchor": name, "ms": None, "TFLOP/s": None, "note": reason}


def _measured(bench: Bench, name: str, make: Callable[[Bench, Any], Callable[[], Any]], Y: Any) -> Anchor:
    n, p = Y.shape
    try:
        job = make(bench, Y)
        wrong = _error(bench, job(), Y)
        if wrong > 0.02:
            return _absent(name, f"its result is wrong by {wrong:.2g} of a diagonal entry")
        took = bench.milliseconds(job)
    except Exception as error:  # of libraries that may not be there, or not be what they were
        return _absent(name, f"{type(error).__name__}: {error}".splitlines()[0][:200])
    return {"anchor": name, "ms": took, "TFLOP/s": 1e-9 * n * p * (p + 1) / took, "note": ""}


def _error(bench: Bench, C: Any, Y: Any) -> float:
    """Of the lower triangle of the first columns, relative to the diagonal."""
    some = min(int(Y.shape[1]), 256)
    part = Y[:, :some].float()
    expected = part.T @ part
    size = expected.diagonal().sqrt()
    return float(((C[:some, :some].float() - expected).tril().abs() / (size[:, None] * size[None, :])).max())


def _torch(bench: Bench, Y: Any) -> Callable[[], Any]:
    return lambda: Y.T @ Y


def _quack(bench: Bench, Y: Any) -> Callable[[], Any]:
    symmetric = importlib.import_module("quack.gemm_interface").gemm_symmetric
    return lambda: symmetric(Y.T, Y)


def _triton(bench: Bench, Y: Any) -> Callable[[], Any]:
    """The fastest of a few choices of how many rows a program reads at a time."""
    kernel = importlib.import_module("bench_support.gpu_triton").lower_triangle
    n, p = Y.shape
    side = -(-p // TILE)
    C = bench.torch.zeros((p, p), dtype=bench.torch.float32, device=Y.device)

    def job_of(rows: int, warps: int, stages: int) -> Callable[[], Any]:
        def job() -> Any:
            kernel[(side * (side + 1) // 2,)](
                Y, C, n, p, Y.stride(0), C.stride(0), TILE=TILE, ROWS=rows, num_warps=warps, num_stages=stages
            )
            return C

        return job

    return _fastest(bench, [job_of(*choice) for choice in TRITON_CHOICES])


def _cutlass(bench: Bench, Y: Any) -> Callable[[], Any]:
    return _fastest(bench, rank_k(bench.torch, Y))


def _fastest(bench: Bench, jobs: list[Callable[[], Any]]) -> Callable[[], Any]:
    times = []
    for job in jobs:
        try:
            times.append(bench.milliseconds(job, seconds=0.2))
        except Exception:  # a choice that the device has no shared memory for
            times.append(float("inf"))
    return jobs[times.index(min(times))]
