"""Many batch gradients at once: 20,000 batches of 100 rows, drawn with replacement from 100,000 rows of 64 features,
with noise on the targets, and their covariance. Batches and noise are given; residuals, sums and covariance are timed.

    pytest bench/bench_grouped.py       the answers agree; time, GFLOP/s, GB/s of each
    python bench/bench_grouped.py       interleaved rounds, and the share of the floor that is reached

The floor is ``max(FLOP / peak, bytes / bandwidth)``, both probed in the same run, with

    FLOP     2 N d (residuals) + 2 m n d (sums) + m d (d + 1) (covariance, symmetry used)
    bytes    N d entries (residuals), m n d entries (every row that is drawn, read again each time), and 16 m n for the
             numbers of the rows and the noise

Rows are drawn in no order, so each is read from wherever it lies. X (49 MiB in float64) is larger than the L3 cache of
the machine the figures were measured on, and has left it mostly before a row is drawn again: so every drawn row is
counted as read from memory. That is a floor for an implementation that takes the batches as they are, and no more: what
the L3 cache keeps is read faster (all of it in float32 where nobody else uses the cache), and ``once`` shows beside it
the floor in which X is read from memory once only.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from bench_support import machine
from bench_support.backends import on_backend
from bench_support.problems import DTYPES, QUICK, Array
from bench_support.timing import PAUSE_SECONDS

ROUNDS = 2 if QUICK else 7
SIZES = (2_000, 300, 20, 16) if QUICK else (100_000, 20_000, 100, 64)


@dataclass(frozen=True)
class Draws:
    dtype: str

    def __str__(self) -> str:
        return "x".join(map(str, SIZES)) + f"-{self.dtype}"

    @cached_property
    def arrays(self) -> tuple[Array, Array, Array, Array, Array]:
        """X, y, coef, batches (m, n), noise (m, n)."""
        N, m, n, d = SIZES
        rng = np.random.default_rng(0)
        X = rng.standard_normal((N, d), dtype=np.dtype(self.dtype).type)
        y, coef = rng.standard_normal(N), rng.standard_normal(d) / np.sqrt(d)
        return X, y, coef, rng.integers(0, N, (m, n)), rng.standard_normal((m, n)) * np.sqrt(n)

    @cached_property
    def expected(self) -> tuple[Array, Array]:
        """The covariance in float64, and a bound on rounding in the type of the data.

        A sum of n terms in that type is off by at most ``(n + d + 8) u`` of the sum of their sizes, and so is an entry
        of the covariance by twice that of the sizes of its factors.
        """
        X, y, coef, batches, noise = self.arrays
        X = X.astype(np.float64)
        r = X @ coef - y
        k = np.abs(X) @ np.abs(coef) + np.abs(y)
        G = np.array([(r[b] + e) @ X[b] for b, e in zip(batches, noise, strict=True)]) / batches.shape[1]
        size = np.array([(k[b] + np.abs(e)) @ np.abs(X[b]) for b, e in zip(batches, noise, strict=True)])
        root = np.sqrt((size**2).mean(axis=0)) / batches.shape[1]
        u = np.finfo(self.dtype).eps
        return np.cov(G, rowvar=False), 4 * (batches.shape[1] + X.shape[1] + 8) * u * np.outer(root, root)

    @property
    def flop(self) -> float:
        N, m, n, d = SIZES
        return 2.0 * N * d + 2.0 * m * n * d + m * d * (d + 1)

    @property
    def bytes(self) -> int:
        N, m, n, d = SIZES
        return (N + m * n) * d * np.dtype(self.dtype).itemsize + 16 * m * n

    @property
    def bytes_once(self) -> int:
        N, m, n, d = SIZES
        return N * d * np.dtype(self.dtype).itemsize + 16 * m * n

    def check(self, covariance: Array) -> None:
        expected, bound = self.expected
        assert (np.abs(covariance - expected) <= bound).all(), f"{self}: the covariance is wrong"


Job = Callable[[Draws], Array]


def _gradhess(draws: Draws) -> Array:
    import gradhess as gh

    X, y, coef, batches, noise = draws.arrays
    g = gh.grouped(gh.glm_gradients(X, y, coef), batches, shifts=noise, scale=1 / batches.shape[1])
    return g.covariance(ddof=1)


def _numpy_loop() -> Job:
    def job(draws: Draws) -> Array:
        X, y, coef, batches, noise = draws.arrays
        r = X @ coef - y
        G = np.empty((len(batches), X.shape[1]))
        for j, batch in enumerate(batches):
            G[j] = (r[batch] + noise[j]) @ X[batch]
        return np.cov(G / batches.shape[1], rowvar=False)

    return job


def _scipy_sparse() -> Job:
    from scipy.sparse import csr_array

    def job(draws: Draws) -> Array:
        X, y, coef, batches, noise = draws.arrays
        r = X @ coef - y
        m, n = batches.shape
        each = csr_array(
            ((r[batches] + noise).ravel(), batches.ravel(), np.arange(0, m * n + 1, n)), (m, len(X))
        )
        return np.cov(np.asarray(each @ X) / n, rowvar=False)

    return job


def _torch() -> Job:
    import torch

    torch.set_num_threads(machine.threads())

    def job(draws: Draws) -> Array:
        X, y, coef, batches, noise = (torch.from_numpy(array) for array in draws.arrays)
        r = X.double() @ coef - y
        weights = (r[batches] + noise).to(X.dtype)
        G = (
            torch.nn.functional.embedding_bag(batches, X, per_sample_weights=weights, mode="sum")
            / batches.shape[1]
        )
        return torch.cov(G.T).numpy()

    return job


METHODS: dict[str, Callable[[], Job]] = {
    "gradhess-cpu": on_backend("cpu", _gradhess),
    "gradhess-numba": on_backend("numba", _gradhess),
    "numpy-loop": _numpy_loop,
    "scipy-sparse": _scipy_sparse,
    "torch-embedding-bag": _torch,
}


@pytest.fixture(scope="module", params=DTYPES)
def draws(request: pytest.FixtureRequest) -> Draws:
    return Draws(request.param)


@pytest.mark.parametrize("name", METHODS)
def test_batch_gradients(benchmark: Any, record: Callable[..., None], draws: Draws, name: str) -> None:
    try:
        job = METHODS[name]()
    except ImportError as error:
        pytest.skip(f"{name} is not there: {error}")
    benchmark.group = f"grouped {draws}"
    draws.check(benchmark.pedantic(job, args=(draws,), rounds=ROUNDS, warmup_rounds=1))
    record(name, draws.flop, draws.bytes)


def main(dtypes: list[str]) -> None:
    """Interleaved rounds of all methods, then the two limits; ratios are medians."""
    for dtype in dtypes or DTYPES:
        draws = Draws(dtype)
        jobs: dict[str, Job] = {}
        for name, factory in METHODS.items():
            try:
                jobs[name] = factory()
            except ImportError as error:
                print(f"{name} is not there: {error}")
                continue
            draws.check(jobs[name](draws))
        times: dict[str, list[float]] = {name: [] for name in jobs}
        limits = []
        for _ in range(ROUNDS):
            for name, job in jobs.items():
                time.sleep(PAUSE_SECONDS)  # idle threads of the one before spin for a while
                start = time.perf_counter()
                job(draws)
                times[name].append(time.perf_counter() - start)
            time.sleep(PAUSE_SECONDS)
            probed = machine.limits(dtype, seconds=0.1)
            if probed is not None:
                limits.append(probed)
        print(f"{draws}, medians of {ROUNDS} rounds, {machine.threads()} threads")
        loop = times["numpy-loop"]
        for name, values in times.items():
            ratio = statistics.median(theirs / mine for theirs, mine in zip(loop, values, strict=True))
            median = statistics.median(values)
            line = f"  {name:<20}{median * 1e3:8.1f} ms{ratio:7.2f} times as fast as the loop"
            line += f"{draws.bytes / median * 1e-9:7.1f} GB/s"
            if limits:
                peak, bandwidth = (max(column) for column in zip(*limits, strict=True))
                floor = max(draws.flop / peak, draws.bytes / bandwidth) * 1e-9
                once = max(draws.flop / peak, draws.bytes_once / bandwidth) * 1e-9
                line += f"   floor {floor * 1e3:5.1f} ms: {floor / median:4.2f}"
                line += f"   once {once * 1e3:4.1f} ms: {once / median:4.2f}"
            print(line)
        if limits:
            print(f"  limits: {peak:.0f} GFLOP/s, {bandwidth:.1f} GB/s")


if __name__ == "__main__":
    main(sys.argv[1:])
