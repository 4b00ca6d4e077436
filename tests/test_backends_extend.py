"""``Backend.extend``: a stream goes on with the bits of its steps; a failure leaves the rows that wait as they were."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gradhess._backends import layout, stepwise
from gradhess._backends.protocol import LossSpec, MomentState, NonFiniteRow, Rows, Waiting

SLAB = layout.SLAB_ROWS
CHUNKS = [
    (SLAB,),
    (3 * SLAB + 5,),
    (1, SLAB - 1, 1),
    (100, 700),
    (SLAB, 1, SLAB),
    (7,) * 40,
    (200, 57, 255, 256, 600),
]
KINDS = {
    "float64": (np.float64, "C"),
    "float32": (np.float32, "C"),
    "float16": (np.float16, "C"),
    "Fortran order": (np.float64, "F"),
    "int8": (np.int8, "C"),
}


def rows_of(kind, n, d, loss, seed=0):
    dtype, order = KINDS[kind]
    rng = np.random.default_rng(seed)
    X = np.asarray(4 * rng.normal(size=(n, d)), dtype, order=order)
    X.flags.writeable = False
    if loss is None:
        return Rows(X)
    # float32 labels and a loss weight, so that every array of the rows is cut
    y = (rng.uniform(size=n) > 0.5).astype(np.float32)
    weight = rng.uniform(0, 2, n)
    return Rows(X, "gradient", True, LossSpec(loss), y, np.ones((1, d)) / d, np.ones(1), weight)


def assert_same(found, expected):
    (state, waiting), (other, other_waiting) = found, expected
    for name, array in state.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name], err_msg=name)
    assert (waiting.n, waiting.weights is None) == (other_waiting.n, other_waiting.weights is None)
    (rows, weights), (other_rows, other_weights) = waiting.as_rows(), other_waiting.as_rows()
    np.testing.assert_array_equal(rows.X, other_rows.X)
    if weights is not None:
        np.testing.assert_array_equal(weights, other_weights)


def empty(rows, structure, centred, dtype=None):
    state = MomentState.empty(rows.n_parameters, structure, centred=centred)
    return state, Waiting.empty(state, dtype or rows.compute_dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(("structure", "centred"), [("full", True), ("diagonal", False)])
@pytest.mark.parametrize("loss", [None, "logistic"])
def test_it_is_its_steps_in_any_chunks(ops, kind, chunks, structure, centred, loss):
    n = sum(chunks)
    rows = rows_of(kind, n, 3, loss)
    weights = np.random.default_rng(1).uniform(0, 2, n)
    edges = list(itertools.accumulate(chunks, initial=0))
    for first_weighted in (0, len(chunks) // 2, len(chunks)):  # from the first, a later, or no chunk on
        fused, steps = empty(rows, structure, centred), empty(rows, structure, centred)
        for chunk, (start, stop) in enumerate(itertools.pairwise(edges)):
            part = rows.slice(start, stop)
            given = weights[start:stop] if chunk >= first_weighted else None
            ops.extend(part, given, *fused, threads=2)
            stepwise.extend(ops, part, given, *steps, threads=2)
            assert_same(fused, steps)
        assert fused[1].n == n % SLAB
        if loss is not None and ops.name == "reference":
            continue  # the predictions of NumPy's BLAS
        whole = empty(rows, structure, centred)
        cut = edges[first_weighted]
        if 0 < cut < n:
            stepwise.extend(ops, rows.slice(0, cut), None, *whole, threads=1)
        given = weights[cut:] if cut < n else None
        ops.extend(rows.slice(cut if cut < n else 0, n), given, *whole, threads=1)
        assert_same(fused, whole)


def test_narrow_rows_go_on_in_the_wider_type(ops):
    rows = rows_of("float32", 1000, 3, "squared")
    fused = empty(rows, "full", True, np.dtype(np.float64))
    whole = empty(rows, "full", True, np.dtype(np.float64))
    for start, stop in itertools.pairwise([0, 10, 256, 600, 1000]):
        ops.extend(rows.slice(start, stop), None, *fused, threads=1)
    formed = np.empty((1000, 4), np.float32)
    ops.materialize(rows, formed)
    ops.extend(Rows(formed.astype(np.float64)), None, *whole, threads=1)
    assert_same(fused, whole)


@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize(
    ("loss", "where"),
    [(None, "X"), (None, "weights"), ("squared", "X"), ("squared", "y"), ("squared", "weights")],
)
@pytest.mark.parametrize("n_waiting", [0, 50])
@pytest.mark.parametrize(
    "row", [0, 3, SLAB - 51, SLAB - 50, 2 * SLAB, 3 * SLAB - 51, 3 * SLAB - 50, 3 * SLAB + 9]
)
def test_the_first_row_that_is_not_finite_and_nothing_that_waits_is_touched(
    ops, kind, loss, n_waiting, row, where
):
    n = 3 * SLAB + 10
    before, rows = rows_of(kind, 50, 3, loss, seed=2), rows_of(kind, n, 3, loss)
    weights = np.ones(n) if where == "weights" else None
    bad = {"X": rows.X.copy(), "y": rows.y, "weights": weights}
    for index in (row, min(row + 20, n - 1), n - 1):  # the first of several
        bad[where][index, ...] = np.inf if index == row else np.nan
    rows = Rows(
        bad["X"], rows.kind, rows.unit_column, rows.loss, rows.y, rows.coef, rows.intercept, rows.loss_weight
    )
    state, waiting = empty(rows, "full", True)
    if n_waiting:
        ops.extend(before, np.linspace(1, 2, 50), state, waiting, threads=1)
    kept = waiting.copy()
    with pytest.raises(NonFiniteRow) as caught:
        ops.extend(rows, weights, state, waiting, threads=2)
    assert caught.value.index == row
    assert_same((state, waiting), (state, kept))
    assert waiting.half == kept.half


def test_rows_without_weights_among_rows_with_them_count_once(ops):
    """In room that has held the weights of other rows, in both halves."""
    rows = rows_of("float64", 1500, 3, None)
    weights = np.random.default_rng(1).uniform(0, 2, 1500)
    mixed, whole = empty(rows, "full", True), empty(rows, "full", True)
    for chunk, (start, stop) in enumerate(itertools.pairwise([0, 300, 700, 1000, 1100, 1300, 1500])):
        if chunk == 4:
            weights[start:stop] = 1.0
        ops.extend(rows.slice(start, stop), None if chunk == 4 else weights[start:stop], *mixed, threads=1)
    ops.extend(rows, weights, *whole, threads=1)
    assert_same(mixed, whole)
