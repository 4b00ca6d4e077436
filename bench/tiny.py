"""Tiny jobs through the Python API, in microseconds a call: what is paid before the first number is multiplied.

"kernels" is the backend alone with everything prepared; the rest of ``weighted_gram`` is Python. NumPy's ``X.T @ X``
stands beside it: no checks, no weights, no float64 sums. The target holds where n d is at most 4096 and n at least d:
with fewer rows the result is larger than the data.

    python bench/tiny.py [--dtype TYPE ...] [--rounds N] [--output FILE]
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from typing import Any

import numpy as np
from bench_support import machine, record, timing
from bench_support.jobs import Call
from bench_support.problems import QUICK, Problem

TARGET_US = 15.0
TARGET_ENTRIES = 4096
SHAPES = (
    (1, 1),
    (100, 1),
    (4096, 1),
    (20, 4),
    (1000, 4),
    (100, 16),
    (256, 16),
    (32, 32),
    (128, 32),
    (64, 64),
    (8, 256),
)
SPELL_SECONDS = 0.002 if QUICK else 0.02
NUMPY, KERNELS = "numpy X'X", "kernels"


def calls_of(problem: Problem) -> dict[str, Call]:
    import gradhess as gh

    X, y, coef = problem.X, problem.y.astype(np.float64), problem.coef.astype(np.float64)
    labels = (y > 0).astype(np.float64)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, problem.n)
    gradients = gh.glm_gradients(X, y, coef)
    v = np.ones(problem.d)
    stream = gh.StreamingCovariance()
    return {
        "weighted_gram(X)": lambda: gh.weighted_gram(X),
        "weighted_gram(X, w)": lambda: gh.weighted_gram(X, weights),
        "squared, gram": lambda: gh.glm_gradients(X, y, coef).gram(),
        "logistic, gram": lambda: gh.glm_gradients(X, labels, coef, "logistic").gram(),
        "partial_fit(X)": lambda: stream.partial_fit(X),
        "matvec": lambda: gradients.matvec(v),
        KERNELS: kernels(problem),
        NUMPY: lambda: X.T @ X,
    }


def kernels(problem: Problem) -> Call:
    """What ``weighted_gram`` asks of its backend, and nothing else."""
    from gradhess._backends import registry
    from gradhess._backends.protocol import FLOAT64, Rows

    backend, threads, rows = registry.active(), machine.threads(), Rows(problem.X)
    return lambda: backend.moments(
        rows, None, "full", centred=False, dtype=FLOAT64, scale=1.0, threads=threads
    )


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=7)
    chosen = parser.parse_args(arguments)
    per_call = partial(timing.seconds_per_call, spell=SPELL_SECONDS)
    rows: list[dict[str, Any]] = []
    over = 0
    for dtype in chosen.dtype:
        for n, d in SHAPES:
            calls = calls_of(Problem(n, d, dtype))
            if not rows:
                print(f"{'n x d':>11} {'dtype':>8}" + "".join(f"{name:>20}" for name in calls))
            times = timing.interleaved(calls, chosen.rounds, measure=per_call)
            figures = {name: statistics.median(values) * 1e6 for name, values in times.items()}
            held = n * d <= TARGET_ENTRIES and n >= d
            missed = {name for name, us in figures.items() if held and name != NUMPY and us >= TARGET_US}
            over += len(missed)
            cells = (f"{us:18.1f}{' *' if name in missed else '  '}" for name, us in figures.items())
            print(f"{n:>5} x {d:<4}{dtype:>8}" + "".join(cells), flush=True)
            rows.append({"n": n, "d": d, "dtype": dtype, "us": figures})
    print(f"* {over} figures are not below {TARGET_US:g} us" if over else f"all below {TARGET_US:g} us")
    record.write("tiny", chosen.output, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
