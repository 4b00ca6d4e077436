"""Losses: derivatives against differences, values against scikit-learn, domains."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

import gradhess as gh
from gradhess import losses
from gradhess._validation import resolve_loss

ETA = np.linspace(-4.3, 4.1, 29)
LABELS = {"squared": 0.7, "logistic": 1.0, "poisson": 3.0, "huber": -0.4}
STEP = 2.0**-17


def central_difference(function, eta, step=STEP):
    """Error: step^2 / 6 times the third derivative, and eps / step times the value; below 1e-8 for these losses."""
    return (function(eta + step) - function(eta - step)) / (2 * step)


@pytest.mark.parametrize("name", LABELS)
def test_derivatives_match_differences(name):
    loss, y = resolve_loss(name), LABELS[name]
    eta = ETA[np.abs(np.abs(ETA - y) - 1.35) > 2 * STEP]  # huber has a corner in its derivative
    np.testing.assert_allclose(
        loss.derivative(eta, y), central_difference(lambda e: loss.value(e, y), eta), rtol=1e-8, atol=1e-8
    )
    np.testing.assert_allclose(
        loss.second_derivative(eta, y),
        central_difference(lambda e: loss.derivative(e, y), eta),
        rtol=1e-8,
        atol=1e-8,
    )


def test_softmax_matches_scikit_learn():
    rng = np.random.default_rng(1)
    eta, y = rng.normal(size=(20, 3)), rng.integers(0, 3, 20)
    probabilities = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
    expected = log_loss(y, probabilities, normalize=False)
    assert losses.softmax.value(eta, y).sum() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("q", range(3))
def test_softmax_derivatives_are_those_of_differences(q):
    rng = np.random.default_rng(1)
    eta, y, direction = rng.normal(size=(20, 3)), rng.integers(0, 3, 20), np.eye(3)[q]
    np.testing.assert_allclose(
        losses.softmax.derivative(eta, y)[:, q],
        central_difference(lambda t: losses.softmax.value(eta + t * direction, y), 0.0),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        losses.softmax.second_derivative(eta, y)[:, :, q],
        central_difference(lambda t: losses.softmax.derivative(eta + t * direction, y), 0.0),
        atol=1e-9,
    )


def test_values_do_not_overflow_in_the_tails():
    assert losses.logistic.value(800.0, 1.0) == 0.0
    assert losses.logistic.value(-800.0, 1.0) == 800.0
    assert losses.softmax.value([[800.0, -800.0]], [1])[0] == 1600.0


def test_huber_is_squared_within_delta_and_linear_beyond():
    loss = losses.huber(0.5)
    assert loss.value(0.3, 0.0) == pytest.approx(0.045, rel=1e-15)
    assert loss.value(2.0, 0.0) == pytest.approx(0.5 * (2.0 - 0.25), rel=1e-15)
    assert loss.derivative(-7.0, 0.0) == -0.5


@pytest.mark.parametrize("delta", [0.0, -1.0, math.nan, math.inf])
def test_huber_refuses_a_delta_that_is_not_positive(delta):
    with pytest.raises(gh.errors.InputError, match="delta"):
        losses.huber(delta)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("logistic", [0, 1, -1], r"y\[2\] is -1.*0 or 1.*\(y \+ 1\) / 2"),
        ("poisson", [0.5, -2.0], r"y\[1\] is -2.*y >= 0"),
        ("softmax", [0, 1, 3], r"y\[2\] is 3.*0, 1, \.\.\., 2"),
        ("softmax", [0.5], r"y\[0\] is 0\.5"),
        ("softmax", [math.nan], r"y\[0\] is nan"),
    ],
)
def test_labels_outside_the_domain_are_named(name, labels, message):
    with pytest.raises(gh.errors.InputError, match=message):
        resolve_loss(name).check_labels(labels, n_outputs=3)


@pytest.mark.parametrize("name", ["squared", "huber", "logistic", "poisson"])
def test_labels_that_are_not_finite_are_left_to_the_pass_over_the_rows(name):
    resolve_loss(name).check_labels([math.nan, math.inf, 1.0])


def test_custom_loss_evaluates_its_functions():
    loss = losses.custom(lambda eta, y: math.tanh(eta - y), value=lambda eta, y: math.log(math.cosh(eta - y)))
    np.testing.assert_allclose(loss.derivative([1.0, 2.0], [1.0, 0.5]), [0.0, math.tanh(1.5)])
    assert loss.has_value
    assert not loss.has_second_derivative
    with pytest.raises(gh.errors.InputError, match="second"):
        loss.second_derivative(0.0, 0.0)


@pytest.mark.parametrize("arguments", [(3,), (None,), (math.sin, 4), (math.sin, None, "f")])
def test_custom_loss_needs_functions(arguments):
    with pytest.raises(gh.errors.InputTypeError, match="must be a function"):
        losses.custom(*arguments)


def test_names_resolve_to_the_default_objects():
    assert resolve_loss("huber") == losses.huber()
    assert resolve_loss(losses.poisson) is losses.poisson
    for unknown in ("hinge", 3, losses.huber):
        with pytest.raises(gh.errors.InputError, match="'squared', 'logistic'"):
            resolve_loss(unknown)
