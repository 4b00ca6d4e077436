"""Three ratios, measured so that they can be trusted: every round runs all candidates one after the other.

A: NumPy's ``r = X@w - y; G = X*r[:, None]; G.T@G`` over gradhess.
B: BLAS ``syrk`` on X alone, which does less work, over gradhess.
C: the floor max(FLOP / FMA peak, bytes / read bandwidth) over gradhess, both limits probed in the same run.

    python bench/interleaved.py [--rounds N] [--shape NxD ...] [--dtype TYPE ...] [--backend cpu] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_support import machine
from bench_support.competitors import BY_NAME, syrk_alone
from bench_support.problems import DTYPES, QUICK, SHAPES, Problem

RESULTS = Path(__file__).parent / "results"
PAUSE_SECONDS = 0.05
"""Before each timed call. Idle threads of OpenMP and OpenBLAS spin for up to some 30 ms before they sleep; without a
pause, those of one candidate would take the cores from the next one."""


def seconds(function: Callable[[], Any]) -> float:
    time.sleep(PAUSE_SECONDS)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def measure(problem: Problem, backend: str, rounds: int) -> dict[str, Any]:
    """One row of the table. Ratios are medians over the rounds, with their quartiles as a band."""
    ours, numpy = BY_NAME[f"gradhess-{backend}"], BY_NAME["numpy"]
    our_job, numpy_job = ours.factory(), numpy.factory()
    problem.check(our_job(problem), summed_rows=ours.summed_rows)  # checks, and warms up
    problem.check(numpy_job(problem))
    problem.check_plain(syrk_alone(problem).T)

    times: dict[str, list[float]] = {"gradhess": [], "numpy": [], "syrk": []}
    limits: list[tuple[float, float]] = []
    for _ in range(rounds):
        times["gradhess"].append(seconds(lambda: our_job(problem)))
        times["numpy"].append(seconds(lambda: numpy_job(problem)))
        times["syrk"].append(seconds(lambda: syrk_alone(problem)))
        time.sleep(PAUSE_SECONDS)
        probed = machine.limits(problem.dtype, seconds=0.1)
        if probed is not None:
            limits.append(probed)

    row: dict[str, Any] = {"n": problem.n, "d": problem.d, "dtype": problem.dtype, "rounds": rounds}
    for name, values in times.items():
        row[f"{name}_ms"] = statistics.median(values) * 1e3
    for letter, other in (("A", "numpy"), ("B", "syrk")):
        ratios = [theirs / mine for theirs, mine in zip(times[other], times["gradhess"], strict=True)]
        row[letter], row[f"{letter}_band"] = statistics.median(ratios), quartiles(ratios)
    median = statistics.median(times["gradhess"])
    row["GFLOP/s"] = problem.gram_flop / median * 1e-9
    row["GB/s"] = problem.bytes / median * 1e-9
    if limits:
        # The best that the probes saw: a limit is what the machine can do, not what it did under load.
        row["peak_GFLOP/s"] = max(peak for peak, _ in limits)
        row["read_GB/s"] = max(bandwidth for _, bandwidth in limits)
        floor = max(problem.gram_flop / row["peak_GFLOP/s"], problem.bytes / row["read_GB/s"]) * 1e-9
        row["floor_ms"], row["C"] = floor * 1e3, floor / median
    return row


HEADER = (
    "        n x d       dtype      ms   numpy    syrk   floor |      A (quartiles)        B (quartiles)     C"
    "   GFLOP/s   GB/s"
)


def line(row: dict[str, Any]) -> str:
    def band(letter: str) -> str:
        low, high = row[f"{letter}_band"]
        return f"{row[letter]:6.2f} ({low:5.2f}-{high:5.2f})"

    floor, share = (f"{row['floor_ms']:7.1f}", f"{row['C']:5.2f}") if "C" in row else ("      -", "    -")
    return (
        f"{row['n']:>9} x {row['d']:<5}{row['dtype']:>8}{row['gradhess_ms']:8.1f}{row['numpy_ms']:8.1f}"
        f"{row['syrk_ms']:8.1f} {floor} | {band('A')} {band('B')} {share}{row['GFLOP/s']:10.1f}{row['GB/s']:7.1f}"
    )


def shape(text: str) -> tuple[int, int]:
    n, d = text.lower().split("x")
    return int(n), int(d)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2 if QUICK else 15)
    parser.add_argument("--shape", type=shape, nargs="+", default=SHAPES, metavar="NxD")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    parser.add_argument("--backend", choices=["cpu", "numba"], default="cpu")
    parser.add_argument(
        "--output", type=Path, help="JSON file; by default one in bench/results (none in quick mode)"
    )
    chosen = parser.parse_args(arguments)

    print(HEADER)
    rows = []
    for dtype in chosen.dtype:
        for n, d in chosen.shape:
            rows.append(measure(Problem(n, d, dtype), chosen.backend, chosen.rounds))
            print(line(rows[-1]), flush=True)

    now = datetime.now(UTC)
    output = chosen.output
    if output is None and not QUICK:
        output = RESULTS / f"interleaved-{now:%Y%m%dT%H%M%SZ}.json"
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "time": now.isoformat(),
            "backend": chosen.backend,
            "machine": machine.facts(),
            "rows": rows,
        }
        output.write_text(json.dumps(record, indent=1) + "\n")
        print(f"written: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
