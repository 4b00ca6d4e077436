"""``weighted_gram``: weights of any sign, accumulation into ``out``, and what happens to ``out`` on failure."""

from __future__ import annotations

import numpy as np
import pytest

import gradhess as gh
from gradhess._gradients import gram

WIDE = gram.TEMPORARY_MAX_COLUMNS + 3


def rounding(X, weights=None):
    """c eps sum |w x_i x_j|."""
    A = np.abs(X)
    return 16 * np.finfo(X.dtype).eps * (A.T @ (A if weights is None else np.abs(weights)[:, None] * A))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (255, 3), (257, 17), (5000, 40), (300, 300)])
def test_matches_numpy(backend, shape, dtype):
    rng = np.random.default_rng(1)
    X = rng.normal(size=shape).astype(dtype)
    weights = rng.normal(size=shape[0])
    exact = X.astype(np.float64)
    assert (np.abs(gh.weighted_gram(X) - exact.T @ exact) <= rounding(X)).all()
    found = gh.weighted_gram(X, weights)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, found.T)
    assert (np.abs(found - exact.T @ (weights[:, None] * exact)) <= rounding(X, weights)).all()


def test_unit_weights_change_no_bits(backend):
    X = np.random.default_rng(2).normal(size=(1000, 7))
    np.testing.assert_array_equal(gh.weighted_gram(X, np.ones(1000)), gh.weighted_gram(X))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("columns", [6, WIDE])
def test_out_accumulates(backend, columns, order):
    rng = np.random.default_rng(3)
    X, weights = rng.normal(size=(300, columns)), rng.normal(size=300)
    start = rng.normal(size=(columns, columns))
    start = np.asarray(start + start.T, order=order)
    out = start.copy(order="K")
    assert gh.weighted_gram(X, weights, out=out) is out
    expected = start + X.T @ (weights[:, None] * X)
    assert (np.abs(out - expected) <= rounding(X, weights) + 4 * np.finfo(float).eps * np.abs(start)).all()
    np.testing.assert_array_equal(out, out.T)


def test_out_of_float32_takes_float32_data(backend):
    X = np.random.default_rng(4).normal(size=(100, 5)).astype(np.float32)
    out = np.zeros((5, 5), np.float32)
    gh.weighted_gram(X, out=out)
    assert (np.abs(out - X.T.astype(np.float64) @ X) <= rounding(X)).all()
    with pytest.raises(gh.errors.InputTypeError, match="out"):
        gh.weighted_gram(X.astype(np.float64), out=out)


@pytest.mark.parametrize("columns", [4, WIDE])
@pytest.mark.parametrize("bad", ["X", "weights"])
def test_out_is_untouched_by_a_failure(backend, columns, bad):
    rng = np.random.default_rng(5)
    X, weights = rng.normal(size=(290, columns)), rng.normal(size=290)
    (X[270] if bad == "X" else weights[270:271])[...] = np.nan
    out = np.eye(columns)
    with pytest.raises(gh.errors.NonFiniteError, match=rf"{bad}\[270") as caught:
        gh.weighted_gram(X, weights, out=out)
    assert caught.value.row == 270
    np.testing.assert_array_equal(out, np.eye(columns))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ([[0.0]], "memory can be written to, not list"),
        (np.zeros((3, 3), int), "float64 or float32"),
        (np.zeros((2, 3)), r"\(3, 3\)"),
        (np.zeros((6, 6))[::2, ::2], "contiguous"),
        (np.frombuffer(bytes(72)).reshape(3, 3), "read-only"),
    ],
)
def test_an_out_that_cannot_be_added_to(out, message):
    with pytest.raises(gh.errors.GradhessError, match=message):
        gh.weighted_gram(np.ones((2, 3)), out=out)


@pytest.mark.parametrize("columns", [3, WIDE])
def test_no_rows_give_zeros_and_leave_out_alone(backend, columns):
    X = np.empty((0, columns))
    np.testing.assert_array_equal(gh.weighted_gram(X), np.zeros((columns, columns)))
    np.testing.assert_array_equal(gh.weighted_gram(X, [], out=np.eye(columns)), np.eye(columns))


def test_weights_need_one_entry_for_each_row():
    with pytest.raises(gh.errors.InputError, match=r"weights has shape \(2,\), but X has shape \(3, 1\)"):
        gh.weighted_gram(np.ones((3, 1)), [1.0, 2.0])
