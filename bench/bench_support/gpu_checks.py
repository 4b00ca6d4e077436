"""Checks of ``bench/gpu.py``: errors against float64, the same bits over runs, streams and chunks, odd sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench_support.gpu_guards import odd_sizes
from bench_support.gpu_jobs import Bench
from bench_support.gpu_sums import bits_that_differ

Check = dict[str, Any]


def run(bench: Bench) -> list[Check]:
    sums = _check(
        "products with vectors whose bits differ, over streams and runs", bits_that_differ(bench), 0
    )
    return [*_errors(bench), _bits(bench), sums, *_odd_sizes(bench)]


def _check(name: str, found: float, limit: float) -> Check:
    return {"check": name, "found": float(f"{found:.3g}"), "limit": limit, "ok": bool(found <= limit)}


def _odd_sizes(bench: Bench) -> list[Check]:
    broken, single, double = odd_sizes(bench)
    # Sums of float32 are promoted every 128 rows at the latest; few rows do not average their roundings out.
    return [
        _check("guard bytes that were written to, over odd sizes", broken, 0),
        _check("float32, odd sizes", single, 130 * 2.0**-24),
        _check("float64, odd sizes", double, 1e-13),
    ]


def _relative(bench: Bench, got: Any, expected: Any) -> float:
    """max |dC_ij| / sqrt(C_ii C_jj)."""
    xp = bench.cupy
    size = xp.sqrt(xp.diagonal(expected))
    return float((xp.abs(got - expected) / (size[:, None] * size[None, :])).max())


def _reference(bench: Bench, X: Any, centre: Any = None) -> Any:
    """``X^T X`` in float64, a few blocks at a time."""
    total = bench.cupy.zeros((int(X.shape[1]), int(X.shape[1])))
    for start in range(0, int(X.shape[0]), 1 << 16):
        part = X[start : start + (1 << 16)].astype(np.float64)
        if centre is not None:
            part = part - centre
        total += part.T @ part
    return total


def _errors(bench: Bench) -> list[Check]:
    import gradhess as gh

    xp = bench.cupy
    n, d = bench.shape(1 << 20, 1024)
    found = []
    plain = bench.normal(n, d)
    columns = {
        "Gaussian": lambda: plain,
        "mean/std = 100": lambda: plain + np.float32(100),
        "log-normal": lambda: xp.exp(plain),
    }
    for name, make in columns.items():
        X = make()
        expected = _reference(bench, X)
        for accuracy, promised in (("float32", 5e-7), ("fp16x3", 1e-6)):
            limit = (
                (n + 2) * 2.0**-24 if bench.dry else promised
            )  # few rows do not average their roundings out
            with gh.use_backend(_active(), accuracy=accuracy):
                error = _relative(bench, gh.weighted_gram(X), expected)
            found.append(_check(f"{accuracy}, {name}", error, limit))
        X = expected = None
    bench.free()
    X = plain + np.float32(1000)
    mean = X.sum(axis=0, dtype=np.float64) / n
    expected = _reference(bench, X, mean) / n
    centred = gh.StreamingCovariance().partial_fit(X).covariance_
    found.append(_check("float32 centred, mean/std = 1e3", _relative(bench, centred, expected), 1e-6))
    X = expected = centred = None
    bench.free()
    found += _float64_errors(bench)
    found += [_bfloat16_error(bench, name, make()) for name, make in columns.items()]
    bench.free()
    return found


def _float64_errors(bench: Bench) -> list[Check]:
    import gradhess as gh

    n, d = bench.shape(1 << 20, 1024)
    found = []
    for name in ("Gaussian", "mean/std = 100", "log-normal"):
        X = bench.normal(n, d, np.float64)
        if name == "mean/std = 100":
            X += 100.0
        elif name == "log-normal":
            X = bench.cupy.exp(X)
        error = _relative(bench, gh.weighted_gram(X), _reference(bench, X))
        found.append(_check(f"float64, {name}", error, 1e-13))
        X = None
        bench.free()
    return found


def _bfloat16_error(bench: Bench, name: str, X: Any) -> Check:
    """Rows that are bfloat16 already (those of ``X``, cut off), in a batch: products are exact, sums in float32."""
    from gradhess._backends import registry
    from gradhess._backends.cupy.moments import moments
    from gradhess._backends.cupy.rows import DeviceRows

    n, d = X.shape
    bits = (X.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    widened = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    expected = _reference(bench, widened)
    widened = None
    backend = registry.active_device()
    state = moments(d, "full", centred=False)
    backend.add_call(DeviceRows(bits, bfloat16=True), None, state)
    backend.symmetrize(state.scatter, 1.0, state.scatter)
    limit = (n + 2) * 2.0**-24 if bench.dry else 5e-7
    error = _relative(bench, state.scatter, expected)
    bits = expected = state = None
    bench.free()
    return _check(f"bfloat16 gradients, {name}", error, limit)


def _active() -> str:
    from gradhess._backends import registry

    return str(registry.active_device().name)


def _bits(bench: Bench) -> Check:
    """The number of results that differ from the first."""
    import gradhess as gh

    n, d = bench.shape((1 << 17) + 17, 1000)
    X = bench.normal(n, d)
    stream, results = bench.cupy.cuda.Stream, []
    for size in (100, 128, n) if bench.dry else (1 << 14, 1 << 16, n):
        for current in (stream(non_blocking=True), stream(non_blocking=True)):
            for _ in range(1 if bench.dry else 3):
                current.wait_event(bench.cupy.cuda.get_current_stream().record())
                cov = gh.StreamingCovariance()
                with current:
                    for start in range(0, n, size):
                        cov.partial_fit(X[start : start + size])
                    results.append(cov.covariance_.get().tobytes())
    return _check(
        "results whose bits differ, over chunks, streams and runs", sum(r != results[0] for r in results), 0
    )
