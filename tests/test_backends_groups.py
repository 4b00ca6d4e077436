"""Sums of rows in groups, on every backend, instruction set, type and memory order."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import oracles
import pytest

from gradhess._backends import layout
from gradhess._backends.grouped_rows import GroupedRows
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import NonFiniteRow, Rows
from gradhess.errors import InputError

LD = np.longdouble
KINDS = [("dense", None), ("gradient", "squared"), ("gradient", "logistic"), ("gradient", "softmax")]
WIDTHS = [1, 3, 7, 8, 9, 16, 63, 64, 65, 130]
"""On both sides of vectors of 2 to 8 doubles, and of eight of them."""


def make_groups(ops, rows, lengths, rng, *, parts=True, in_order=False):
    """Groups of these lengths, drawn with replacement or consecutive."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    draws = int(offsets[-1])
    return Groups(
        offsets,
        None if in_order else rng.integers(0, rows.n_samples, draws),
        ops.errors(rows, threads=2) if rows.kind == "gradient" else None,
        rng.uniform(-2, 2, draws) if parts else None,
        rng.standard_normal(draws) if parts else None,
        rng.uniform(0.1, 2, len(lengths)) if parts else None,
    )


def expected_sums(rows, groups):
    """Long double sums, and a bound on their errors.

    A draw carries ``|a|`` times the error of its row. The chain of t terms carries ``(t + 8) u64`` times the sum of
    magnitudes, which covers the roundings of the factor, and the result is rounded once. In float32 a chain of
    SHORT_CHAIN draws and their factors carry that many roundings and two more.
    """
    oracle = oracles.evaluate(rows)
    u = oracles.unit_roundoff(rows.compute_dtype)
    x = rows.X.astype(rows.compute_dtype).astype(LD)
    if rows.unit_column:
        x = np.hstack([x, np.ones((len(x), 1), LD)])
    k = oracle.G.shape[1] // x.shape[1]
    plain = np.tile(x, k)
    short = (layout.SHORT_CHAIN + 2) * u if rows.compute_dtype == np.float32 else 0.0
    sums = np.zeros((groups.count, oracle.G.shape[1]), LD)
    bounds = np.zeros(sums.shape)
    for j in range(groups.count):
        index = groups.rows_of(j)
        at = slice(groups.offsets[j], groups.offsets[j + 1])
        a = np.ones(len(index)) if groups.factors is None else groups.factors[at]
        b = np.zeros(len(index)) if groups.shifts is None else groups.shifts[at]
        scale = 1.0 if groups.scale is None else groups.scale[j]
        sums[j] = scale * (a @ oracle.G[index] + b @ plain[index])
        size = np.abs(a) @ np.abs(oracle.G[index]) + np.abs(b) @ np.abs(plain[index])
        bounds[j] = np.abs(a) @ oracle.error[index] + ((len(index) + 8) * oracles.U64 + short) * size
        bounds[j] = abs(scale) * bounds[j] + 2 * u * np.abs(sums[j])
    return sums, bounds


def sums_of(ops, rows, groups, threads=2):
    width = rows.X.shape[1] + int(rows.unit_column)
    out = np.full((groups.count, width * groups.n_outputs), np.nan, rows.compute_dtype)
    ops.group_sums(Rows(rows.X, unit_column=rows.unit_column), groups, out, threads=threads)
    return out


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[1] or kind[0])
def test_sums(ops, kind, dtype, rng):
    for d in WIDTHS:
        rows = oracles.make_rows(
            211, d, kind=kind[0], loss=kind[1], unit_column=d % 2 == 1, dtype=dtype, loss_weight=True
        )
        for lengths in ([0, 1, 5, 0, 24, 25, 300], [2] * 40):
            groups = make_groups(ops, rows, lengths, rng, parts=d != 8)
            expected, bound = expected_sums(rows, groups)
            oracles.assert_close(sums_of(ops, rows, groups), expected, bound, f"d = {d}, sum")


@pytest.mark.parametrize("order", ["F", "strided", "reversed"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_memory_orders(ops, order, dtype, rng):
    rows = oracles.make_rows(150, 21, kind="gradient", loss="poisson", dtype=dtype)
    X = {
        "F": lambda: np.asfortranarray(rows.X),
        "strided": lambda: np.repeat(rows.X, 2, axis=1)[:, ::2],
        "reversed": lambda: np.ascontiguousarray(rows.X[::-1])[::-1],
    }[order]()
    groups = make_groups(ops, rows, [3, 0, 400, 17], rng)
    expected = sums_of(ops, rows, groups)
    np.testing.assert_array_equal(sums_of(ops, replace(rows, X=X), groups), expected)


def test_consecutive_groups(ops, rng):
    rows = oracles.make_rows(900, 12, kind="gradient", loss="squared")
    groups = make_groups(ops, rows, [100] * 9, rng, in_order=True)
    expected, bound = expected_sums(rows, groups)
    oracles.assert_close(sums_of(ops, rows, groups), expected, bound, "sum")
    tail, tail_bound = expected[4:], bound[4:]
    oracles.assert_close(sums_of(ops, rows, groups.slice(4, 9)), tail, tail_bound, "sum of a slice")


def test_any_number_of_threads(ops, rng):
    rows = oracles.make_rows(3000, 33, kind="gradient", loss="logistic", dtype=np.float32)
    groups = make_groups(ops, rows, rng.integers(0, 200, 500), rng)
    expected = sums_of(ops, rows, groups, threads=1)
    for threads in (2, 3, 7):
        assert sums_of(ops, rows, groups, threads=threads).tobytes() == expected.tobytes()


def test_instruction_sets_with_fused_multiply_adds_agree(rng):
    cpu = pytest.importorskip("gradhess._backends.cpu")
    if not {"avx2", "avx512"} <= set(cpu.available_isas()):
        pytest.skip("needs both AVX2 and AVX-512")
    for d, dtype in itertools.product(WIDTHS, (np.float64, np.float32)):
        rows = oracles.make_rows(200, d, dtype=dtype)
        groups = make_groups(cpu.CpuBackend(), rows, [50, 300, 7], rng)
        found = []
        for isa in ("avx2", "avx512"):
            with cpu.use_isa(isa):
                found.append(sums_of(cpu.CpuBackend(), rows, groups).tobytes())
        assert found[0] == found[1]


def test_float32_chains_are_short(ops, rng):
    """Ones and a large number: a single chain in float32 would lose every one of them that comes after it."""
    for d in WIDTHS:
        X = np.ones((1 + 2**12, d), np.float32)
        X[0] = 2**24
        groups = Groups(np.array([0, len(X)]), None, None, None, None, None)
        found = sums_of(ops, Rows(X), groups)
        # At most the ones of the first chain are lost, and the sum is rounded to an even number.
        assert (np.abs(found - (2**24 + 2**12)) <= layout.SHORT_CHAIN).all(), d


def test_a_row_that_is_not_there_is_refused(ops, rng):
    """The caller may have changed the array since it was checked; nothing outside the rows is read."""
    rows = oracles.make_rows(50, 9)
    groups = make_groups(ops, rows, [4, 300, 8], rng)
    assert groups.indices is not None
    for at, row in ((0, 50), (200, -1), (311, 2**62)):
        before = groups.indices[at]
        groups.indices[at] = row
        for X in (rows.X, np.asfortranarray(rows.X)):
            with pytest.raises(InputError, match="row outside the 50 rows"):
                sums_of(ops, replace(rows, X=X), groups)
        groups.indices[at] = before


def test_far_ahead_is_within_the_draws(ops, rng):
    """Rows are asked for before their turn; at the end there are none left to ask for."""
    rows = oracles.make_rows(5, 70)
    for lengths in ([1], [2, 1], [23], [24], [25], [256], [257], [255, 26]):
        groups = make_groups(ops, rows, lengths, rng, parts=False)
        expected, bound = expected_sums(rows, groups)
        oracles.assert_close(sums_of(ops, rows, groups), expected, bound, "sum")


# ---- grouped rows as rows of the other operations ----


@pytest.fixture
def grouped_rows(ops, rng):
    def make(m, d, *, loss="squared", dtype=np.float64, **options):
        rows = oracles.make_rows(500, d, kind="gradient", loss=loss, dtype=dtype, **options)
        groups = make_groups(ops, rows, rng.integers(0, 9, m), rng)
        return GroupedRows(rows.X, kind="structured", unit_column=rows.unit_column, groups=groups)

    return make


@pytest.mark.parametrize("loss", ["squared", "softmax"])
def test_operations_are_those_of_the_dense_sums(ops, grouped_rows, loss, rng):
    rows = grouped_rows(700, 6, loss=loss, unit_column=True)
    p = rows.n_parameters
    G = np.empty((700, p))
    ops.materialize(rows, G)
    assert np.isfinite(G).all()
    dense = Rows(G)
    v, w = rng.standard_normal((p, 2)), rng.standard_normal((700, 2))
    np.testing.assert_array_equal(ops.norms(rows, threads=2), ops.norms(dense, threads=2))
    np.testing.assert_array_equal(ops.matvec(rows, v, threads=2), ops.matvec(dense, v, threads=2))
    bound = 800 * oracles.U64 * (np.abs(G).T @ np.abs(w))
    oracles.assert_close(ops.rmatvec(rows, w, threads=2), G.T @ w, bound, "G' u")
    bound = 800 * oracles.U64 * (np.abs(G).T @ (np.abs(G) @ np.abs(v)))
    oracles.assert_close(ops.gram_matvec(rows, v, threads=2), G.T @ (G @ v), bound, "G' G v")
    weights = rng.uniform(0, 2, 700)
    for structure in ("full", "diagonal", "sum"):
        state = oracles.accumulate(ops, rows, weights, structure=structure)
        oracles.assert_same_bits(state, oracles.accumulate(ops, dense, weights, structure=structure))


def test_many_groups_in_pieces(ops, grouped_rows):
    """More groups than one block of sums holds, cut at slab edges: the same bits."""
    rows = grouped_rows(9000, 3)
    G = np.empty((9000, 3))
    ops.materialize(rows, G)
    expected = oracles.accumulate(ops, Rows(G))
    for cuts in ((), (256,), (layout.BLOCK_ROWS, 8192)):
        oracles.assert_same_bits(oracles.accumulate(ops, rows, cuts=cuts, threads=3), expected)


def test_the_group_that_is_not_finite(ops, grouped_rows):
    rows = grouped_rows(400, 4)
    X = rows.X.copy()
    assert rows.groups.indices is not None
    group = 123
    while not len(rows.groups.rows_of(group)):
        group += 1
    X[rows.groups.rows_of(group)[-1], 2] = np.nan
    first = min(j for j in range(400) if (~np.isfinite(X[rows.groups.rows_of(j)])).any())
    broken = replace(rows, X=X)
    assert ops.first_nonfinite(broken, None, threads=2) == first
    with pytest.raises(NonFiniteRow) as caught:
        oracles.accumulate(ops, broken)
    assert caught.value.index == first


def test_take(ops, grouped_rows, rng):
    rows = grouped_rows(90, 5)
    G = np.empty((90, 5))
    ops.materialize(rows, G)
    keep = rng.uniform(size=90) < 0.5
    taken = rows.take(keep)
    out = np.empty((taken.n_samples, 5))
    ops.materialize(taken, out)
    np.testing.assert_array_equal(out, G[keep])
    part = rows.slice(30, 80).take(keep[30:80])
    out = np.empty((part.n_samples, 5))
    ops.materialize(part, out)
    np.testing.assert_array_equal(out, G[30:80][keep[30:80]])
