"""float16 and bfloat16 are widened to float32 on the way, which is exact: the same bits as float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import oracles
import pytest

import gradhess as gh
from gradhess._backends.protocol import MomentState, Rows

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
WIDTHS = [1, 7, 8, 15, 16, 17, 31, 33, 64, 100]


def halves(n: int, d: int, dtype: np.dtype) -> np.ndarray:
    return np.random.default_rng(d).normal(1.0, 2.0, size=(n, d)).astype(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("d", WIDTHS)
def test_moments_are_those_of_float32(ops, d, dtype):
    X = halves(300, d, dtype)
    for centred in (False, True):
        narrow = oracles.accumulate(ops, Rows(X), centred=centred)
        wide = oracles.accumulate(ops, Rows(X.astype(np.float32)), centred=centred)
        oracles.assert_same_bits(narrow, wide)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("layout", ["C", "F", "columns", "rows", "reversed", "padded"])
def test_any_layout(ops, layout, dtype):
    X = halves(90, 21, dtype)
    padded = np.zeros((90, 30), dtype)
    padded[:, 4:25] = X
    view = {
        "C": X,
        "F": np.asfortranarray(X),
        "columns": np.repeat(X, 2, axis=1)[:, ::2],
        "rows": np.repeat(X, 3, axis=0)[::3],
        "reversed": X[::-1].copy()[::-1],
        "padded": padded[:, 4:25],
    }[layout]
    assert isinstance(oracles.accumulate(ops, Rows(view)), MomentState)
    oracles.assert_same_bits(oracles.accumulate(ops, Rows(view)), oracles.accumulate(ops, Rows(X)))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_value_of_sixteen_bits(ops, dtype):
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    values = values[np.isfinite(values.astype(np.float32))]
    X = np.ascontiguousarray(values[: len(values) // 32 * 32].reshape(-1, 32))
    out = np.empty(X.shape, np.float32)
    ops.materialize(Rows(X), out)
    np.testing.assert_array_equal(out, X.astype(np.float32))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_whole_interface(dtype):
    X = halves(500, 6, dtype)
    wide = X.astype(np.float32)
    y = (wide[:, 0] > 0).astype(dtype)
    coef = np.linspace(-1, 1, 6).astype(dtype)
    g = gh.glm_gradients(X, y, coef, "logistic", intercept=0.5)
    h = gh.glm_gradients(wide, y.astype(np.float32), coef.astype(np.float32), "logistic", intercept=0.5)
    assert g.dtype == np.float32
    for name in ("gram", "covariance", "diagonal", "norms", "sum", "loss", "hessian", "toarray"):
        np.testing.assert_array_equal(getattr(g, name)(), getattr(h, name)(), err_msg=name)
    np.testing.assert_array_equal(g.gram_matvec(np.ones(7)), h.gram_matvec(np.ones(7)))
    np.testing.assert_array_equal(gh.weighted_gram(X), gh.weighted_gram(wide))
    cov = gh.StreamingCovariance().partial_fit(X[:77]).partial_fit(X[77:])
    np.testing.assert_array_equal(cov.covariance_, gh.StreamingCovariance().fit(wide).covariance_)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", ["cpu", "numba", "reference"])
def test_sums_over_groups(backend, dtype):
    X = halves(300, 21, dtype)
    batches = np.random.default_rng(1).integers(0, 300, (40, 10))
    with gh.use_backend(backend):
        found = gh.grouped(X, batches).toarray()
        np.testing.assert_array_equal(found, gh.grouped(X.astype(np.float32), batches).toarray())
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", ["cpu", "numba", "reference"])
@pytest.mark.parametrize("shape", [(300, 7), (40, 5, 7)], ids=["rows", "sequences"])
def test_layers(backend, dtype, shape):
    A, errors = halves(shape[0], int(np.prod(shape[1:])), dtype).reshape(shape), halves(4, 3, dtype)
    errors = np.broadcast_to(errors[0], (*shape[:-1], 3)).copy()
    narrow = gh.layer_gradients(A, errors, bias=True)
    wide = gh.layer_gradients(A.astype(np.float32), errors.astype(np.float32), bias=True)
    assert narrow.dtype == wide.dtype == np.float32
    with gh.use_backend(backend):
        np.testing.assert_array_equal(narrow.gram(), wide.gram())
        np.testing.assert_array_equal(narrow.norms(), wide.norms())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_values_that_are_not_finite(dtype):
    X = halves(40, 5, dtype)
    X[13, 2] = np.inf
    with pytest.raises(gh.errors.NonFiniteError, match=r"X\[13, 2\] is inf"):
        gh.weighted_gram(X)
    cov = gh.StreamingCovariance(on_nonfinite="skip").partial_fit(X)
    assert cov.n_samples_seen_ == 39


def test_other_narrow_types_are_refused():
    X = halves(4, 3, HALVES[0]).astype(ml_dtypes.float8_e4m3fn)
    with pytest.raises(gh.errors.InputTypeError, match="float8_e4m3fn"):
        gh.weighted_gram(X)
