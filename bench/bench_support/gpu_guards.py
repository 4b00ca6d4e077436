"""Odd sizes between guard bytes: every array of a call, its workspaces too, ends where bytes begin that must stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench_support.gpu_jobs import Bench

WIDTHS = (1, 17, 65, 129, 1000)
ROWS = (1, 63, 16385)
GUARD = 4096
PATTERN = 0xA5


class Guards:
    """An allocator for CuPy. Memory is kept until it was checked."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._more = cupy.cuda.get_allocator()
        self._guards: list[Any] = []

    def allocate(self, n_bytes: int) -> Any:
        if n_bytes == 0:
            return self._more(0)
        cuda, inside = self._cupy.cuda, -(-n_bytes // 16) * 16
        whole = self._more(inside + 2 * GUARD)
        everything = self._cupy.ndarray((inside + 2 * GUARD,), np.uint8, whole)
        everything.fill(PATTERN)
        everything[GUARD : GUARD + n_bytes].fill(0xFF)  # NaN in every floating type
        self._guards += [everything[:GUARD], everything[GUARD + n_bytes :]]
        memory = cuda.UnownedMemory(whole.ptr + GUARD, n_bytes, everything, cuda.get_device_id())
        return cuda.MemoryPointer(memory, 0)

    @contextmanager
    def used(self) -> Iterator[None]:
        with self._cupy.cuda.using_allocator(self.allocate):
            yield

    def broken(self) -> int:
        """How many guards are no longer as they were."""
        found = sum(bool((guard != PATTERN).any()) for guard in self._guards)
        self._guards.clear()
        return found


def odd_sizes(bench: Bench) -> tuple[int, float, float]:
    """(guards that were written to, largest error of float32, of float64) over all odd sizes, dense and centred.

    Errors are max |dC_ij| / sqrt(C_ii C_jj).
    """
    import gradhess as gh

    guards, broken, errors = Guards(bench.cupy), 0, {np.float32: 0.0, np.float64: 0.0}
    for d in (1, 17, 129) if bench.dry else WIDTHS:
        for n in (1, 63) if bench.dry else ROWS:
            for dtype in (np.float32, np.float64):
                made = np.random.default_rng(n + d).standard_normal((n, d)).astype(dtype)
                wide = made.astype(np.float64)
                with guards.used():
                    X = bench.cupy.asarray(made)
                    got = gh.weighted_gram(X).get()
                    cov = gh.StreamingCovariance()
                    cov.partial_fit(X[: n // 2]).partial_fit(X[n // 2 :])
                    centred = cov.covariance_.get()
                wrong = max(_error(got, wide.T @ wide), _error(centred * n, _scatter(wide), wide.T @ wide))
                errors[dtype] = max(errors[dtype], wrong)
                del X, cov
                broken += guards.broken()
    bench.free()
    return broken, errors[np.float32], errors[np.float64]


def _scatter(X: Any) -> Any:
    centred = X - X.mean(axis=0)
    return centred.T @ centred


def _error(got: Any, expected: Any, of_size: Any = None) -> float:
    size = np.sqrt(np.diagonal(expected if of_size is None else of_size))
    return float((np.abs(got - expected) / (size[:, None] * size[None, :])).max())
