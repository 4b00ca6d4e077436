"""A call after a pause, in ms: what waking the threads costs, beside the same call without one.

In a virtual machine a thread that slept is easily woken on the processor of its caller, and then waits for it
(csrc/cpu/roster.hpp). NumPy, whose BLAS has threads of its own, stands beside it.

    python bench/after_pause.py [--shape NxD ...] [--dtype TYPE ...] [--rounds N] [--output FILE]
"""

from __future__ import annotations

import sys
from functools import partial

from bench_support import record, timing
from bench_support.competitors import BY_NAME
from bench_support.problems import QUICK, Problem

SHAPES = [(2_000, 16)] if QUICK else [(20_000, 16), (1_000_000, 16), (5_000, 256)]
PAUSES = (0.0, 0.001, 0.03) if QUICK else (0.0, 0.001, 0.03, 0.3)
CANDIDATES = ("gradhess-cpu", "numpy")


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=30)
    parser.add_argument("--shape", type=record.shape, nargs="+", default=SHAPES, metavar="NxD")
    chosen = parser.parse_args(arguments)
    print("        n x d       dtype  pause ms" + "".join(f"{name:>30}" for name in CANDIDATES))
    rows = []
    for dtype in chosen.dtype:
        for n, d in chosen.shape:
            problem = Problem(n, d, dtype)
            jobs = {name: BY_NAME[name].factory() for name in CANDIDATES}
            for pause in PAUSES:
                row = {"n": n, "d": d, "dtype": dtype, "pause_ms": pause * 1e3}
                # Apart, since the threads of one spin where those of the other are to wake.
                for name, job in jobs.items():
                    times = timing.interleaved(
                        {name: partial(job, problem)},
                        chosen.rounds,
                        measure=partial(timing.seconds, pause=pause),
                    )
                    row[name] = list(timing.Band.of([1e3 * seconds for seconds in times[name]]))
                rows.append(row)
                bands = "".join(f"{timing.Band(*row[name])!s:>30}" for name in CANDIDATES)
                print(f"{n:>9} x {d:<5}{dtype:>8}{pause * 1e3:10.0f}{bands}", flush=True)
    record.write("after-pause", chosen.output, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
