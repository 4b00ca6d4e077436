"""Products of two float64 matrices in ``bench/gpu.py``: with a vector against a copy, of two large ones against cuBLAS.

What they must reach is an estimate of the kernel's author, as no table of the acceptance names them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench_support.gpu_jobs import Bench

Timed = tuple[str, float, float, float, str]
"""Name, ratio, must, aim, note."""


def of_vectors(bench: Bench, engine: Any, copy: float) -> list[Timed]:
    """Bytes of the rows over time, over the bandwidth ``copy`` in GB/s."""
    n, p = bench.shape(1 << 20, 1024)
    G = bench.normal(n, p, np.float64)
    v, u = bench.normal(p, 1, np.float64, 1), bench.normal(n, 1, np.float64, 2)
    image, back = bench.cupy.zeros((n, 1)), bench.cupy.zeros((p, 1))
    found = []
    jobs: dict[str, Callable[[], None]] = {
        "G v, one vector": lambda: engine.product(G, v, image),
        "G^T u, one vector": lambda: engine.product(G.T, u, back),
    }
    for name, job in jobs.items():
        speed = 8e-6 * n * p / bench.milliseconds(job)
        found.append(
            (f"{name} (2^20, 1024): bytes/time over copy", speed / copy, 0.5, 0.8, f"{speed:.0f} GB/s")
        )
    return found


def of_matrices(bench: Bench, engine: Any) -> list[Timed]:
    """The time of cuBLAS over ours."""
    found = []
    for name, size, must in (
        ("pairs of 10 outputs by pairs of 100 inputs, 6144 rows", (6144, 55, 5050), 0.5),
        ("(4096, 4096) by (4096, 4096)", (4096, 4096, 4096), 0.7),
    ):
        terms, rows, columns = (60, 6, 10) if bench.dry else size
        left, right = bench.normal(terms, rows, np.float64), bench.normal(terms, columns, np.float64, 1)
        out = bench.cupy.zeros((rows, columns))
        ours = bench.milliseconds(lambda A=left, B=right, C=out: engine.product(A.T, B, C))
        cublas = bench.milliseconds(lambda A=left, B=right: A.T @ B)
        speed = 2e-9 * terms * rows * columns / ours
        found.append((f"{name} / cuBLAS", cublas / ours, must, 0.9, f"{speed:.1f} TFLOP/s"))
        left = right = out = None
        bench.free()
    return found


def bits_that_differ(bench: Bench) -> int:
    """Results of products with vectors, over runs and streams, whose bits are not those of the first."""
    import gradhess as gh

    n, d = bench.shape((1 << 17) + 17, 1000)
    X, v, u = bench.normal(n, d), bench.normal(d, 3, np.float64, 1), bench.normal(n, 3, np.float64, 2)
    stream, results = bench.cupy.cuda.Stream, []
    for _ in range(2):
        current = stream(non_blocking=True)
        current.wait_event(bench.cupy.cuda.get_current_stream().record())
        with current:
            g = gh.as_gradients(X)
            for _ in range(1 if bench.dry else 3):
                made = g.matvec(v), g.rmatvec(u), g.gram_matvec(v), g.norms()
                results.append([array.get().tobytes() for array in made])
    return sum(result != results[0] for result in results)
