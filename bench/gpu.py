"""The acceptance of the GPU kernels: ceilings, anchors, checks, and one table of ratios against what must be reached.

Builds ``gradhess._cuda`` with nvcc if it is not there, needs CuPy, takes under ten minutes on an H200, and writes JSON
to bench/results/. Rows whose kernel, or whose peer, is absent are reported as absent. ``--dry-run`` does all of it at
tiny sizes on the stand-in of the tests, where times mean nothing: so the script cannot rot.

    python bench/gpu.py [--dry-run] [--output FILE] [--no-build]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from bench_support import gpu_anchors, gpu_build, gpu_checks, gpu_sums
from bench_support.gpu_jobs import Bench, panels, rank_update, row_pass, syrk, unfused, whole_pass

ROOT = Path(__file__).parents[1]
OUTER_ROWS = 16384
Row = dict[str, Any]


def ratio(name: str, value: float | None, must: float, aim: float, note: str = "") -> Row:
    """``value`` is None where it could not be measured; ``note`` says why."""
    met = "absent" if value is None else "met" if value >= must else "MISSED"
    return {"test": name, "ratio": value, "must": must, "aim": aim, "state": met, "note": note}


def ceilings(bench: Bench) -> dict[str, float]:
    """GB/s of a copy, TFLOP/s of products."""
    xp, found = bench.cupy, {}
    n = 4096 if bench.dry else 1 << 29
    a, b = xp.zeros(n, np.float32), xp.empty(n, np.float32)

    def copy() -> None:
        b[...] = a

    found["copy GB/s"] = 8e-6 * n / bench.milliseconds(copy)
    size = bench.shape(8192, 8192)[1]
    for name, dtype in (("dgemm", np.float64), ("sgemm", np.float32)):
        A = bench.normal(size, size, dtype)
        found[f"{name} TFLOP/s"] = 2e-9 * size**3 / bench.milliseconds(lambda A=A: A @ A)
        A = None
    if bench.torch is not None:
        B = bench.in_torch(bench.normal(size, size)).to(bench.torch.bfloat16)
        found["bf16 TFLOP/s"] = 2e-9 * size**3 / bench.milliseconds(lambda: B @ B)
    bench.free()
    return found


def in_blocks(n: int, p: int) -> tuple[int, int]:
    """Rows of a block as the backend cuts a batch of ``n`` rows, and how many blocks that makes."""
    from gradhess._backends.cupy import layout

    rows = min(n, layout.batch_rows(p))
    return rows, max(n // rows, 1)


def engine_with(engine: Any, kernel: str) -> Any:
    """The engine with that kernel of ``mma.sync`` or ``wgmma``; None where the device has none; cuBLAS's as it is."""
    if engine.name != "cuda":
        return engine
    from gradhess import _cuda

    if kernel == "wgmma" and _cuda.tensor_kernel() != "wgmma":
        return None
    return type(engine)(kernel=kernel)


def dense(X: Any, *, bfloat16: bool = False) -> Any:
    from gradhess._backends.cupy.rows import DeviceRows

    return DeviceRows(X, bfloat16=bfloat16)


def squared(bench: Bench, X: Any) -> Any:
    from gradhess._backends.cupy.rows import DeviceRows
    from gradhess._backends.protocol import LossSpec

    n, d = (int(size) for size in X.shape)
    y, w = bench.normal(n, 1, np.float64, 1)[:, 0].copy(), bench.normal(1, d, np.float64, 2)
    return DeviceRows(X, "gradient", loss=LossSpec("squared"), y=y, coef=w), y, w[0]


def products(bench: Bench, engine: Any, peak: float) -> list[Row]:
    """Symmetric products in float64 and float32, against cuBLAS and PyTorch."""
    rows = []
    n, p = bench.shape(1 << 18, 4096)
    Y = bench.normal(n, p, np.float64)
    size, blocks = in_blocks(n, p)
    block = dense(Y[:size])
    ours = bench.milliseconds(rank_update(bench, engine, block, p, blocks, "float32"))
    peer = {"dsyrk": bench.milliseconds(syrk(bench, Y)), "panels": bench.milliseconds(panels(bench, Y))}
    full = None
    if bench.torch is not None:
        T = bench.in_torch(Y)
        full = bench.milliseconds(lambda: T.T @ T) / ours
    flop = 1e-9 * n * p * (p + 1)
    best = min(peer, key=peer.__getitem__)
    rows.append(
        ratio("fp64 (2^18, 4096) / torch Y.T@Y", full, 1.5, 1.8, "" if full else "no PyTorch with CUDA")
    )
    rows.append(ratio("fp64 / DGEMM ceiling", flop / ours / peak, 0.80, 0.92, f"{flop / ours:.1f} TFLOP/s"))
    rows.append(ratio("fp64 / best of dsyrk and panels", peer[best] / ours, 0.95, 1.05, best))
    Y = block = T = None
    bench.free()

    n, p = bench.shape(1 << 20, 4096)
    Y = bench.normal(n, p)
    size, blocks = in_blocks(n, p)
    block = dense(Y[:size])
    peer = {"ssyrk": bench.milliseconds(syrk(bench, Y)), "panels": bench.milliseconds(panels(bench, Y))}
    best = min(peer, key=peer.__getitem__)
    for kernel, accuracy, name, must, aim in (
        ("mma", "float32", "fp32-accurate S1 (2^20, 4096) / best of ssyrk and panels", 1.2, 1.5),
        ("wgmma", "float32", "S2 bf16x6, same baseline", 1.8, 2.2),
        ("wgmma", "fp16x3", "S2 fp16x3, same baseline", 3.0, 4.2),
    ):
        by_name = engine_with(engine, kernel)
        if by_name is None:
            rows.append(ratio(name, None, must, aim, "no such kernel on this device"))
            continue
        ours = bench.milliseconds(rank_update(bench, by_name, block, p, blocks, accuracy))
        rows.append(
            ratio(name, peer[best] / ours, must, aim, f"{best}; {1e-9 * n * p * (p + 1) / ours:.1f} TFLOP/s")
        )
    bench.free()
    return rows


def half(bench: Bench, engine: Any) -> list[Row]:
    n, p = bench.shape(1 << 18, 4096)
    name = "bf16 gradients (2^18, 4096) / torch bf16 full product"
    if bench.torch is None:
        return [ratio(name, None, 1.4, 1.75, "no PyTorch with CUDA")]
    T = bench.in_torch(bench.normal(n, p)).to(bench.torch.bfloat16)
    bits = bench.cupy.from_dlpack(T.view(bench.torch.int16)).view(np.uint16)
    size, blocks = in_blocks(n, p)
    block = dense(bits[:size], bfloat16=True)
    ours = bench.milliseconds(rank_update(bench, engine, block, p, blocks, "float32"))
    theirs = bench.milliseconds(lambda: T.T @ T)
    bench.free()
    return [ratio(name, theirs / ours, 1.4, 1.75)]


def passes(bench: Bench, backend: Any, engine: Any, bandwidth: float) -> list[Row]:
    rows = []
    n, d = bench.shape(1 << 24, 64)
    source, y, w = squared(bench, bench.normal(n, d))
    X = source.X
    ours = bench.milliseconds(whole_pass(backend, source))
    speed = 1e-6 * (X.nbytes + y.nbytes) / ours
    rows.append(
        ratio("(2^24, 64) fused: bytes/time over copy", speed / bandwidth, 0.70, 0.85, f"{speed:.0f} GB/s")
    )
    rows.append(ratio("the same / unfused CuPy", bench.milliseconds(unfused(bench, X, y, w)) / ours, 4, 8))
    source = X = y = w = None
    bench.free()
    n, d = bench.shape(1 << 20, 1024)
    source, y, w = squared(bench, bench.normal(n, d))
    ours = bench.milliseconds(whole_pass(backend, source))
    theirs = bench.milliseconds(unfused(bench, source.X, y, w))
    rows.append(ratio("(2^20, 1024) fp32 end to end / unfused", theirs / ours, 1.5, 2.5))
    block = source.slice(0, in_blocks(n, d)[0])
    job, per_entry = row_pass(bench, engine, block, d)
    speed = 1e-6 * per_entry * block.n_samples * d / bench.milliseconds(job)
    rows.append(ratio("rowpass: bytes/time over copy", speed / bandwidth, 0.80, 0.92, f"{speed:.0f} GB/s"))
    bench.free()
    return rows


def outer(bench: Bench, engine: Any) -> list[Row]:
    name = "outer rows, k = 10, d_in = 512 / plain update"
    n, d = bench.shape(OUTER_ROWS, 512)
    k = 10
    A, e = bench.normal(n, d), bench.normal(n, k, np.float64, 1)
    out = bench.cupy.zeros((k * d, k * d))

    def job() -> bool:
        return bool(engine.outer_rank_update(A, e, None, False, out, accuracy="float32"))

    if not job():
        return [ratio(name, None, 1.5, 1.8, f"the engine {engine.name!r} has no such kernel")]
    plain = rank_update(bench, engine, dense(bench.normal(n, k * d)), k * d, 1, "float32")
    return [ratio(name, bench.milliseconds(plain) / bench.milliseconds(job), 1.5, 1.8)]


def versions(bench: Bench, build: str) -> Row:
    cuda = bench.cupy.cuda
    facts = cuda.runtime.getDeviceProperties(cuda.get_device_id())
    return {
        "device": facts["name"].decode(),
        "multiprocessors": facts["multiProcessorCount"],
        "driver": cuda.runtime.driverGetVersion(),
        "CUDA runtime": cuda.runtime.runtimeGetVersion(),
        "cuBLAS": cuda.cublas.getVersion(cuda.device.get_cublas_handle()),
        "CuPy": bench.cupy.__version__,
        "torch": None if bench.torch is None else bench.torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "module": build,
    }


def connect(dry: bool) -> Bench:
    if dry:
        sys.path.insert(0, str(ROOT / "tests" / "cupy_standin"))
    import cupy

    torch = None
    if not dry:
        try:
            import torch as found

            torch = found if found.cuda.is_available() else None
        except ImportError:
            pass
    if torch is not None:
        torch.backends.cuda.matmul.allow_tf32 = False
    return Bench(cupy, torch, dry)


def guarded(rows: list[Row], name: str, part: Callable[[], list[Row]]) -> None:
    """One part that fails is a row that says so; the others are measured all the same."""
    try:
        rows.extend(part())
    except Exception as error:
        rows.append(ratio(name, None, 0, 0, f"{type(error).__name__}: {error}"[:300]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the stand-in for CuPy")
    parser.add_argument("--no-build", action="store_true", help="do not build the compiled module")
    parser.add_argument(
        "--output", type=Path, help="JSON file; by default one in bench/results (none of a dry run)"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    if importlib.util.find_spec("gradhess") is None:  # a checkout on a machine where nothing was installed
        sys.path.insert(0, str(ROOT))
    build = "not asked for" if options.no_build or options.dry_run else gpu_build.build()
    bench = connect(options.dry_run)
    from gradhess._backends import registry

    backend = registry.active_device()
    engine = backend.engine
    facts = versions(bench, build)
    for key, value in facts.items():
        print(f"{key}: {value}")
    print(f"backend: {backend.name}, engine: {engine.name}")
    checks = gpu_checks.run(bench)
    for check in checks:
        print(
            f"{'ok    ' if check['ok'] else 'FAILED'} {check['check']}: {check['found']} (at most {check['limit']})"
        )
    found = ceilings(bench)
    print("; ".join(f"{name} {value:.4g}" for name, value in found.items()))
    others = gpu_anchors.anchors(bench)
    for other in others:
        speed = (
            other["note"] if other["ms"] is None else f"{other['ms']:.2f} ms, {other['TFLOP/s']:.0f} TFLOP/s"
        )
        print(f"bf16 (2^18, 4096) by {other['anchor']}: {speed}")
    rows: list[Row] = []
    guarded(rows, "products", lambda: products(bench, engine, found["dgemm TFLOP/s"]))
    guarded(rows, "bf16", lambda: half(bench, engine))
    guarded(rows, "passes", lambda: passes(bench, backend, engine, found["copy GB/s"]))
    guarded(rows, "outer rows", lambda: outer(bench, engine))
    copy = found["copy GB/s"]
    guarded(rows, "vectors", lambda: [ratio(*row) for row in gpu_sums.of_vectors(bench, engine, copy)])
    guarded(rows, "matrices", lambda: [ratio(*row) for row in gpu_sums.of_matrices(bench, engine)])
    for row in rows:
        if engine.name == "cublas" and row["state"] != "absent":
            row["state"] = "S0 only"
    print(f"\n{'test':<62} {'ratio':>7} {'must':>5} {'aim':>5}  state")
    for row in rows:
        value = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{row['test']:<62} {value:>7} {row['must']:>5} {row['aim']:>5}  {row['state']}  {row['note']}")
    if engine.name == "cublas":
        print("no compiled kernels: what is measured is cuBLAS's engine, S0")
    took = time.perf_counter() - start
    print(f"{took:.0f} s")
    output = options.output
    if output is None and not options.dry_run:
        output = ROOT / "bench" / "results" / f"gpu-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        kept = {
            "time": datetime.now(UTC).isoformat(),
            "versions": facts,
            "engine": engine.name,
            "ceilings": found,
            "anchors": others,
            "checks": checks,
            "rows": rows,
            "seconds": took,
        }
        output.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"written: {output}")
    if not all(check["ok"] for check in checks):
        sys.exit("a check failed")
    if options.dry_run and any("Error" in row["note"] for row in rows):
        sys.exit("a part failed")


if __name__ == "__main__":
    main()
