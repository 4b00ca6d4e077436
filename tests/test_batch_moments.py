"""The moments of a batch in one call: the same bits as step by step. The check of results beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest

from gradhess._backends import stepwise
from gradhess._backends.layout import BLOCK_ROWS
from gradhess._backends.protocol import FLOAT32, FLOAT64, NonFiniteRow

CASES = {
    "one row": dict(n=1, d=1),
    "no whole slab": dict(n=100, d=7, kind="gradient", loss="logistic", unit_column=True),
    "two blocks": dict(n=4097, d=33, dtype=np.float32, kind="gradient", loss="squared"),
    "as wide as blocks are summed apart": dict(n=300, d=512),
    "wider": dict(n=300, d=513),
    "hessian": dict(n=700, d=6, kind="hessian", loss="poisson"),
    "nearly a block": dict(n=BLOCK_ROWS - 1, d=3),
    "a block": dict(n=BLOCK_ROWS, d=3, kind="gradient", loss="squared"),
    "wide": dict(n=90, d=300, kind="gradient", loss="squared"),
    "softmax": dict(n=700, d=4, kind="gradient", loss="softmax", loss_weight=True),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_batch_in_one_call(ops, case, structure, centred, scale):
    rows = oracles.make_rows(**CASES[case])
    weights = np.random.default_rng(3).uniform(0, 2, rows.n_samples)
    for given in (None, weights):
        for dtype in {FLOAT64, rows.compute_dtype}:
            options = dict(centred=centred, dtype=dtype, scale=scale, threads=2)
            found = ops.moments(rows, given, structure, **options)
            steps = stepwise.batch_moments(ops, rows, given, structure, **options)
            np.testing.assert_array_equal(found.location, steps.location)
            assert found.loss == steps.loss
            if structure == "sum":
                assert found.scatter is None
                continue
            assert found.scatter.dtype == dtype
            lower = np.tril if structure == "full" and scale is None else np.asarray
            np.testing.assert_array_equal(lower(found.scatter), lower(steps.scatter))
            if structure == "full" and scale is not None:
                np.testing.assert_array_equal(found.scatter, found.scatter.T)


def test_a_batch_without_rows(ops):
    rows = oracles.make_rows(4, 3).slice(0, 0)
    found = ops.moments(rows, None, "full", centred=False, dtype=FLOAT64, scale=1.0, threads=2)
    np.testing.assert_array_equal(found.scatter, np.zeros((3, 3)))
    np.testing.assert_array_equal(found.location, np.zeros(3))


def test_a_batch_with_a_bad_row(ops):
    rows = oracles.make_rows(5000, 3)
    X = rows.X.copy()
    X[4711, 1] = np.nan
    with pytest.raises(NonFiniteRow) as caught:
        ops.moments(replace(rows, X=X), None, "full", centred=True, dtype=FLOAT64, scale=1.0, threads=2)
    assert caught.value.index == 4711


@pytest.mark.parametrize("d", [3, 70, 257])
@pytest.mark.parametrize("structure", ["full", "diagonal"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("n", [0, 5, 4100])
def test_what_memory_held_before(ops, d, structure, centred, n):
    """A result lies in memory that is not cleared first."""
    rows = oracles.make_rows(max(n, 1), d).slice(0, n)
    shape = (d, d) if structure == "full" else (d,)
    for scale in (None, 0.3) if structure == "full" else (None,):
        rubbish = [np.full(shape, np.nan) for _ in range(4)]
        del rubbish
        options = dict(centred=centred, dtype=FLOAT64, scale=scale, threads=2)
        found = ops.moments(rows, None, structure, **options)
        steps = stepwise.batch_moments(ops, rows, None, structure, **options)
        np.testing.assert_array_equal(found.scatter, steps.scatter)


def test_results_are_not_shared(ops):
    rows = oracles.make_rows(40, 3, dtype=np.float32)
    options = dict(centred=False, dtype=FLOAT32, scale=1.0, threads=1)
    first = ops.moments(rows, None, "full", **options)
    kept = first.scatter.copy()
    ops.moments(rows.slice(0, 10), None, "full", **options)
    np.testing.assert_array_equal(first.scatter, kept)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 65_535, 65_536, 200_003])
def test_finite_results(ops, size):
    largest = np.finfo(np.float64).max
    values = np.full(size, largest)  # whose sum is not finite
    assert ops.all_finite(values, threads=2)
    assert ops.all_finite(values[:0], threads=2)
    for place in {0, size // 2, size - 1}:
        for bad in (np.nan, np.inf, -np.inf):
            values[place] = bad
            assert not ops.all_finite(values, threads=2)
        values[place] = -largest
