"""Every operation beside the one that it should keep up with, and the share of the machine's limits that it reaches.

All jobs of a shape run one after the other in every round; ratios are formed within rounds. "floor" is
max(necessary FLOP / FMA peak, bytes of the input / read bandwidth), "C" the floor over the time.

    python bench/operations.py [--section NAME ...] [--shape NxD ...] [--dtype TYPE ...] [--rounds N] [--output FILE]
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench_support import machine, record, timing
from bench_support.competitors import SLAB_ROWS
from bench_support.jobs import JOBS, Call
from bench_support.problems import QUICK, Problem

BASE = "squared"
SHAPES = (
    ((5_000, 16), (600, 257)) if QUICK else ((1_000_000, 16), (200_000, 64), (50_000, 256), (8_192, 1024))
)

SHARE_OF_FLOOR = ((16, 0.45), (64, 0.6), (256, 0.78), (1024, 0.86), (4096, 0.9))
"""C that the whole job is to reach, from that many columns on."""
SHARE_OF_BANDWIDTH = 0.8


@dataclass(frozen=True)
class Target:
    """At most ``ratio`` times the time of the base job, or at least ``share`` of the floor; from ``min_d`` columns."""

    ratio: float | None = None
    share: Callable[[int], float | None] | None = None
    min_d: int = 0
    max_d: int = 1 << 62
    dtypes: tuple[str, ...] = ("float32", "float64")


def share_of_floor(d: int) -> float | None:
    reached = [share for columns, share in SHARE_OF_FLOOR if d >= columns]
    return reached[-1] if reached else None


AT_THE_FLOOR = Target(share=share_of_floor)
AT_BANDWIDTH = Target(share=lambda d: SHARE_OF_BANDWIDTH)

SECTIONS: dict[str, dict[str, Target]] = {
    "losses": {
        BASE: AT_THE_FLOOR,
        "logistic": Target(ratio=1.1, min_d=64),
        "poisson": AT_THE_FLOOR,
        "huber": AT_THE_FLOOR,
        "custom": Target(ratio=1.5, min_d=64),
    },
    "inputs": {
        BASE: AT_THE_FLOOR,
        "weighted_gram": AT_THE_FLOOR,
        "covariance": AT_THE_FLOOR,
        "Fortran order": AT_THE_FLOOR,
        "covariance, Fortran order": AT_THE_FLOOR,
        "float16": Target(ratio=1.0, dtypes=("float32",)),
        "bfloat16": Target(ratio=1.0, dtypes=("float32",)),
        "numba": Target(ratio=3.0, max_d=256),
    },
    "products": {
        name: AT_BANDWIDTH
        for name in (
            "diagonal",
            "diagonal, Fortran order",
            "norms",
            "matvec",
            "matvec, Fortran order",
            "gram_matvec",
            "gram_matvec, Fortran order",
            "gram_matvec, 8 vectors",
        )
    },
}
RUN_TIME_SECTIONS = ("instruction sets", "threads")


@contextlib.contextmanager
def on_isa(name: str) -> Iterator[None]:
    from gradhess._backends import cpu

    with cpu.use_isa(name):
        yield


@contextlib.contextmanager
def on_threads(n: int) -> Iterator[None]:
    import gradhess as gh

    gh.set_num_threads(n)
    try:
        yield
    finally:
        gh.set_num_threads(None)


def row_of(
    problem: Problem, section: str, name: str, times: timing.Times, base: str, **more: Any
) -> dict[str, Any]:
    seconds = statistics.median(times[name])
    row: dict[str, Any] = {
        "section": section,
        "operation": name,
        "n": problem.n,
        "d": problem.d,
        "dtype": problem.dtype,
        "ms": seconds * 1e3,
        **more,
    }
    if base in times:
        row["base"] = base
        row["ratio"], *row["ratio_band"] = timing.ratios(times, name, base)
    return row


def add_floor(row: dict[str, Any], limits: machine.Limits, name: str, problem: Problem) -> None:
    job = JOBS[name]
    floor = limits.floor(job.flop(problem), job.input_bytes(problem))
    if floor is not None:
        row["floor_ms"] = floor * 1e3
        row["C"] = floor * 1e3 / row["ms"]


def judge(row: dict[str, Any], target: Target) -> None:
    """Put the target and whether it was met beside the figure."""
    if not target.min_d <= row["d"] <= target.max_d or row["dtype"] not in target.dtypes:
        return
    if target.ratio is not None and "ratio" in row:
        row["target"], row["met"] = f"{target.ratio:.2f}x", row["ratio"] <= target.ratio
    elif target.share is not None and "C" in row:
        share = target.share(row["d"])
        if share is not None:
            row["target"], row["met"] = f"C {share:.2f}", row["C"] >= share


def checked(name: str, problem: Problem, call: Call) -> Call:
    found = JOBS[name].result(call())
    if found is not None:
        problem.check_along(found, summed_rows=SLAB_ROWS)
    return call


def run_jobs(section: str, problem: Problem, rounds: int) -> list[dict[str, Any]]:
    from gradhess.errors import GradhessError

    rows, calls = [], {}
    for name, target in SECTIONS[section].items():
        if problem.dtype not in target.dtypes:
            continue
        try:
            calls[name] = checked(name, problem, JOBS[name].make(problem))
        except (ImportError, GradhessError) as error:
            print(f"{'':>30}{name}: not here ({error})")
    limits = machine.Limits(problem.dtype)
    times = timing.interleaved(calls, rounds, after_round=limits)
    for name in calls:
        row = row_of(problem, section, name, times, BASE)
        add_floor(row, limits, name, problem)
        judge(row, SECTIONS[section][name])
        rows.append(row)
    return rows


def run_isas(problem: Problem, rounds: int) -> list[dict[str, Any]]:
    """The base job on every instruction set, each against its own peak."""
    from gradhess._backends import cpu

    call = JOBS[BASE].make(problem)
    limits = {isa: machine.Limits(problem.dtype, seconds=0.05, pause=0.02) for isa in cpu.available_isas()}

    def on(isa: str) -> Call:
        def job() -> Any:
            with on_isa(isa):
                return call()

        return checked(BASE, problem, job)

    def probe() -> None:
        for isa, limit in limits.items():
            with on_isa(isa):
                limit()

    times = timing.interleaved({isa: on(isa) for isa in limits}, rounds, after_round=probe)
    rows = []
    for isa, limit in limits.items():
        row = row_of(problem, "instruction sets", isa, times, next(iter(limits)), peak=limit.peak)
        add_floor(row, limit, BASE, problem)
        judge(row, AT_THE_FLOOR)
        rows.append(row)
    return rows


def run_threads(problem: Problem, rounds: int) -> list[dict[str, Any]]:
    """The base job on 1, 2, 4, ... threads, up to those that there are."""
    most = machine.threads()
    counts = sorted({min(2**i, most) for i in range(most.bit_length() + 1)})
    call = JOBS[BASE].make(problem)
    limits = {n: machine.Limits(problem.dtype, seconds=0.05, pause=0.02) for n in counts}

    def on(n: int) -> Call:
        def job() -> Any:
            with on_threads(n):
                return call()

        return checked(BASE, problem, job)

    def probe() -> None:
        for n, limit in limits.items():
            with on_threads(n):
                limit()

    times = timing.interleaved({str(n): on(n) for n in counts}, rounds, after_round=probe)
    rows = []
    for n in counts:
        row = row_of(problem, "threads", str(n), times, "1", peak=limits[n].peak)
        add_floor(row, limits[n], BASE, problem)
        row["speed_up"] = timing.ratios(times, "1", str(n)).median
        judge(row, AT_THE_FLOOR)
        rows.append(row)
    return rows


HEADER = (
    f"{'n x d':>14} {'dtype':>8}  {'operation':<26}{'ms':>9}{'floor':>9}{'C':>7}   "
    f"{'times the base (quartiles)':<28}{'target':>8}"
)


def line(row: dict[str, Any]) -> str:
    name = row["operation"]
    if row["section"] == "threads":
        name += f" thread{'s' * (row['operation'] != '1')}, {row['speed_up']:.2f}x the speed"
    floor, share = (
        (f"{row['floor_ms']:9.2f}", f"{row['C']:7.2f}") if "C" in row else (f"{'-':>9}", f"{'-':>7}")
    )
    ratio = str(timing.Band(row["ratio"], *row["ratio_band"])) if "ratio" in row else ""
    verdict = "" if "met" not in row else ("  met" if row["met"] else "  MISSED")
    return (
        f"{row['n']:>8} x {row['d']:<4}{row['dtype']:>8}  {name:<26}{row['ms']:9.2f}{floor}{share}   "
        f"{ratio:<28}{row.get('target', ''):>8}{verdict}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=9)
    names = (*SECTIONS, *RUN_TIME_SECTIONS)
    parser.add_argument("--section", choices=names, nargs="+", default=names)
    parser.add_argument("--shape", type=record.shape, nargs="+", default=SHAPES, metavar="NxD")
    chosen = parser.parse_args(arguments)

    rows = []
    for section in chosen.section:
        print(f"\n{section}\n{HEADER}")
        for dtype in chosen.dtype:
            for n, d in chosen.shape:
                problem = Problem(n, d, dtype)
                if section == "instruction sets":
                    found = run_isas(problem, chosen.rounds)
                elif section == "threads":
                    found = run_threads(problem, chosen.rounds)
                else:
                    found = run_jobs(section, problem, chosen.rounds)
                for row in found:
                    print(line(row), flush=True)
                rows += found
    judged = [row for row in rows if "met" in row]
    print(f"\n{sum(row['met'] for row in judged)} of {len(judged)} targets met")
    record.write("operations", chosen.output, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
