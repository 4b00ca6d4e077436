"""``G^T G`` of the gradients of one layer, gradhess and its peers in the same run (``bench_support/layers.py``).

GFLOP/s count the entries that differ, a quarter of the full product, whoever computes more. ``of peak`` (in the JSON)
is that over what multiply-adds on registers reach in the same process. ``peak MiB`` is memory beyond the input,
``beside MiB`` (in the JSON) without the result, which everybody needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bench_support import machine
from bench_support.layers import COMPETITORS, DTYPES, SHAPES, LayerProblem, peak
from bench_support.problems import QUICK

ROUNDS = 2 if QUICK else 5


@pytest.fixture(
    scope="module",
    params=[(*shape, dtype) for shape in SHAPES for dtype in DTYPES],
    ids=lambda shape: "{}x{}x{}-{}".format(*shape),
)
def problem(request: pytest.FixtureRequest) -> LayerProblem:
    return LayerProblem(*request.param)


@pytest.mark.parametrize("name", COMPETITORS)
def test_gram_of_a_layer(
    benchmark: Any, record: Callable[..., None], problem: LayerProblem, name: str
) -> None:
    try:
        job = COMPETITORS[name]()
    except ImportError as error:
        pytest.skip(f"{name} is not there: {error}")
    benchmark.group = f"layer {problem}"
    _ = problem.errors  # made now
    gram = benchmark.pedantic(job, args=(problem,), rounds=ROUNDS, warmup_rounds=1)
    problem.check(gram)
    used = peak(name, problem)
    record(name, problem.unique_flop, problem.A.nbytes, used)
    if benchmark.stats is None:
        return
    if used is not None:
        benchmark.extra_info["beside MiB"] = round((used - gram.nbytes) / 2**20, 1)
    limits = machine.limits(problem.dtype)
    if limits is not None:
        rate = problem.unique_flop / benchmark.stats.stats.median * 1e-9
        benchmark.extra_info["of peak"] = round(rate / limits[0], 3)
