"""Narrow rows on the Numba backend: jobs of several blocks, groups within a block, and the edges between them."""

from __future__ import annotations

import importlib

import numpy as np
import oracles
import pytest

from gradhess._backends import registry
from gradhess._backends.layout import BLOCK_ROWS, SLAB_ROWS
from gradhess._backends.protocol import NonFiniteRow

N = 33 * BLOCK_ROWS + 700
"""With one thread two blocks are one job or more; the last is not full."""
CASES = {
    "dense": dict(d=3),
    "float16": dict(d=3, dtype=np.float16),
    "logistic": dict(d=2, kind="gradient", loss="logistic", unit_column=True, loss_weight=True),
    "custom": dict(d=2, kind="gradient", loss="custom"),
    "hessian": dict(d=2, kind="hessian", loss="poisson"),
}


@pytest.fixture(params=["long jobs", "short jobs"])
def ops(request, monkeypatch):
    narrow = importlib.import_module("gradhess._backends.numba.narrow")
    if request.param == "short jobs":  # every block is one, however little there is to do
        monkeypatch.setattr(narrow, "TEAM_WORK", 0)
        monkeypatch.setattr(narrow, "JOB_WORK", 0)
    return registry.get("numba")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
def test_jobs_of_several_blocks(ops, case, structure):
    rows = oracles.make_rows(N, **CASES[case])
    whole = oracles.accumulate(ops, rows, structure=structure, threads=1)
    oracles.assert_moments(whole, oracles.moments(rows, None, centred=True, structure=structure), N)
    for threads, cuts in ((2, ()), (3, (SLAB_ROWS,)), (1, (BLOCK_ROWS - SLAB_ROWS, 20 * BLOCK_ROWS))):
        state = oracles.accumulate(ops, rows, structure=structure, threads=threads, cuts=cuts)
        oracles.assert_same_bits(state, whole)


@pytest.mark.parametrize("kind", ["dense", "gradient"])
def test_groups_within_a_block(ops, kind):
    """A block of 200 columns is read in several pieces, and those of another type are converted."""
    loss = None if kind == "dense" else "softmax"
    rows = oracles.make_rows(
        2 * BLOCK_ROWS + 900, 200 if kind == "dense" else 100, kind=kind, loss=loss, outputs=2
    )
    whole = oracles.accumulate(ops, rows, threads=1)
    expected = rows.X.T @ rows.X
    if kind == "dense":
        mean = rows.X.mean(axis=0)
        expected -= rows.n_samples * np.outer(mean, mean)
        found = oracles.accumulate(ops, rows, centred=True)
        ops.close_block(found)
        bound = 2 * rows.n_samples * np.finfo(np.float64).eps * np.abs(rows.X).max() ** 2 * 4
        assert np.abs(np.tril(found.scatter - expected)).max() <= bound
    state = oracles.accumulate(ops, rows, threads=3, cuts=(SLAB_ROWS, BLOCK_ROWS))
    oracles.assert_same_bits(state, whole)


@pytest.mark.parametrize("place", [0, SLAB_ROWS, 5 * BLOCK_ROWS - 1, 5 * BLOCK_ROWS, N - 1])
def test_the_first_row_that_is_not_finite_is_named(ops, place):
    rows = oracles.make_rows(N, 2)
    rows.X[place, 1] = np.nan
    rows.X[N - 1, 0] = np.inf
    for threads in (1, 2):
        with pytest.raises(NonFiniteRow) as caught:
            oracles.accumulate(ops, rows, threads=threads)
        assert caught.value.index == place


@pytest.mark.parametrize(
    "n", [1, 63, 64, 65, 127, 129, 192, 193, 255, SLAB_ROWS, SLAB_ROWS + 1, SLAB_ROWS + 64]
)
@pytest.mark.parametrize("d", [1, 3, 4, 5, 18])
def test_slabs_that_are_not_full(ops, n, d):
    """Of which only the pieces that hold rows are summed."""
    for kind, loss in (("dense", None), ("gradient", "logistic"), ("hessian", "poisson")):
        rows = oracles.make_rows(n, d, kind=kind, loss=loss)
        weights = np.random.default_rng(n).uniform(0.5, 2.0, n)
        for given in (None, weights):
            for structure in ("full", "diagonal", "sum"):
                state = oracles.accumulate(ops, rows, given, structure=structure)
                oracles.assert_moments(
                    state, oracles.moments(rows, given, centred=True, structure=structure), n
                )
