"""The vectorised exp and log1p of the C++ losses, in units of the last place, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from gradhess._backends import protocol
from gradhess._backends.protocol import LossSpec, MomentState, Rows

MAX_ULP = 2.0
"""As csrc/cpu/vector_math.hpp says."""


def intercept_gradients(ops, loss: str, eta: np.ndarray, y: float) -> np.ndarray:
    """The derivative of the loss at each eta, read off the gradient of the intercept."""
    n = eta.size
    rows = Rows(
        eta.reshape(n, 1),
        "gradient",
        True,
        LossSpec(loss),
        np.full(n, y),
        np.ones((1, 1)),
        np.zeros(1),
    )
    out = np.empty((n, 2))
    ops.materialize(rows, out)
    return out[:, 1]


def ulp_error(value: np.ndarray, exact: np.ndarray) -> float:
    spacing = np.spacing(np.abs(exact.astype(np.float64)))
    return float(np.max(np.abs(value.astype(np.longdouble) - exact) / spacing))


@pytest.fixture(scope="module")
def arguments() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(-700, 709, 40_000), rng.uniform(-1, 1, 20_000), [0.0, 709.7, -708.0]])


def test_exp_is_within_its_bound(ops, arguments):
    exact = np.exp(arguments.astype(np.longdouble))
    assert ulp_error(intercept_gradients(ops, "poisson", arguments, 0.0), exact) <= MAX_ULP


def test_exp_underflows_gradually_and_then_to_zero(ops):
    small = np.array([-709.0, -740.0, -745.0, -746.0, -1e4])
    exact = np.exp(small.astype(np.longdouble))
    got = intercept_gradients(ops, "poisson", small, 0.0)
    assert np.all(np.abs(got - exact) <= MAX_ULP * np.spacing(0.0))


def test_the_sigmoid_keeps_its_relative_accuracy_in_both_tails(ops, arguments):
    tails = np.clip(arguments, -700, 700)
    for y, sign in ((0.0, 1), (1.0, -1)):
        exact = sign / (1 + np.exp(-sign * tails.astype(np.longdouble)))
        # e^-|m| (2 ulp), the sum, the quotient and the product each add at most one more rounding
        assert ulp_error(intercept_gradients(ops, "logistic", tails, y), exact) <= MAX_ULP + 3


def test_log1p_is_within_its_bound(ops):
    rng = np.random.default_rng(1)
    for eta in np.concatenate([rng.uniform(-40, 0, 300), [0.0]]):
        rows = Rows(
            np.array([[eta]]), "gradient", False, LossSpec("logistic"), np.zeros(1), np.ones((1, 1)), None
        )
        state = MomentState.empty(1, "sum", centred=False)
        ops.accumulate(rows, None, state, threads=1)
        ops.close_block(state)
        exact = np.array([np.log1p(np.exp(np.longdouble(eta)))])
        # the argument e^eta brings its own error of MAX_ULP
        assert ulp_error(state.scalars[[protocol.LOSS]], exact) <= 2 * MAX_ULP


@pytest.mark.parametrize("k", [2, 3, 7, 8, 9, 16, 17, 40])
def test_softmax_at_every_edge_of_a_vector(ops, k):
    """As many classes and rows as fill vectors, and others; eta is what the single feature is multiplied by."""
    rng = np.random.default_rng(k)
    for n in (1, 2, 7, 8, 9, 300):
        x = rng.uniform(-30, 30, n)
        labels = rng.integers(0, k, n)
        coef = rng.standard_normal((k, 1))
        rows = Rows(x[:, None], "gradient", False, LossSpec("softmax"), labels.astype(np.float64), coef, None)
        eta = (x[:, None] * coef[:, 0]).astype(np.longdouble)
        powers = np.exp(eta - eta.max(axis=1, keepdims=True))
        P = powers / powers.sum(axis=1, keepdims=True)
        exact = P.copy()
        others = np.where(np.arange(k) == labels[:, None], 0, P).sum(axis=1)
        exact[np.arange(n), labels] = -others
        # as many roundings as there are classes, in sums of positive terms, those of the terms, and of their arguments
        spread = float((eta.max(axis=1) - eta.min(axis=1)).max())
        bound = (2 * k + 2 * MAX_ULP + 4 + spread) * np.finfo(np.float64).eps
        got = ops.errors(rows, threads=1)
        np.testing.assert_allclose(got.astype(np.longdouble), exact, rtol=bound, atol=0)
        state = MomentState.empty(k, "sum", centred=False)
        ops.accumulate(rows, None, state, threads=1)
        ops.close_block(state)
        own = eta[np.arange(n), labels]
        terms = np.log(powers.sum(axis=1)) + (eta.max(axis=1) - own)
        assert state.scalars[protocol.LOSS] == pytest.approx(float(terms.sum()), rel=bound + n * 2.0**-53)
