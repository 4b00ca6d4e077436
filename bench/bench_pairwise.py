"""Pairwise dependence of LWE labels: gradhess, and NumPy twice, in the same run. How to read it: README.md.

q = 7, n = 4, all ternary secrets with up to 4 non-zeros (81) at all 2401 inputs: 2.9 million joint histograms of 49
cells. The column GFLOP/s counts comparisons of labels, ``n_inputs^2 / 2 * n_targets * (q - 1)``.

    python bench/bench_pairwise.py     time for each target and pair over q, by which pair_dependence.hpp chooses
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from bench_support.backends import on_backend
from bench_support.problems import QUICK

Q, LENGTH, NONZEROS = (3, 3, 2) if QUICK else (7, 4, 4)
FULL_INPUTS = 2401


@cache
def labels() -> np.ndarray:
    from gradhess.informativeness import lwe

    return lwe.labels(lwe.inputs(LENGTH, Q), lwe.secrets(LENGTH, Q, "ternary", NONZEROS), Q)


def double_loop(table: np.ndarray) -> float:
    """A histogram of each pair, as one would write it."""
    n_targets, n = table.shape
    columns = np.ascontiguousarray(table.T).astype(np.intp)
    total = 0.0
    for x in range(n):
        left = columns[x] * Q
        for other in range(x + 1, n):
            joint = np.bincount(left + columns[other], minlength=Q * Q) / n_targets
            total += np.abs(joint - 1 / Q**2).sum() ** 2
    return math.sqrt(total / (n * (n - 1) / 2))


def indicator_products(table: np.ndarray) -> float:
    """One matrix product of indicators for each input: the joint histograms with all later inputs, by BLAS."""
    n_targets, n = table.shape
    hot = (table[np.newaxis] == np.arange(Q)[:, np.newaxis, np.newaxis]).astype(np.float32)
    total = 0.0
    for x in range(n - 1):
        joint = np.tensordot(hot[:, :, x], hot[:, :, x + 1 :], axes=(1, 1)) / np.float32(n_targets)
        total += float((np.abs(joint - np.float32(1 / Q**2)).sum(axis=(0, 1)).astype(np.float64) ** 2).sum())
    return math.sqrt(total / (n * (n - 1) / 2))


def _gradhess(table: np.ndarray) -> float:
    from gradhess import informativeness

    return informativeness.pairwise_dependence(table, Q)


COMPETITORS: dict[str, tuple[Callable[[], Callable[[np.ndarray], float]], int, float]] = {
    # Factory, rounds, relative error allowed: sums of 2.9 million terms one after the other, of 2401 terms twice, and
    # histograms of 49 cells in float32.
    "gradhess-cpu": (on_backend("cpu", _gradhess), 7, 2 * FULL_INPUTS * 2.0**-53),
    "gradhess-numba": (on_backend("numba", _gradhess), 5, 2 * FULL_INPUTS * 2.0**-53),
    "numpy-indicators": (lambda: indicator_products, 1, 64 * 2.0**-24),
    "numpy-double-loop": (lambda: double_loop, 1, FULL_INPUTS**2 / 2 * 2.0**-53),
}


@pytest.mark.parametrize("name", COMPETITORS)
def test_pairwise(benchmark: Any, record: Callable[..., None], name: str) -> None:
    factory, rounds, error = COMPETITORS[name]
    table = labels()
    assert QUICK or table.shape == (81, FULL_INPUTS)
    benchmark.group = f"pairwise {table.shape[0]}x{table.shape[1]} q{Q}"
    try:
        job = factory()
    except ImportError as reason:
        pytest.skip(f"{name} is not there: {reason}")
    answer = benchmark.pedantic(job, args=(table,), rounds=rounds, warmup_rounds=int(rounds > 1))
    assert abs(answer / expected() - 1) <= error
    record(name, table.shape[1] ** 2 / 2 * table.shape[0] * (Q - 1), table.size)


@cache
def expected() -> float:
    """The double loop is the oracle where it takes no time; in full runs all are held to the Numba backend, and so
    to each other."""
    return double_loop(labels()) if QUICK else on_backend("numba", _gradhess)()(labels())


def main() -> None:
    """Nanoseconds for each target and pair on one thread, over the number of labels: where ways of counting change."""
    from gradhess._backends import registry
    from gradhess._backends.cpu import available_isas, use_isa

    ops, rng = registry.get("cpu"), np.random.default_rng(0)
    sizes = (20, 1000) if QUICK else (20, 100, 1000, 10_000)
    print(f"{'':10}{'q':>4}" + "".join(f"{n:>8,}{'weighted':>10}" for n in sizes) + "   targets")
    for isa in available_isas():
        for q in (7, 16, 32, 64, 128, 256):
            cells = []
            for n_targets in sizes:
                n, rows = min(1000, max(128, int((2e7 / (n_targets + 50)) ** 0.5))), 48
                table = rng.integers(0, q, (n_targets, n)).astype(np.uint8)
                mu, shares = np.full(n, 1 / n), np.full(n_targets, 1 / n_targets)
                for given, width in ((None, 8), (shares, 10)):
                    times = []
                    for _ in range(1 if QUICK else 3):
                        start = time.perf_counter()
                        with use_isa(isa):
                            ops.pair_dependence(table, q, mu, given, n_rows=rows, threads=1)
                        times.append(time.perf_counter() - start)
                    cells.append(f"{min(times) / (rows * n * n_targets) * 1e9:>{width}.2f}")
            print(f"{isa:10}{q:>4}" + "".join(cells))


if __name__ == "__main__":
    main()
