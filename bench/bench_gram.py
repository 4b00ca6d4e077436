"""The whole job for the squared loss, gradhess and its peers in the same run. How to read it: README.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bench_support import memory
from bench_support.competitors import BY_NAME
from bench_support.problems import DTYPES, QUICK, SHAPES, Problem

ROUNDS = 2 if QUICK else 5


@pytest.fixture(
    scope="module",
    params=[(n, d, dtype) for n, d in SHAPES for dtype in DTYPES],
    ids=lambda shape: "{}x{}-{}".format(*shape),
)
def problem(request: pytest.FixtureRequest) -> Problem:
    return Problem(*request.param)


@pytest.mark.parametrize("name", BY_NAME)
def test_whole_job(benchmark: Any, record: Callable[..., None], problem: Problem, name: str) -> None:
    competitor = BY_NAME[name]
    if problem.gram_flop > competitor.max_flop:
        pytest.skip(f"{name} is an oracle, too slow to be worth timing at this size")
    try:
        job = competitor.factory()
    except ImportError as error:
        pytest.skip(f"{name} is not there: {error}")

    benchmark.group = f"gram {problem}"
    answer = benchmark.pedantic(job, args=(problem,), rounds=ROUNDS, warmup_rounds=1)
    problem.check(answer, summed_rows=competitor.summed_rows)

    record(name, problem.gram_flop, problem.bytes, memory.peaks(name).get(str(problem)))
