"""Sums of rows and of their squares: in one loop over a slab where rows have no weights, else from packed columns.

Weights of one must not change a bit (``Backend.accumulate``), and they choose the other way.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest

from gradhess._backends import layout
from gradhess._backends.protocol import NonFiniteRow, Rows

KINDS = [("dense", None), ("gradient", "logistic"), ("hessian", "poisson")]


def assert_one_way_is_the_other(ops, rows: Rows, **options) -> None:
    ones = np.ones(rows.n_samples)
    for structure in ("diagonal", "sum"):
        for centred in (False, True):
            settings = dict(structure=structure, centred=centred, **options)
            oracles.assert_same_bits(
                oracles.accumulate(ops, rows, None, **settings),
                oracles.accumulate(ops, rows, ones, **settings),
            )


@pytest.mark.parametrize("kind", KINDS, ids=[kind for kind, _ in KINDS])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_same_bits_in_one_loop_and_from_packed_columns(ops, kind, dtype, order):
    for n, d, unit in (
        (1, 1, False),
        (5, 3, True),
        (300, 7, True),
        (267, 8, False),
        (530, 16, True),
        (270, 37, True),
    ):
        rows = oracles.make_rows(n, d, kind=kind[0], loss=kind[1], dtype=dtype, unit_column=unit, mean=0.7)
        assert_one_way_is_the_other(ops, replace(rows, X=np.asarray(rows.X, order=order)), threads=1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [40, 516, 700])
def test_blocks_on_threads_of_their_own(ops, dtype, d):
    """Up to 512 columns blocks are summed apart; above, the diagonals of their slabs, which are added one by one."""
    n = 2 * layout.BLOCK_ROWS + 700
    rows = oracles.make_rows(n, d, kind="gradient", loss="squared", dtype=dtype, unit_column=True)
    assert_one_way_is_the_other(ops, rows, threads=2)
    for centred in (False, True):
        settings = dict(structure="diagonal", centred=centred)
        expected = oracles.accumulate(ops, rows, threads=1, **settings)
        for threads in (2, 3, 7):
            oracles.assert_same_bits(oracles.accumulate(ops, rows, threads=threads, **settings), expected)
        slab, block = layout.SLAB_ROWS, layout.BLOCK_ROWS
        for cuts in ((slab,), (3 * slab, block + slab), (block, 2 * block)):
            found = oracles.accumulate(ops, rows, threads=2, cuts=cuts, **settings)
            oracles.assert_same_bits(found, expected)


def test_against_float64(ops):
    for n, d, dtype in ((4500, 33, np.float64), (4500, 520, np.float32)):
        rows = oracles.make_rows(n, d, kind="gradient", loss="squared", dtype=dtype)
        oracle = oracles.evaluate(rows)
        found = oracles.accumulate(ops, rows, structure="diagonal", centred=False, threads=2)
        squares = oracle.G**2
        # Rows are squared and summed in float64; an error of a row enters twice.
        error = (2 * np.abs(oracle.G) * oracle.error + oracle.error**2).sum(axis=0)
        error += (n + 2) * oracles.U64 * squares.sum(axis=0)
        oracles.assert_close(found.scatter, squares.sum(axis=0), error, "diagonal")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_bad_row_and_a_sum_that_overflows(ops, dtype):
    """A sum that is not finite has a row to blame, or is formed anew in float64."""
    X = np.full((600, 20), np.finfo(np.float32).max / 4, dtype)
    X[:, 0] = 1
    state = oracles.accumulate(ops, Rows(X), structure="sum", centred=False)
    np.testing.assert_allclose(state.location, X.astype(np.float64).sum(axis=0), rtol=600 * oracles.U64)
    X[577, 19] = np.nan
    for structure in ("sum", "diagonal"):
        with pytest.raises(NonFiniteRow) as caught:
            oracles.accumulate(ops, Rows(X), structure=structure, centred=False)
        assert caught.value.index == 577
