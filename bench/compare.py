"""Two builds side by side: is the second one faster, slower, or is no difference to be seen?

Each build runs in processes of its own, which take turns in every round. The ratio is the time of the first build over
that of the second (above 1: the second is faster), formed within each round; its median is shown with the range that
holds all but the lowest and the highest tenth of the rounds. If that range comes within 1% of 1, none was seen.

    python bench/compare.py FIRST SECOND [--shape NxD ...] [--dtype TYPE ...] [--job NAME ...] [--rounds N]

FIRST and SECOND are folders that hold a package gradhess (site-packages, a source tree), or compiled modules _cpu*.so.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_support import builds, record, timing
from bench_support.jobs import JOBS
from bench_support.problems import QUICK, SHAPES

TAIL = 0.1
SPELL_SECONDS = 0.01 if QUICK else 0.05


def main(arguments: list[str] | None = None) -> int:
    parser = record.parser(__doc__, rounds=20, quick_rounds=4)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--shape", type=record.shape, nargs="+", default=SHAPES, metavar="NxD")
    parser.add_argument("--job", choices=JOBS, nargs="+", default=["squared"])
    parser.add_argument(
        "--processes",
        type=int,
        default=1 if QUICK else 2,
        help="how often the processes of a shape are started",
    )
    chosen = parser.parse_args(arguments)

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folders = {
                name: builds.package_folder(path, Path(scratch) / name)
                for name, path in (("first", chosen.first), ("second", chosen.second))
            }
            print(
                f"{'job':<26}{'n x d':>16} {'dtype':>8}{'first ms':>10}{'second ms':>10}   first / second (10-90%)"
            )
            for job in chosen.job:
                for dtype in chosen.dtype:
                    for n, d in chosen.shape:
                        times = builds.compare(
                            *(folders, job, n, d, dtype),
                            rounds=chosen.rounds,
                            processes=chosen.processes,
                            spell=SPELL_SECONDS,
                        )
                        band = timing.ratios(times, "first", "second", TAIL)
                        verdict = timing.verdict(band)
                        first, second = (statistics.median(times[name]) * 1e3 for name in folders)
                        print(
                            f"{job:<26}{n:>9} x {d:<5}{dtype:>8}{first:10.3f}{second:10.3f}   {band}  {verdict}",
                            flush=True,
                        )
                        rows.append(
                            {
                                "job": job,
                                "n": n,
                                "d": d,
                                "dtype": dtype,
                                "first_ms": first,
                                "second_ms": second,
                            }
                            | {"ratio": band.median, "band": band[1:], "verdict": verdict}
                        )
        except builds.BuildError as error:
            print(error, file=sys.stderr)
            return 2
    print(
        f"the second build, over {len(rows)} measurements: {timing.count_verdicts(row['verdict'] for row in rows)}"
    )
    record.write("compare", chosen.output, first=str(chosen.first), second=str(chosen.second), rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
