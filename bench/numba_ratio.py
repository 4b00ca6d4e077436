"""Time of the Numba backend over that of the compiled one, against d.

n d is about constant, and one curve has few rows. Both backends take turns in every round, and the ratio is formed
within each round; its median and quartiles are shown. Answers are compared with each other, within bounds from rounding
analysis. The target is ``TARGET`` up to 256 columns. Both have the same number of threads.

    python bench/numba_ratio.py [--job JOB ...] [--dtype TYPE ...] [--columns D ...] [--rounds N] [--output FILE]
    python bench/numba_ratio.py --join FILE ...      one table of earlier runs; with --output, one file
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_support import record, timing
from bench_support.jobs import JOBS
from bench_support.problems import QUICK, Array, Problem

import gradhess as gh

TARGET, TARGET_COLUMNS = 3.0, 256
COLUMNS: tuple[int, ...] = (
    (1, 16, 33) if QUICK else (1, 2, 4, 8, 16, 17, 32, 47, 64, 96, 128, 200, 255, 256, 257, 512)
)
ENTRIES = 50_000 if QUICK else 8_000_000
SMALL_ENTRIES = 20_000
"""About two thousand rows at d = 10: where the cost of a call counts."""
CURVES = ("squared", "logistic", "weighted_gram", "covariance", "Fortran order", "float16", "small")
FEW_COLUMNS = {"Fortran order": (2, 16, 64, 256), "float16": (64,)}
SPELL_SECONDS = 0.004
PAUSE_SECONDS = 0.01
"""Before each timed spell: idle threads of OpenMP wait busily for some milliseconds."""


def on(backend: str, call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with gh.use_backend(backend):
            return call()

    return run


def matrix(value: Any) -> Array:
    """The p x p result in what a job returns."""
    return value[0] if isinstance(value, tuple) else value


def check(problem: Problem, job: str, call: Callable[[], Any]) -> None:
    """Both backends agree within twice the error that a sum of a slab may have.

    With weights of both signs the sizes of the terms are those with their absolute values.
    """
    ours, theirs = (matrix(on(backend, call)()) for backend in ("numba", "cpu"))
    squares = np.diag(theirs)
    if job == "weighted_gram":
        weights = np.random.default_rng(4).standard_normal(problem.n)
        squares = np.abs(weights) @ np.square(problem.X, dtype=np.float64)
    scale = np.sqrt(squares)
    u = np.finfo(problem.dtype).eps / 2
    terms = min(512, problem.n) + problem.d + 8
    bound = 2 * terms * u * np.outer(scale, scale)
    if job not in ("weighted_gram", "covariance"):
        bound *= 8  # of the predictions, which a float32 row does not round before its factor
    assert (np.abs(ours - theirs) <= bound).all(), f"{problem}, {job}: the backends disagree"


def per_call(function: Callable[[], Any]) -> float:
    time.sleep(PAUSE_SECONDS)
    return timing.seconds_per_call(function, spell=SPELL_SECONDS)


def measure(curve: str, d: int, dtype: str, rounds: int) -> dict[str, Any]:
    job = "squared" if curve == "small" else curve
    entries = SMALL_ENTRIES if curve == "small" else ENTRIES
    problem = Problem(max(entries // d, 1), d, dtype)
    call = JOBS[job].make(problem)
    check(problem, job, call)
    calls = {backend: on(backend, call) for backend in ("numba", "cpu")}
    times = timing.interleaved(calls, rounds, measure=per_call)
    point: dict[str, Any] = {"curve": curve, "n": problem.n, "d": d, "dtype": dtype}
    point |= {f"{backend}_ms": statistics.median(times[backend]) * 1e3 for backend in calls}
    point["ratio"], *point["band"] = timing.ratios(times, "numba", "cpu")
    return point


def line(point: dict[str, Any]) -> str:
    band = timing.Band(point["ratio"], *point["band"])
    missed = point["d"] <= TARGET_COLUMNS and point["ratio"] > TARGET
    return (
        f"{point['curve']:>14} {point['n']:>8} x {point['d']:<4}{point['dtype']:>8}{point['numba_ms']:9.3f} ms"
        f"{point['cpu_ms']:9.3f} ms {band}{'  above the target' if missed else ''}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=7)
    parser.add_argument("--job", choices=CURVES, nargs="+", default=CURVES)
    parser.add_argument("--columns", type=int, nargs="+", metavar="D")
    parser.add_argument("--join", type=Path, nargs="+", metavar="FILE", help="earlier runs; measures nothing")
    chosen = parser.parse_args(arguments)
    points: list[dict[str, Any]] = []
    for file in chosen.join or ():
        points += json.loads(file.read_text())["points"]
    for point in points:
        print(line(point))
    for curve in () if chosen.join else chosen.job:
        for dtype in ("float32",) if curve == "float16" else chosen.dtype:
            for d in chosen.columns or FEW_COLUMNS.get(curve, COLUMNS):
                points.append(measure(curve, d, dtype, chosen.rounds))
                print(line(points[-1]), flush=True)
    if not chosen.join or chosen.output:
        record.write("numba-ratio", chosen.output, points=points)
    return 0


if __name__ == "__main__":
    sys.exit(main())
