"""What recovery refuses, and with which words."""

from __future__ import annotations

import numpy as np
import pytest
from regressions import off_centre

from gradhess import recovery as rec
from gradhess.errors import InputError, InputTypeError, NonFiniteError


@pytest.fixture
def data(rng):
    return off_centre(rng)


class Broken:
    batch_size, n_params = 5, 3

    def __init__(self, answer):
        self.answer = answer

    def draw_batch(self):
        return 0

    def gradient(self, batch, target_noise):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (np.full(3, np.nan), NonFiniteError, "gradient 0 of the oracle holds NaN"),
        (np.ones(4), InputError, r"shape \(4,\) for gradient 0; oracle.n_params says \(3,\)"),
        (np.ones((1, 3)), InputError, r"shape \(1, 3\)"),
        ("text", InputTypeError, "gradient of the oracle"),
    ],
)
def test_bad_answers(answer, error, message):
    with pytest.raises(error, match=message):
        rec.recover_hessian(Broken(answer), 10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(n_gradients=1), InputError, "at least 2"),
        (dict(n_gradients=11), InputError, "come in pairs"),
        (dict(n_gradients=10.0), InputTypeError, "integer"),
        (dict(), InputError, "n_gradients is missing"),
        (dict(n_gradients=10, method="magic"), InputError, "method is 'magic'"),
        (dict(n_gradients=2, method="difference"), InputError, "at least 4"),
        (dict(n_gradients=10, method="orthogonal"), InputError, "n_gradients=26"),
        (dict(n_gradients=10, noise_variance=0.0), InputError, "noise_variance is 0"),
        (dict(n_gradients=10, noise_variance=-1.0), InputError, "not negative"),
        (dict(n_gradients=10, noise_variance="large"), InputError, "'calibrated'"),
        (dict(n_gradients=10, noise_variance=None), InputTypeError, "a number or 'calibrated'"),
        (
            dict(n_gradients=10, method="calibrated", noise_variance=3.0),
            InputError,
            "calibration needs 25 in all",
        ),
        (dict(n_gradients=10, method="rescaled", noise_variance=0.0), InputError, "there is no noise"),
        (dict(n_gradients=10, rng="a"), InputTypeError, "rng"),
    ],
)
def test_bad_arguments(data, arguments, error, message):
    oracle = rec.LinearRegressionOracle(*data, batch_size=25, rng=0)
    with pytest.raises(error, match=message):
        rec.recover_hessian(oracle, **arguments)


@pytest.mark.parametrize("size", [1e155, 1e200])
@pytest.mark.parametrize("method", ["antithetic", "calibrated", "difference", "fixed_batch", "orthogonal"])
def test_squares_of_gradients_that_overflow(data, method, size):
    X, y, coef = data
    oracle = rec.LinearRegressionOracle(size * X, y, 0 * coef, batch_size=25, rng=0)
    with pytest.raises(InputError, match="overflows float64, though they do not"):
        rec.recover_hessian(oracle, 26 if method == "orthogonal" else 100, method, rng=0)


def test_what_is_not_finite_is_found(data):
    for at, (name, index) in enumerate((("X", (7, 1)), ("y", (3,)), ("coef", (2,)))):
        arrays = [np.array(array, np.float64) for array in data]
        arrays[at][index] = np.nan
        place = ", ".join(map(str, index))
        with pytest.raises(InputError, match=rf"^{name} holds NaN or infinity, first at \[{place}\]$"):
            rec.LinearRegressionOracle(*arrays, batch_size=5)


def test_what_is_no_oracle_and_no_generator(data):
    with pytest.raises(InputTypeError, match="class LinearRegressionOracle; pass an instance"):
        rec.recover_hessian(rec.LinearRegressionOracle, 10)
    oracle = rec.LinearRegressionOracle(*data, batch_size=5)
    with pytest.raises(InputTypeError, match=r"seed or a numpy\.random\.Generator, not RandomState"):
        rec.recover_hessian(oracle, 10, rng=np.random.RandomState(0))


def test_too_much_noise_for_calibration(data):
    oracle = rec.LinearRegressionOracle(*data, batch_size=25, existing_noise=26.0, rng=0)
    with pytest.raises(InputError, match=r"oracle\.existing_noise is 26.*'rescaled'"):
        rec.recover_hessian(oracle, 100, "calibrated")
    est = rec.recover_hessian(oracle, 100, "rescaled")
    assert est.noise_variance == 0
    assert est.existing_noise == 26


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X, y: (X, y > 0), InputTypeError, "y is boolean"),
        (lambda X, y: (X, (y > 0).astype(float)), InputError, "labels of classes"),
        (lambda X, y: (X, np.where(np.arange(len(y)) == 3, np.nan, y)), InputError, "y holds NaN"),
        (lambda X, y: (np.where(X[2, 1] == X, np.inf, X), y), InputError, "X holds NaN"),
        (lambda X, y: (X[:0], y[:0]), InputError, "no rows"),
        (lambda X, y: (X, y[:-1]), InputError, "y has shape"),
        (lambda X, y: (X, np.array(["a"] * len(y))), InputTypeError, "real numbers"),
    ],
)
def test_bad_data(data, change, error, message):
    X, y, coef = data
    with pytest.raises(error, match=message):
        rec.LinearRegressionOracle(*change(X, y), coef, batch_size=10)


def test_other_bad_input(data):
    X, y, coef = data
    with pytest.raises(InputError, match="500 rows to draw without replacement"):
        rec.LinearRegressionOracle(X, y, coef, batch_size=501, replace=False)
    with pytest.raises(InputError, match="reduction is 'average'"):
        rec.LinearRegressionOracle(X, y, coef, batch_size=5, reduction="average")
    with pytest.raises(InputTypeError, match="oracle \\(dict\\) has no batch_size"):
        rec.recover_hessian({}, 10)
    est = rec.recover_hessian(rec.LinearRegressionOracle(X, y, coef, batch_size=5, rng=0), 12, rng=0)
    with pytest.raises(InputError, match="4 pairs are too few for 4 parameters"):
        rec.excess_risk(rec.recover_hessian(rec.LinearRegressionOracle(X, y, coef, batch_size=5), 8))
    with pytest.raises(InputError, match="needs 'antithetic'"):
        rec.excess_risk(
            rec.recover_hessian(rec.LinearRegressionOracle(X, y, coef, batch_size=5), 8, "rescaled")
        )
    for norm in (3, True, "2", None):
        with pytest.raises(InputError, match=f"norm is {norm!r}"):
            rec.adversarial_risk(coef, est, 1.0, 0.1, norm)
    with pytest.raises(InputError, match="needs the Hessian"):
        rec.adversarial_risk(coef, None, 1.0, 0.1, "mahalanobis")
    for norm in (1, 2, np.inf, "mahalanobis"):
        with pytest.raises(InputError, match=r"hessian has shape \(3, 3\); it must be \(4, 4\)"):
            rec.adversarial_risk(coef, np.eye(3), 1.0, 0.1, norm)
    with pytest.raises(InputError, match="kurtosis"):
        rec.gradient_covariance_theory(np.eye(2), [1, 0], batch_size=5, noise_variance=1.0, kurtosis=0.5)
    with pytest.raises(InputError, match="negative eigenvalue"):
        rec.gradient_covariance_theory(-np.eye(2), [1, 0], batch_size=5, noise_variance=1.0)
    with pytest.raises(InputError, match="population"):
        rec.gradient_covariance_theory(np.eye(2), [1, 0], batch_size=5, noise_variance=1.0, population=4)
