"""Row-wise operations, totals and the helpers around them, on every backend."""

from __future__ import annotations

import concurrent.futures
import threading
from dataclasses import replace

import numpy as np
import oracles
import pytest

from gradhess._backends import custom_loss
from gradhess._backends.protocol import LossSpec, MomentState, Rows
from gradhess.errors import BackendError, InputError

KINDS = [
    ("dense", None),
    ("gradient", "squared"),
    ("gradient", "logistic"),
    ("gradient", "poisson"),
    ("gradient", "huber"),
    ("gradient", "softmax"),
    ("gradient", "custom"),
    ("hessian", "logistic"),
]


@pytest.fixture(params=KINDS, ids=["-".join(filter(None, kind)) for kind in KINDS])
def rows(request):
    kind, loss = request.param
    return lambda n, d, **options: oracles.make_rows(n, d, kind=kind, loss=loss, **options)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
@pytest.mark.parametrize("unit_column", [False, True])
def test_rows_and_their_products(ops, rows, unit_column, dtype):
    for n, d in ((1, 1), (7, 8), (300, 5), (40, 290)):
        case = rows(n, d, unit_column=unit_column, loss_weight=True, dtype=dtype, mean=1.5)
        oracle = oracles.evaluate(case)
        p, size = case.n_parameters, np.abs(oracle.G)
        u = oracles.unit_roundoff(case.compute_dtype)

        out = np.empty((n, p), case.compute_dtype)
        ops.materialize(case, out)
        oracles.assert_close(out, oracle.G, oracle.error, "row")

        # A backend may take the rounded row, or the factor in float64: 3 u is in the oracle's error either way.
        norms = np.sqrt((oracle.G**2).sum(axis=1))
        error = np.sqrt((oracle.error**2).sum(axis=1)) + (p + 4) * oracles.U64 * norms
        oracles.assert_close(ops.norms(case, threads=2), norms, error, "norm")

        rng = np.random.default_rng(1)
        for m in (1, 3):
            v, w = rng.standard_normal((p, m)), rng.standard_normal((n, m))
            error = oracle.error @ np.abs(v) + (p + 4) * oracles.U64 * (size @ np.abs(v))
            oracles.assert_close(ops.matvec(case, v, threads=2), oracle.G @ v, error, "G v")
            error = (oracle.error + (n + 4) * oracles.U64 * size).T @ np.abs(w) + u * (size.T @ np.abs(w))
            oracles.assert_close(ops.rmatvec(case, w, threads=2), oracle.G.T @ w, error, "G' u")
            both = size.T @ (size @ np.abs(v))
            error = (n + p + 8) * oracles.U64 * both + oracle.error.T @ (size @ np.abs(v))
            error += size.T @ (oracle.error @ np.abs(v)) + 2 * u * both
            oracles.assert_close(
                ops.gram_matvec(case, v, threads=2), oracle.G.T @ (oracle.G @ v), error, "G' G v"
            )


def test_products_of_many_rows(ops, rows):
    """More rows than one group or block holds."""
    case = rows(9001, 3, unit_column=True)
    oracle = oracles.evaluate(case)
    v, w = np.ones((case.n_parameters, 1)), np.linspace(-1, 1, 9001)[:, None]
    size = np.abs(oracle.G)
    error = (oracle.error + 9 * oracles.U64 * size).sum(axis=1)[:, None]
    oracles.assert_close(ops.matvec(case, v, threads=3), oracle.G @ v, error, "G v")
    error = (oracle.error + 9001 * oracles.U64 * size).T @ np.abs(w)
    oracles.assert_close(ops.rmatvec(case, w, threads=3), oracle.G.T @ w, error, "G' u")


def test_products_of_no_rows(ops, rows):
    case = rows(3, 4).slice(0, 0)
    p = case.n_parameters
    assert ops.norms(case, threads=2).shape == (0,)
    assert ops.matvec(case, np.ones((p, 2)), threads=2).shape == (0, 2)
    np.testing.assert_array_equal(ops.rmatvec(case, np.ones((0, 2)), threads=2), np.zeros((p, 2)))
    assert ops.first_nonfinite(case, None, threads=2) == -1


@pytest.mark.parametrize("order", ["C", "F"])
def test_wide_rows(ops, order):
    X = np.asarray(np.random.default_rng(2).standard_normal((30, 40_001)), np.float32, order=order)
    case, G = Rows(X), X.astype(np.float64)
    v, w = np.ones((40_001, 1)), np.ones((30, 1))
    u = 8 * oracles.U64
    oracles.assert_close(ops.norms(case, threads=2), np.linalg.norm(G, axis=1), 40_001 * u, "norm")
    error = 40_001 * u * np.abs(G).sum(axis=1)[:, None]
    oracles.assert_close(ops.matvec(case, v, threads=2), G @ v, error, "G v")
    oracles.assert_close(ops.rmatvec(case, w, threads=2), G.T @ w, 30 * u * np.abs(G).T @ w, "G' u")


# ---- rows that are not finite ----


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_the_first_row_that_is_not_finite(ops, rows, dtype):
    case = rows(5000, 4, unit_column=True)
    X = case.X.astype(dtype)
    assert ops.first_nonfinite(replace(case, X=X), None, threads=2) == -1
    for bad in ([4999], [300, 4500], [0]):
        for value in (np.nan, np.inf):
            broken = X.copy()
            broken[bad, 3] = value
            assert ops.first_nonfinite(replace(case, X=broken), None, threads=2) == bad[0]
    weights = np.ones(5000)
    weights[[77, 99]] = np.nan
    assert ops.first_nonfinite(replace(case, X=X), weights, threads=2) == 77


# ---- totals ----


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("d", [3, 260])
def test_merge_is_one_pass_over_both(ops, d, centred, structure, dtype):
    rows = oracles.make_rows(500, d, mean=100.0)
    left = oracles.accumulate(ops, rows.slice(0, 200), centred=centred, structure=structure, dtype=dtype)
    right = oracles.accumulate(ops, rows.slice(200, 500), centred=centred, structure=structure, dtype=dtype)
    before = right.copy()
    ops.merge(left, right)
    oracles.assert_same_bits(right, before)
    expected = oracles.moments(rows, None, centred=centred, structure=structure, accumulator=dtype, blocks=2)
    oracles.assert_moments(left, expected, 500)


def test_merge_with_nothing(ops):
    some = oracles.accumulate(ops, oracles.make_rows(300, 4))
    nothing = MomentState.empty(4, "full", centred=True)
    merged = some.copy()
    ops.merge(merged, nothing)
    oracles.assert_same_bits(merged, some)
    ops.merge(nothing, some)
    oracles.assert_same_bits(nothing, some)
    ops.merge(nothing, MomentState.empty(4, "full", centred=True))
    empty = MomentState.empty(4, "full", centred=True)
    ops.merge(empty, MomentState.empty(4, "full", centred=True))
    oracles.assert_same_bits(empty, MomentState.empty(4, "full", centred=True))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "p", [1, 2, 7, 8, 15, 16, 17, 33, 64, 65, 127, 128, 129, 255, 256, 257, 300, 391, 603]
)
@pytest.mark.parametrize("scale", [1.0, 0.25, 0.1])
def test_symmetrize(ops, p, dtype, scale, rng):
    lower = rng.standard_normal((p, p)).astype(dtype)  # what is above the diagonal must not matter
    lower[np.triu_indices(p, 1)] = np.nan
    original = lower.copy()
    scaled = (np.tril(np.nan_to_num(lower)).astype(np.float64) * scale).astype(dtype)
    expected = scaled + np.tril(scaled, -1).T
    # A number that is no power of two may be rounded to the matrix's type, and so is the product.
    bound = 0.0 if scale in (1.0, 0.25) else 2 * np.finfo(dtype).eps
    out = np.full((p, p), np.nan, dtype)
    ops.symmetrize(lower, scale, out, threads=2)
    np.testing.assert_allclose(out, expected, rtol=bound)
    np.testing.assert_array_equal(out, out.T)
    np.testing.assert_array_equal(lower, original)
    ops.symmetrize(lower, scale, lower, threads=2)
    np.testing.assert_array_equal(lower, out)


# ---- callers at the same time ----


def test_concurrent_callers(ops):
    rows = [oracles.make_rows(5000, d, kind="gradient", loss="logistic") for d in (5, 300)]
    expected = [oracles.accumulate(ops, case) for case in rows]
    barrier = threading.Barrier(4)

    def work(index):
        barrier.wait()
        return oracles.accumulate(ops, rows[index % 2], threads=3)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for index, state in enumerate(pool.map(work, range(4))):
            oracles.assert_same_bits(state, expected[index % 2])


# ---- custom losses ----


def test_a_custom_loss_is_compiled_once():
    functions = (lambda e, y: 0.5 * (e - y) ** 2, lambda e, y: e - y, lambda e, y: 1.0)
    spec = LossSpec("custom", functions=functions)
    value, first, second = custom_loss.scalar_functions(spec)
    assert (value(3.0, 1.0), first(3.0, 1.0), second(3.0, 1.0)) == (2.0, 2.0, 1.0)
    assert custom_loss.scalar_functions(spec)[1] is first
    addresses = custom_loss.vector_cfuncs(spec).addresses
    assert all(addresses)
    assert custom_loss.vector_cfuncs(spec).addresses == addresses


def test_missing_parts_of_a_custom_loss():
    spec = LossSpec("custom", functions=(None, lambda e, y: e - y, None))
    value, _, second = custom_loss.scalar_functions(spec)
    assert value(3.0, 1.0) == 0.0
    with pytest.raises(InputError, match=r"no second derivative; give losses\.custom\(\.\.\., second="):
        second(3.0, 1.0)
    assert custom_loss.vector_cfuncs(spec).addresses[0] == 0
    with pytest.raises(BackendError, match="'squared' has no functions"):
        custom_loss.scalar_functions(LossSpec("squared"))


def returns_text(eta, y):
    return "much"


def takes_one(eta):
    return eta


def unknown_name(eta, y):
    return eta - no_such_name  # noqa: F821 - that is what it is about


def unknown_attribute(eta, y):
    return np.no_such_function(eta)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (returns_text, "must return a number"),
        (takes_one, "too many positional arguments"),
        (unknown_name, "name 'no_such_name' is not defined"),
        (unknown_attribute, "no_such_function"),
    ],
)
def test_what_numba_cannot_compile_is_an_input_error(function, reason):
    spec = LossSpec("custom", functions=(None, function, None))
    for compile_it in (custom_loss.scalar_functions, custom_loss.vector_cfuncs):
        with pytest.raises(InputError, match=reason) as caught:
            compile_it(spec)
        assert f"derivative={function.__name__}" in str(caught.value)
        assert "\n" not in str(caught.value)
