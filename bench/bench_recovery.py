"""``recover_hessian`` from end to end, beside a NumPy loop over the batches: 20,000 gradients of 100 rows, drawn with
replacement from 100,000 rows of 64 features. Drawing rows and noise is timed on both sides.

    python bench/bench_recovery.py      interleaved rounds of every method; ratios are medians

The loop does what the method does: for antithetic it draws 10,000 batches and takes each gradient twice.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from bench_support import machine
from bench_support.problems import QUICK, Array
from bench_support.timing import PAUSE_SECONDS

N, M, BATCH, D = (2_000, 300, 20, 16) if QUICK else (100_000, 20_000, 100, 64)
ROUNDS = 2 if QUICK else 5


def numpy_loop(X: Array, y: Array, coef: Array, method: str) -> Array:
    rng = np.random.default_rng(0)
    r = X @ coef - y
    rows = np.empty((M if method == "calibrated" else M // 2, D))
    for j in range(len(rows)):
        batch, noise = rng.integers(0, N, BATCH), rng.standard_normal(BATCH) * np.sqrt(BATCH)
        if method == "calibrated":
            rows[j] = (r[batch] - noise) @ X[batch] / BATCH
        else:
            drawn = X[batch]
            rows[j] = ((r[batch] - noise) @ drawn - (r[batch] + noise) @ drawn) / (2 * BATCH)
    return np.cov(rows, rowvar=False) if method == "calibrated" else rows.T @ rows / len(rows)


def recovered(X: Array, y: Array, coef: Array, method: str) -> Array:
    from gradhess import recovery

    oracle = recovery.LinearRegressionOracle(X, y, coef, batch_size=BATCH, rng=0)
    return recovery.recover_hessian(oracle, M, method, rng=0).hessian


def main() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D))
    coef = rng.standard_normal(D) / np.sqrt(D)
    y = X @ coef + rng.standard_normal(N)
    print(f"{M:,} gradients of {BATCH} of {N:,} rows, d = {D}, {machine.threads()} threads")
    for method in ("antithetic", "calibrated"):
        times: dict[str, list[float]] = {"numpy-loop": [], "recover_hessian": []}
        for _ in range(ROUNDS):
            for name, job in (("numpy-loop", numpy_loop), ("recover_hessian", recovered)):
                time.sleep(PAUSE_SECONDS)
                start = time.perf_counter()
                found = job(X, y, coef, method)
                times[name].append(time.perf_counter() - start)
                # Whitened errors of X^T X / N, about I: 2 sqrt(d / m) + d / m, of half as many pairs.
                assert np.linalg.norm(found - X.T @ X / N, 2) < 4 * np.sqrt(2 * D / M), name
        ratio = statistics.median(a / b for a, b in zip(*times.values(), strict=True))
        shown = ", ".join(f"{name} {statistics.median(v) * 1e3:.0f} ms" for name, v in times.items())
        print(f"  {method:<12}{shown}: {ratio:.1f} times")


if __name__ == "__main__":
    main()
