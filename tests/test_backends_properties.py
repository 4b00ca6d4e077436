"""What holds for any data: symmetry, definiteness, linearity, merging, permutation."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradhess._backends import layout
from gradhess._backends.protocol import NonFiniteRow, Rows

# The backend is the same for all examples of one test, so a fixture per function is right.
few = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
dtypes = st.sampled_from([np.float64, np.float32])
# Not drawn: which kinds a handful of examples happens to hold is no matter of luck.
every_kind = pytest.mark.parametrize(
    "source",
    [("dense", None), ("gradient", "logistic"), ("gradient", "softmax"), ("hessian", "poisson")],
    ids=lambda source: "-".join(filter(None, source)),
)


@st.composite
def problems(draw, source, max_rows=600, max_features=40):
    kind, loss = source
    rows = oracles.make_rows(
        draw(st.integers(1, max_rows)),
        draw(st.integers(1, max_features)),
        kind=kind,
        loss=loss,
        unit_column=draw(st.booleans()),
        dtype=draw(dtypes),
        mean=draw(st.sampled_from([0.0, 1.0, -30.0]) if kind == "dense" else st.just(0.5)),
        seed=draw(st.integers(0, 2**16)),
    )
    weights = (
        np.random.default_rng(rows.n_samples).uniform(0, 2, rows.n_samples) if draw(st.booleans()) else None
    )
    return rows, weights


def full(ops, state):
    out = np.empty_like(state.scatter)
    ops.symmetrize(state.scatter, 1.0, out, threads=2)
    return out


@every_kind
@few
@given(data=st.data())
def test_symmetric_and_positive_semidefinite(ops, source, data):
    rows, weights = data.draw(problems(source))
    expected = oracles.moments(rows, weights, centred=True)
    scatter = full(ops, oracles.accumulate(ops, rows, weights))
    np.testing.assert_array_equal(scatter, scatter.T)
    # By Weyl's inequality an eigenvalue moves by at most the norm of the error; eigvalsh adds its own p u |C|.
    slack = np.linalg.norm(expected.scatter_bound) + len(scatter) * oracles.U64 * np.linalg.norm(scatter)
    assert np.linalg.eigvalsh(scatter).min() >= -2 * slack


@every_kind
@few
@given(data=st.data(), factor=st.sampled_from([0.5, 2.0, 8.0]))
def test_linear_in_the_weights(ops, source, data, factor):
    """Powers of two are exact, so the bits scale with them."""
    rows, weights = data.draw(problems(source))
    weights = np.ones(rows.n_samples) if weights is None else weights
    one = oracles.accumulate(ops, rows, weights, centred=False)
    scaled = oracles.accumulate(ops, rows, factor * weights, centred=False)
    np.testing.assert_array_equal(scaled.scatter, factor * one.scatter)
    np.testing.assert_array_equal(scaled.location, factor * one.location)


@every_kind
@few
@given(data=st.data(), cut=st.floats(0, 1))
def test_parts_add_up_to_the_whole(ops, source, data, cut):
    rows, weights = data.draw(problems(source, max_rows=400))
    n = rows.n_samples
    middle = int(cut * n)
    pieces = [
        oracles.accumulate(ops, rows.slice(a, b), None if weights is None else weights[a:b])
        for a, b in ((0, middle), (middle, n))
    ]
    ops.merge(*pieces)
    oracles.assert_moments(pieces[0], oracles.moments(rows, weights, centred=True, blocks=2), n)


@few
@given(problem=problems(("dense", None)), seed=st.integers(0, 99))
def test_the_order_of_rows_and_columns_matters_only_to_rounding(ops, problem, seed):
    rows, weights = problem
    rng = np.random.default_rng(seed)
    order, columns = rng.permutation(rows.n_samples), rng.permutation(rows.X.shape[1])
    weights = np.ones(rows.n_samples) if weights is None else weights
    shuffled = Rows(rows.X[order][:, columns])
    expected = oracles.moments(Rows(rows.X[:, columns]), weights, centred=True)
    bound = expected.scatter_bound + oracles.moments(shuffled, weights[order], centred=True).scatter_bound
    left = full(ops, oracles.accumulate(ops, Rows(rows.X), weights))[np.ix_(columns, columns)]
    right = full(ops, oracles.accumulate(ops, shuffled, weights[order]))
    oracles.assert_close(right, left, 2 * bound, "scatter")


@pytest.mark.parametrize("structure", ["full", "diagonal", "sum"])
@settings(few, max_examples=25)
@given(
    n=st.integers(1, 13_000),
    d=st.sampled_from([1, 7, 13, 16, 33, 40, 64, 65, 130, 200, 257, 340, 370, 513]),
    threads=st.integers(2, 16),
    centred=st.booleans(),
    dtype=dtypes,
    without_weight=st.none() | st.integers(0, 3000),
    cut=st.integers(0, 40),
    bad=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_way_to_share_the_work(ops, structure, n, d, threads, centred, dtype, without_weight, cut, bad):
    """By blocks, by slabs or together: the same bits, and the first of the rows that are not finite is named."""
    case = {"structure": structure, "centred": centred}
    n = min(n, 2_500_000 // d)
    rows = oracles.make_rows(n, d, kind="gradient", loss="squared", dtype=dtype, seed=d)
    weights = None
    if without_weight is not None:
        weights = np.random.default_rng(n).uniform(0.1, 2, n)
        weights[:without_weight] = 0.0
    if bad is not None:
        places = sorted(int(share * (n - 1)) for share in bad)
        rows.X[places, d // 2] = np.nan
        with pytest.raises(NonFiniteRow) as caught:
            oracles.accumulate(ops, rows, weights, threads=threads, **case)
        assert caught.value.index == places[0]
        return
    at = cut * layout.slab_rows(d, structure)
    cuts = (at,) if 0 < at < n else ()
    expected = oracles.accumulate(ops, rows, weights, threads=1, **case)
    state = oracles.accumulate(ops, rows, weights, threads=threads, cuts=cuts, **case)
    oracles.assert_same_bits(state, expected)


@every_kind
@few
@given(data=st.data())
def test_the_diagonal_structure_is_the_diagonal(ops, source, data):
    rows, weights = data.draw(problems(source))
    bound = np.diag(oracles.moments(rows, weights, centred=True).scatter_bound)
    whole = oracles.accumulate(ops, rows, weights)
    diagonal = oracles.accumulate(ops, rows, weights, structure="diagonal")
    oracles.assert_close(diagonal.scatter, np.diag(whole.scatter), 2 * bound, "diagonal")
    total = oracles.accumulate(ops, rows, weights, structure="sum")
    np.testing.assert_array_equal(total.location, diagonal.location)


@every_kind
@few
@given(data=st.data(), m=st.integers(1, 3))
def test_products_are_adjoint(ops, source, data, m):
    """<u, G v> = <G' u, v>, up to the errors of the rows and of two sums."""
    rows, _ = data.draw(problems(source))
    oracle = oracles.evaluate(rows)
    n, p = oracle.G.shape
    rng = np.random.default_rng(m)
    v, u = rng.standard_normal((p, m)), rng.standard_normal((n, m))
    forward = (u * ops.matvec(rows, v, threads=2)).sum()
    backward = (ops.rmatvec(rows, u, threads=2) * v).sum()
    size = np.abs(u).T @ (np.abs(oracle.G) * (n + p + 8) * oracles.U64 + oracle.error) @ np.abs(v)
    assert abs(forward - backward) <= 4 * float(np.trace(size))
