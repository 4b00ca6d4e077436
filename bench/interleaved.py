"""Three ratios, measured so that they can be trusted: every round runs all candidates one after the other.

A: NumPy's ``r = X@w - y; G = X*r[:, None]; G.T@G`` over gradhess.
B: BLAS ``syrk`` on X alone, which does less work, over gradhess.
C: the floor max(FLOP / FMA peak, bytes / read bandwidth) over gradhess, in rounds of gradhess between probes of both
limits; each call is held against the better of the probes before and after it.
C of the best: the same with the best that any probe of the run saw, which on a shared machine is not to be had all the
time, by probes no more than by kernels.

    python bench/interleaved.py [--rounds N] [--shape NxD ...] [--dtype TYPE ...] [--backend cpu] [--output FILE]
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from typing import Any

from bench_support import machine, record, timing
from bench_support.competitors import BY_NAME, syrk_alone
from bench_support.problems import SHAPES, Problem


def measure(problem: Problem, backend: str, rounds: int) -> dict[str, Any]:
    """One row of the table. Ratios are medians over the rounds, with their quartiles as a band."""
    ours, numpy = BY_NAME[f"gradhess-{backend}"], BY_NAME["numpy"]
    our_job, numpy_job = ours.factory(), numpy.factory()
    problem.check(our_job(problem), summed_rows=ours.summed_rows)
    problem.check(numpy_job(problem))
    problem.check_plain(syrk_alone(problem).T)

    jobs = {
        "gradhess": lambda: our_job(problem),
        "numpy": lambda: numpy_job(problem),
        "syrk": lambda: syrk_alone(problem),
    }
    limits = machine.Limits(problem.dtype)
    limits()
    # Nothing that spins goes before it, so it needs no pause, after which its threads would have to be woken.
    no_pause = partial(timing.seconds, pause=0)
    alone = timing.interleaved({"gradhess": jobs["gradhess"]}, rounds, measure=no_pause, after_round=limits)[
        "gradhess"
    ]
    times = timing.interleaved(jobs, rounds)
    row: dict[str, Any] = {"n": problem.n, "d": problem.d, "dtype": problem.dtype, "rounds": rounds}
    row["alone_ms"] = statistics.median(alone) * 1e3
    for name, values in times.items():
        row[f"{name}_ms"] = statistics.median(values) * 1e3
    for letter, other in (("A", "numpy"), ("B", "syrk")):
        row[letter], *row[f"{letter}_band"] = timing.ratios(times, other, "gradhess")
    median = statistics.median(alone)
    row["GFLOP/s"] = problem.gram_flop / median * 1e-9
    row["GB/s"] = problem.bytes / median * 1e-9
    floors = limits.floors(problem.gram_flop, problem.bytes)
    if floors:
        best = limits.floor(problem.gram_flop, problem.bytes)
        assert best is not None
        row["peak_GFLOP/s"], row["read_GB/s"] = limits.peak, limits.bandwidth
        row["C"], *row["C_band"] = timing.Band.of([f / t for f, t in zip(floors, alone, strict=True)])
        row["floor_ms"], row["C_of_best"] = best * 1e3, best / median
    return row


HEADER = (
    "        n x d       dtype   alone      ms   numpy    syrk   floor |      A (quartiles)        B (quartiles)"
    "        C (quartiles)  of the best   GFLOP/s   GB/s"
)


def line(row: dict[str, Any]) -> str:
    a, b = (timing.Band(row[letter], *row[f"{letter}_band"]) for letter in "AB")
    floor, share = "      -", f"{'-':>6}{'-':>28}"
    if "C" in row:
        c = timing.Band(row["C"], *row["C_band"])
        floor, share = f"{row['floor_ms']:7.1f}", f"{c}{row['C_of_best']:13.2f}"
    return (
        f"{row['n']:>9} x {row['d']:<5}{row['dtype']:>8}{row['alone_ms']:8.1f}{row['gradhess_ms']:8.1f}"
        f"{row['numpy_ms']:8.1f}{row['syrk_ms']:8.1f} {floor} | {a} {b} {share}{row['GFLOP/s']:10.1f}{row['GB/s']:7.1f}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=15)
    parser.add_argument("--shape", type=record.shape, nargs="+", default=SHAPES, metavar="NxD")
    parser.add_argument("--backend", choices=["cpu", "numba"], default="cpu")
    chosen = parser.parse_args(arguments)

    print(HEADER)
    rows = []
    for dtype in chosen.dtype:
        for n, d in chosen.shape:
            rows.append(measure(Problem(n, d, dtype), chosen.backend, chosen.rounds))
            print(line(rows[-1]), flush=True)
    record.write("interleaved", chosen.output, backend=chosen.backend, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
