"""The process of one build (see builds.py): reads questions as lines of JSON, answers likewise."""

from __future__ import annotations

import json
import sys
from typing import Any

from bench_support import timing
from bench_support.competitors import SLAB_ROWS
from bench_support.jobs import JOBS, Call
from bench_support.problems import Problem


def make(job: str, n: int, d: int, dtype: str) -> Call:
    problem = Problem(n, d, dtype)
    call = JOBS[job].make(problem)
    found = JOBS[job].result(call())
    if found is not None:
        problem.check_along(found, summed_rows=SLAB_ROWS)
    return call


def main() -> None:
    import gradhess

    def answer(**content: Any) -> None:
        print(json.dumps(content), flush=True)

    answer(package=gradhess.__file__)
    call: Call | None = None
    for line in sys.stdin:
        question = json.loads(line)
        if "make" in question:
            call = make(**question["make"])
            answer(made=True)
        else:
            assert call is not None
            answer(seconds=timing.seconds_per_call(call, question["spell"]))


if __name__ == "__main__":
    main()
