"""Moments on every backend against two passes in long double."""

from __future__ import annotations

import functools

import numpy as np
import oracles
import pytest

from gradhess._backends.protocol import BLOCK_ROWS, MomentState, NonFiniteRow, Rows
from gradhess.errors import InputError

LANE_EDGES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 33, 47, 48, 49, 63, 64, 65]
WIDE = [127, 129, 255, 256, 257, 300]
SCALAR_LOSSES = ["squared", "logistic", "poisson", "huber", "custom"]
KINDS = [
    ("dense", None),
    *[(kind, loss) for kind in ("gradient", "hessian") for loss in SCALAR_LOSSES],
    ("gradient", "softmax"),  # its Hessian is not a sum of x x^T
]


@functools.cache
def dense_case(n, d, dtype):
    rows = oracles.make_rows(n, d, dtype=dtype)
    return rows, oracles.moments(rows, None, centred=True)


def check(ops, rows, weights=None, *, centred=True, structure="full", dtype=np.float64):
    expected = oracles.moments(rows, weights, centred=centred, structure=structure, accumulator=dtype)
    state = oracles.accumulate(ops, rows, weights, centred=centred, structure=structure, dtype=dtype)
    oracles.assert_moments(state, expected, rows.n_samples)
    return state


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", LANE_EDGES + WIDE)
def test_widths_around_lanes_and_tiles(ops, d, dtype):
    for n in (2, 255, 257) if d <= 65 else (130,):
        rows, expected = dense_case(n, d, dtype)
        oracles.assert_moments(oracles.accumulate(ops, rows), expected, n)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 511, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("d", [9, 14])
def test_lengths_around_slabs_and_blocks(ops, d, n, dtype):
    rows, expected = dense_case(n, d, dtype)
    oracles.assert_moments(oracles.accumulate(ops, rows), expected, n)


FEW = [*range(1, 18), 20, 21, 24, 25, 31, 32, 33, 39, 40, 41, 63, 64, 65]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["dense", "gradient"])
@pytest.mark.parametrize("d", FEW)
def test_few_columns(ops, d, kind, dtype):
    """Around the tiles, lanes and halves of the kernels that sum by lanes and by rotation, and around their ends."""
    n = 779  # whole slabs, and one that ends inside a line
    loss = "logistic" if kind == "gradient" else None
    weights = np.random.default_rng(7).uniform(0, 2, n)
    for unit_column in (False, True):
        rows = oracles.make_rows(n, d, kind=kind, loss=loss, dtype=dtype, unit_column=unit_column)
        check(ops, rows)
        check(ops, rows, weights, centred=False)
        check(ops, rows, weights)


def test_several_blocks_above_the_block_buffer(ops):
    rows = oracles.make_rows(4400, 12, kind="gradient", loss="softmax", outputs=22)
    assert rows.n_parameters > 256
    thin = Rows(rows.X[:, :2], "gradient", False, rows.loss, rows.y, np.ascontiguousarray(rows.coef[:, :2]))
    check(ops, thin)
    # One block and a bit, by columns of which the sums are known: the oracle of all p^2 entries would take too long.
    state = oracles.accumulate(ops, rows)
    some = np.arange(0, rows.n_parameters, 29)
    expected = subset_of_softmax(rows, some)
    actual = state.scatter[np.ix_(some, some)]
    # n u times the largest diagonal entry covers any order of summation.
    bound = 4 * len(rows.X) * oracles.U64 * np.diag(expected).max()
    oracles.assert_close(actual, np.tril(expected), float(bound), "scatter")


def subset_of_softmax(rows, some):
    return scatter_of(oracles.evaluate(rows).G[:, some])


def scatter_of(G):
    Z = G - G.mean(axis=0)
    return Z.T @ Z


@pytest.mark.parametrize(("d", "dtype"), [(600, np.float64), (1030, np.float32)])
@pytest.mark.parametrize("n", [2, 97, 222, 513, 1303])
def test_several_slabs_above_the_block_buffer(ops, n, d, dtype):
    """Slabs that end within, before and after the rows during which the kernels ask for memory."""
    rows = oracles.make_rows(n, d, dtype=dtype)
    state = oracles.accumulate(ops, rows)
    some = np.arange(0, d, 37)
    expected = scatter_of(rows.X[:, some].astype(np.longdouble))
    bound = 4 * n * np.finfo(dtype).eps * np.diag(expected).max()
    oracles.assert_close(state.scatter[np.ix_(some, some)], np.tril(expected), float(bound), "scatter")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("unit_column", "weighted"), [(False, False), (True, False), (False, True), (True, True)]
)
@pytest.mark.parametrize("source", KINDS, ids=lambda source: "-".join(filter(None, source)))
def test_every_kind_of_rows(ops, source, unit_column, weighted, dtype):
    kind, loss = source
    options = dict(unit_column=unit_column, loss_weight=weighted, dtype=dtype)
    rows = oracles.make_rows(600, 5, kind=kind, loss=loss, **options)
    weights = np.random.default_rng(5).uniform(0, 3, 600) if weighted else None
    for structure in ("full", "diagonal", "sum"):
        for centred in (True, False):
            check(ops, rows, weights, centred=centred, structure=structure)


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@pytest.mark.parametrize("kind", ["dense", "gradient"])
def test_float32_accumulator(ops, kind, structure):
    for d in (20, 270):
        for dtype in (np.float32, np.float64):
            rows = oracles.make_rows(
                300, d, kind=kind, loss="logistic" if kind == "gradient" else None, dtype=dtype
            )
            state = check(ops, rows, structure=structure, dtype=np.float32)
            assert structure == "sum" or state.scatter.dtype == np.float32


@pytest.mark.parametrize("structure", ["diagonal", "sum"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_diagonals_wider_than_a_slab_may_be(ops, structure, order):
    """Slabs of fewer rows (layout.slab_rows), and no workspace of whole slabs."""
    n, d = 70, 9001
    X = np.asarray(np.random.default_rng(8).normal(2.0, 1.0, (n, d)).astype(np.float32), order=order)
    for rows in (Rows(X), Rows(X[:, :3001], unit_column=True)):
        state = oracles.accumulate(ops, rows, structure=structure)
        assert state.slab_rows < 256
        G = oracles.evaluate(rows).G
        u = oracles.unit_roundoff(np.float32)
        # Here the shift is the mean of very few rows, so z is within twice the range of a column.
        reach = 2 * np.ptp(G, axis=0)
        oracles.assert_close(
            state.location, G.mean(axis=0), 2 * u * (reach + u * np.abs(G).max()), "location"
        )
        if structure == "diagonal":
            scatter = ((G - G.mean(axis=0)) ** 2).sum(axis=0)
            oracles.assert_close(state.scatter, scatter, 6 * u * n * reach**2, "scatter")


# ---- data of other types and layouts ----


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "float16"]
)
@pytest.mark.parametrize("kind", ["dense", "gradient"])
def test_data_types(ops, kind, dtype):
    rows = oracles.make_rows(300, 6, kind=kind, loss="squared" if kind == "gradient" else None)
    X = np.abs(7 * rows.X) if np.dtype(dtype).kind == "u" else 7 * rows.X
    X = X > 0 if dtype == "bool" else X.astype(dtype)
    rows = Rows(X, kind, False, rows.loss, rows.y, rows.coef)
    state = check(ops, rows)
    if dtype == "float16":
        widened = Rows(X.astype(np.float32), kind, False, rows.loss, rows.y, rows.coef)
        oracles.assert_same_bits(state, oracles.accumulate(ops, widened))


def misaligned(X):
    memory = np.empty(X.nbytes + 1, np.uint8)
    view = memory[1:].view()[: X.nbytes]
    out = np.ndarray(X.shape, X.dtype, buffer=view.data)
    out[...] = X
    assert not out.flags.aligned
    return out


def frozen(X):
    out = X.copy()
    out.flags.writeable = False
    return out


def strided(X):
    out = np.zeros((2 * X.shape[0], 3 * X.shape[1]), X.dtype)[::2, 1::3]
    out[...] = X
    return out


def columns_of_wider(X):
    out = np.zeros((X.shape[0], X.shape[1] + 5), X.dtype)[:, 2:-3]
    out[...] = X
    return out


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": strided,
    "columns of a wider array": columns_of_wider,
    "rows reversed": lambda X: X[::-1].copy()[::-1],
    "columns reversed": lambda X: X[:, ::-1].copy()[:, ::-1],
    "read-only": frozen,
    "misaligned": misaligned,
    "rows repeated": lambda X: np.broadcast_to(X[0], X.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("shape", [(600, 9), (270, 300)])
def test_memory_layouts_have_the_same_bits(ops, layout, dtype, shape):
    plain = oracles.make_rows(*shape, kind="gradient", loss="logistic", unit_column=True)
    X = LAYOUTS[layout]((5 * plain.X).astype(dtype))
    before = X.copy()

    def state_of(data):
        rows = Rows(data, "gradient", True, plain.loss, plain.y, plain.coef, plain.intercept)
        return oracles.accumulate(ops, rows)

    oracles.assert_same_bits(state_of(X), state_of(np.ascontiguousarray(X)))
    np.testing.assert_array_equal(X, before)


# ---- stability ----


@pytest.mark.parametrize(("dtype", "ratio"), [(np.float64, 1e6), (np.float32, 1e3)])
@pytest.mark.parametrize("structure", ["full", "diagonal"])
def test_means_far_from_zero(ops, dtype, ratio, structure):
    for n, d in ((9000, 4), (300, 260)):
        rows = oracles.make_rows(n, d, dtype=dtype, mean=ratio)
        state = check(ops, rows, structure=structure)
        variance = np.diag(state.scatter) if structure == "full" else state.scatter
        assert (variance > 0).all()


def test_means_that_drift(ops):
    """The shift is renewed in every block, so a trend costs no digits beyond those of its own scatter."""
    rows = oracles.make_rows(9000, 3)
    check(ops, Rows(rows.X + np.linspace(0, 1e5, 9000)[:, None]))


def test_weights_of_any_sign_where_not_centred(ops):
    rows = oracles.make_rows(5000, 6)
    weights = np.random.default_rng(3).standard_normal(5000)
    check(ops, rows, weights, centred=False)


def test_no_division_by_a_weight_of_zero(ops):
    for d in (4, 260):
        rows = oracles.make_rows(300, d)
        state = oracles.accumulate(ops, rows, np.zeros(300))
        assert not state.scatter.any()
        assert np.isfinite(state.location).all()


def test_a_first_slab_without_weight(ops):
    rows = oracles.make_rows(5000, 4, mean=3.0)
    weights = np.ones(5000)
    weights[:256] = 0
    check(ops, rows, weights)
    weights[:4096] = 0
    check(ops, rows, weights)


# ---- the open block ----


def test_no_rows_change_nothing(ops):
    for kind, loss in (("dense", None), ("gradient", "logistic"), ("gradient", "softmax")):
        rows = oracles.make_rows(256, 3, kind=kind, loss=loss)
        state = MomentState.empty(rows.n_parameters, "full", centred=True)
        ops.accumulate(rows, None, state, threads=2)
        before = state.copy()
        ops.accumulate(rows.slice(0, 0), None, state, threads=2)
        oracles.assert_same_bits(state, before)


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@pytest.mark.parametrize("d", [3, 260])
def test_closing_twice_is_closing_once(ops, d, structure):
    rows = oracles.make_rows(300, d)
    state = MomentState.empty(d, structure, centred=True)
    ops.close_block(state)
    oracles.assert_same_bits(state, MomentState.empty(d, structure, centred=True))
    ops.accumulate(rows, None, state, threads=1)
    assert state.counts[BLOCK_ROWS] == 300
    ops.close_block(state)
    once = state.copy()
    ops.close_block(state)
    oracles.assert_same_bits(state, once)


# ---- rows that are not finite ----


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@pytest.mark.parametrize("d", [3, 260])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_bad_row_is_named(ops, value, d, structure):
    rows = oracles.make_rows(600, d, kind="gradient", loss="logistic", unit_column=True)
    for bad in ([0], [255, 300], [256], [599, 598]):
        X = rows.X.copy()
        X[bad, d - 1] = value
        for dtype in (np.float64, np.float32):
            for broken in (Rows(X.astype(dtype)), Rows(X.astype(dtype), "gradient", True, *terms_of(rows))):
                with pytest.raises(NonFiniteRow) as caught:
                    oracles.accumulate(ops, broken, structure=structure)
                assert caught.value.index == min(bad)


def terms_of(rows):
    return rows.loss, rows.y, rows.coef, rows.intercept


def test_a_bad_row_in_a_late_block_is_named_before_later_ones(ops):
    rows = oracles.make_rows(20000, 2)
    rows.X[[9100, 17000]] = np.nan
    with pytest.raises(NonFiniteRow) as caught:
        oracles.accumulate(ops, rows)
    assert caught.value.index == 9100


def test_weights_that_are_not_finite_are_named(ops):
    rows = oracles.make_rows(600, 3)
    weights = np.ones(600)
    weights[310] = np.inf
    with pytest.raises(NonFiniteRow) as caught:
        oracles.accumulate(ops, rows, weights)
    assert caught.value.index == 310


def test_a_gradient_that_overflows_is_named(ops):
    rows = oracles.make_rows(300, 2, kind="gradient", loss="poisson")
    rows.X[77] = 800 / rows.coef[0]
    with pytest.raises(NonFiniteRow) as caught:
        oracles.accumulate(ops, rows)
    assert caught.value.index == 77
    narrow = oracles.make_rows(300, 2, kind="gradient", loss="squared", dtype=np.float32)
    narrow.y[78] = 1e39  # finite in float64, where the factor is computed; not in float32
    with pytest.raises(NonFiniteRow) as caught:
        oracles.accumulate(ops, narrow)
    assert caught.value.index == 78


def test_finite_rows_may_have_sums_that_are_not(ops):
    """An overflow of the result is no fault of any row; the result says so itself."""
    rows = Rows(np.full((300, 2), 1e200))
    state = oracles.accumulate(ops, rows, centred=False)
    assert np.isinf(state.scatter[0, 0])


def test_a_custom_loss_without_second_derivative_says_so(ops):
    rows = oracles.make_rows(10, 2, kind="hessian", loss="custom")
    spec = oracles.LossSpec("custom", functions=(None, oracles.log_cosh_first, None))
    rows = Rows(rows.X, "hessian", False, spec, rows.y, rows.coef)
    with pytest.raises(InputError, match="has no second derivative"):
        oracles.accumulate(ops, rows)


def test_a_custom_loss_without_value_has_loss_zero(ops):
    rows = oracles.make_rows(10, 2, kind="gradient", loss="custom")
    spec = oracles.LossSpec("custom", functions=(None, oracles.log_cosh_first, None))
    state = oracles.accumulate(ops, Rows(rows.X, "gradient", False, spec, rows.y, rows.coef))
    whole = oracles.accumulate(ops, rows)
    np.testing.assert_array_equal(state.scatter, whole.scatter)
    assert state.scalars[2] == 0
