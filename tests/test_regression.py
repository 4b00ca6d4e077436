"""Streaming M-estimation against statsmodels, and against formulas written out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm

import gradhess as gh
from gradhess._regression import Regression, fit
from gradhess._regression.pieces import piece_rows
from gradhess.errors import InputError

# A statistic that passes through a solve of a well scaled system loses at most the condition number (below 1e4 in
# these data) of the 1e-16 that float64 has; Newton ends within 1e-8 standard errors.
RTOL = 1e-9


@dataclass
class Chunks:
    """A source: arrays cut into chunks of ``size`` rows."""

    X: npt.NDArray[Any]
    y: npt.NDArray[Any]
    size: int = 1000
    feature_names: Sequence[str] = ()
    target_name: str = "y"
    n_rows: int | None = None

    def __post_init__(self) -> None:
        self.feature_names = self.feature_names or tuple(f"x{j}" for j in range(self.X.shape[1]))

    def __iter__(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        for start in range(0, self.X.shape[0], self.size):
            yield self.X[start : start + self.size], self.y[start : start + self.size]


def features(n: int = 3000, d: int = 4) -> npt.NDArray[np.float64]:
    """Columns of different means and units, correlated."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(n, d)) @ (np.eye(d) + 0.3)
    return X * 10.0 ** np.arange(d) + 5.0 ** np.arange(d)


def linear(X: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A predictor of standard deviation 0.5 about 0.3."""
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    eta = z @ np.linspace(-1, 1, X.shape[1])
    return np.asarray(0.3 + 0.5 * eta / eta.std())


def heteroskedastic(X: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    noise = np.random.default_rng(8).normal(size=X.shape[0])
    return linear(X) + noise * (0.2 + np.abs(linear(X)))


def assert_agrees(ours: Regression, params: Any, nonrobust: Any, hc0: Any, rtol: float = RTOL) -> None:
    np.testing.assert_allclose(ours.coefficients, params, rtol=rtol)
    np.testing.assert_allclose(ours.classical_errors, nonrobust, rtol=rtol)
    np.testing.assert_allclose(ours.hc0_errors, hc0, rtol=rtol)


def with_constant(X: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.column_stack([X, np.ones(X.shape[0])])


@pytest.mark.parametrize("intercept", [True, False])
def test_least_squares_agrees_with_statsmodels(intercept: bool) -> None:
    X = features()
    y = heteroskedastic(X)
    model = sm.OLS(y, with_constant(X) if intercept else X)
    ours = fit(Chunks(X, y), intercept=intercept)
    plain, hc0, hc1 = model.fit(), model.fit(cov_type="HC0"), model.fit(cov_type="HC1")
    assert_agrees(ours, plain.params, plain.bse, hc0.bse)
    np.testing.assert_allclose(ours.hc1_errors, hc1.bse, rtol=RTOL)
    np.testing.assert_allclose(ours.z_values, hc1.params / hc1.bse, rtol=RTOL)
    assert ours.r_squared == pytest.approx(plain.rsquared, rel=RTOL)
    assert ours.parameter_names[:4] == ("x0", "x1", "x2", "x3")
    assert ours.n_parameters == 4 + intercept


def test_full_covariances_agree_with_statsmodels() -> None:
    X = features()
    y = heteroskedastic(X)
    ours = fit(Chunks(X, y))
    theirs = sm.OLS(y, with_constant(X)).fit(cov_type="HC0").cov_params()
    scale = np.sqrt(np.outer(np.diag(theirs), np.diag(theirs)))
    np.testing.assert_allclose(ours.hc0_covariance / scale, theirs / scale, atol=RTOL)


def test_large_means_do_not_spoil_standard_errors() -> None:
    rng = np.random.default_rng(3)
    centred = rng.normal(size=(2000, 3))
    y = centred @ [1.0, 2.0, 3.0] + rng.normal(size=2000)
    near = fit(Chunks(centred, y))
    far = fit(Chunks(centred + 1e6, y))
    # Adding 1e6 rounds each entry by up to eps * 1e6 / 2, that is 1e-10 of a standard deviation.
    np.testing.assert_allclose(far.coefficients[:-1], near.coefficients[:-1], rtol=1e-8)
    np.testing.assert_allclose(far.hc0_errors[:-1], near.hc0_errors[:-1], rtol=1e-8)
    np.testing.assert_allclose(far.classical_errors[:-1], near.classical_errors[:-1], rtol=1e-8)


def test_logistic_agrees_with_statsmodels() -> None:
    X = features()
    y = (np.random.default_rng(1).uniform(size=X.shape[0]) < 1 / (1 + np.exp(-2 * linear(X)))).astype(float)
    ours = fit(Chunks(X, y), "logistic")
    # statsmodels solves in the units of the data, so it is given standardised ones, and its result carried back.
    z = with_constant((X - X.mean(axis=0)) / X.std(axis=0))
    model = sm.Logit(y, z)
    plain = model.fit(disp=0, method="newton", tol=1e-14)
    hc0 = model.fit(disp=0, method="newton", tol=1e-14, cov_type="HC0")
    scale = X.std(axis=0)
    assert ours.converged
    assert ours.warning is None
    np.testing.assert_allclose(ours.coefficients[:-1], plain.params[:-1] / scale, rtol=RTOL)
    np.testing.assert_allclose(ours.classical_errors[:-1], plain.bse[:-1] / scale, rtol=RTOL)
    np.testing.assert_allclose(ours.hc0_errors[:-1], hc0.bse[:-1] / scale, rtol=RTOL)
    assert ours.summed_loss == pytest.approx(-plain.llf, rel=RTOL)


@pytest.mark.parametrize("intercept", [True, False])
def test_poisson_agrees_with_statsmodels(intercept: bool) -> None:
    X = features() / 10.0 ** np.arange(4)
    y = np.random.default_rng(2).poisson(np.exp(linear(X))).astype(float)
    model = sm.GLM(y, with_constant(X) if intercept else X, family=sm.families.Poisson())
    plain, hc0 = model.fit(tol=1e-14), model.fit(tol=1e-14, cov_type="HC0")
    assert_agrees(fit(Chunks(X, y), "poisson", intercept=intercept), plain.params, plain.bse, hc0.bse)


@pytest.mark.parametrize("intercept", [True, False])
def test_huber_is_the_minimum_and_its_errors_are_the_formulas(intercept: bool) -> None:
    X = features() / 10.0 ** np.arange(4)
    y = heteroskedastic(X) + 10.0 * (np.random.default_rng(4).uniform(size=X.shape[0]) < 0.02)
    delta = 0.3
    ours = fit(Chunks(X, y), gh.losses.huber(delta), intercept=intercept)
    design = with_constant(X) if intercept else X
    model = sm.RLM(y, design, M=sm.robust.norms.HuberT(delta))
    theirs = model.fit(scale_est=lambda model, residuals: 1.0, tol=1e-13, maxiter=2000)
    residual = design @ ours.coefficients - y
    psi, slope = np.clip(residual, -delta, delta), (np.abs(residual) <= delta).astype(float)
    assert ours.converged
    size = np.abs(design).T @ np.abs(psi)
    np.testing.assert_array_less(np.abs(design.T @ psi), 1e-10 * size)
    # Iterative reweighting converges linearly, so its last step says little about the distance that is left.
    np.testing.assert_allclose(ours.coefficients, theirs.params, rtol=1e-7)
    n, p = design.shape
    inverse = np.linalg.inv(design.T @ (slope[:, None] * design))
    hc0 = inverse @ (design.T @ (psi[:, None] ** 2 * design)) @ inverse
    classical = (psi @ psi / (n - p)) / slope.mean() ** 2 * np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(ours.hc0_errors, np.sqrt(np.diag(hc0)), rtol=RTOL)
    np.testing.assert_allclose(ours.classical_errors, np.sqrt(np.diag(classical)), rtol=RTOL)


def test_softmax_agrees_with_statsmodels() -> None:
    X = features(n=1500, d=2) / 10.0 ** np.arange(2)
    rng = np.random.default_rng(5)
    y = np.argmax(X @ rng.normal(size=(2, 3)) + rng.gumbel(size=(1500, 3)) * 2, axis=1).astype(float)
    model = sm.MNLogit(y, with_constant(X))
    plain = model.fit(disp=0, method="newton", tol=1e-14)
    ours = fit(Chunks(X, y), "softmax")
    np.testing.assert_allclose(ours.coefficients, plain.params.T.ravel(), rtol=1e-8)
    np.testing.assert_allclose(ours.classical_errors, plain.bse.T.ravel(), rtol=1e-8)
    assert ours.parameter_names == ("1: x0", "1: x1", "1: (intercept)", "2: x0", "2: x1", "2: (intercept)")
    bread = plain.cov_params()
    scores = model.score_obs(plain.params.ravel(order="F"))
    hc0 = bread @ (scores.T @ scores) @ bread
    np.testing.assert_allclose(ours.hc0_errors, np.sqrt(np.diag(hc0)), rtol=1e-8)


def test_softmax_of_two_classes_is_logistic() -> None:
    X = features()
    y = (linear(X) + np.random.default_rng(6).normal(size=X.shape[0]) > 0.3).astype(float)
    one, other = fit(Chunks(X, y), "softmax"), fit(Chunks(X, y), "logistic")
    np.testing.assert_allclose(one.coefficients, other.coefficients, rtol=RTOL)
    np.testing.assert_allclose(one.hc0_errors, other.hc0_errors, rtol=RTOL)
    assert one.parameter_names == other.parameter_names


@pytest.mark.parametrize("loss", ["squared", "poisson"])
def test_same_bits_for_any_chunking(loss: str) -> None:
    d = 40
    n = 2 * piece_rows(d + 1) + 777
    X = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    y = np.random.default_rng(1).poisson(1.5, size=n)
    results = [fit(Chunks(X, y, size), loss) for size in (313, 4096, n)]
    for other in results[1:]:
        np.testing.assert_array_equal(other.coefficients, results[0].coefficients)
        np.testing.assert_array_equal(other.hc0_covariance, results[0].hc0_covariance)
        np.testing.assert_array_equal(other.gradient_eigenvalues, results[0].gradient_eigenvalues)


def test_constant_and_dependent_columns_are_left_out_and_explained() -> None:
    X = features()
    wide = np.column_stack(
        [X[:, 0], np.full(X.shape[0], 2013.0), X[:, 1:], 3 * X[:, 0] - X[:, 1] + 7, X[:, 2] / 2]
    )
    y = heteroskedastic(X)
    names = ("a", "year", "b", "c", "d", "e", "half")
    ours = fit(Chunks(wide, y, feature_names=names))
    assert ours.feature_names == ("a", "b", "c", "d")
    assert [column.note for column in ours.aliased] == [
        "year is constant (2013)",
        "e = 3 a - b + 7",
        "half = 0.5 c",
    ]
    assert [column.depends_on for column in ours.aliased] == [(), ("a", "b"), ("c",)]
    np.testing.assert_array_equal(ours.coefficients, fit(Chunks(X, y)).coefficients)


def test_dependence_on_many_columns_is_listed_without_numbers() -> None:
    X = features(d=5) / 10.0 ** np.arange(5)
    ours = fit(Chunks(np.column_stack([X, X.sum(axis=1)]), heteroskedastic(X)))
    assert [column.note for column in ours.aliased] == ["x5 is a linear combination of x0, x1, x2, x3, x4"]


def test_without_intercept_a_constant_column_is_a_feature() -> None:
    X = features()
    wide = np.column_stack([X, np.ones(X.shape[0]), np.zeros(X.shape[0])])
    y = heteroskedastic(X)
    ours = fit(Chunks(wide, y), intercept=False)
    assert [column.note for column in ours.aliased] == ["x5 is zero in every row"]
    np.testing.assert_allclose(ours.coefficients, fit(Chunks(X, y)).coefficients, rtol=RTOL)


def test_eigenvalues_are_those_of_numpy() -> None:
    X = features()
    ours = fit(Chunks(X, heteroskedastic(X)))
    covariance = np.linalg.eigvalsh(np.cov(X.T, ddof=0))[::-1]
    correlation = np.linalg.eigvalsh(np.corrcoef(X.T))[::-1]
    # An absolute error of eps times the largest is what any eigensolver may make.
    np.testing.assert_allclose(ours.covariance_eigenvalues, covariance, atol=1e-13 * covariance[0])
    np.testing.assert_allclose(ours.correlation_eigenvalues, correlation, atol=1e-13 * correlation[0])
    assert ours.condition_number == pytest.approx(correlation[0] / correlation[-1], rel=1e-10)
    assert ours.gradient_eigenvalues.sum() == pytest.approx(ours.n_parameters)


@pytest.mark.parametrize("loss", ["squared", "softmax"])
@pytest.mark.parametrize("drop_one", [False, True])
def test_gradients_at_the_solution_are_collected_in_the_units_of_the_data(loss: str, drop_one: bool) -> None:
    X = features(d=2)
    y = (np.random.default_rng(5).integers(0, 3, X.shape[0])).astype(float)
    wide = np.column_stack([X[:, 0], np.ones(X.shape[0]), X[:, 1]]) if drop_one else X
    collected = gh.StreamingCovariance()
    ours = fit(Chunks(wide, y), loss, gradients=collected)
    rows = ours.coefficients.reshape(-1, 3)
    if loss == "softmax":
        rows = np.vstack([np.zeros(3), rows])
        expected = gh.glm_gradients(X, y, rows[:, :2], loss, intercept=rows[:, 2])
    else:
        expected = gh.glm_gradients(X, y, rows[0, :2], loss, intercept=rows[0, 2])
    assert collected.n_samples_seen_ == X.shape[0]
    gram = np.asarray(expected.gram()) / X.shape[0]
    size = np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    np.testing.assert_allclose(np.asarray(collected.second_moment_) / size, gram / size, atol=RTOL)


def test_passes_are_timed_and_progress_is_told() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.started: list[tuple[str, int | None]] = []
            self.rows = 0

        def start(self, title: str, n_rows: int | None) -> None:
            self.started.append((title, n_rows))

        def advance(self, n_rows: int) -> None:
            self.rows += n_rows

    X = features()
    recorder = Recorder()
    ours = fit(Chunks(X, heteroskedastic(X)), progress=recorder)
    assert recorder.started == [("moments", None), ("gradient products", 3000)]
    assert recorder.rows == 6000
    assert [(item.n_rows, item.n_parameters) for item in ours.passes] == [(3000, 5), (3000, 5)]
    assert all(0 <= item.reading_seconds <= item.seconds and item.gflops > 0 for item in ours.passes)
    assert ours.seconds == sum(item.seconds for item in ours.passes)
    assert ours.passes[0].rows_per_second > 0


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_separated_classes_are_reported(loss: str) -> None:
    X = features()
    ours = fit(Chunks(X, (X[:, 0] > X[:, 0].mean()).astype(float)), loss)
    assert ours.warning is not None
    assert "separate the classes" in ours.warning
    assert ours.separated


def test_newton_recovers_from_a_step_that_overshoots() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 1)) * np.exp(2 * rng.normal(size=(400, 1)))
    y = np.where(X[:, 0] > 20, 1e6, rng.poisson(1.0, 400))
    ours = fit(Chunks(X, y), "poisson")
    assert ours.converged
    assert len(ours.passes) > ours.n_iterations + 3  # some trial points were refused
    assert any(item.title.endswith("(step / 2)") for item in ours.passes)
    eta = X[:, 0] * ours.coefficients[0] + ours.coefficients[1]
    terms = np.exp(eta) - y
    assert abs(terms @ X[:, 0]) < 1e-8 * (np.abs(terms) @ np.abs(X[:, 0]))


BAD_TARGETS = {
    "logistic": ([0, 1, 1, 2.0], r"target 'y' is 2 in row 3 of the rows used .* logistic loss needs 0 or 1"),
    "poisson": ([0, 1, -1, 2.0], r"target 'y' is -1 in row 2 .* poisson loss needs y >= 0"),
    "softmax": ([0, 1, 1.5, 2.0], r"target 'y' is 1\.5 in row 2 .* needs class numbers 0, 1, \.\.\., k - 1"),
}


@pytest.mark.parametrize("loss", BAD_TARGETS)
def test_labels_outside_the_domain_are_named(loss: str) -> None:
    labels, message = BAD_TARGETS[loss]
    with pytest.raises(InputError, match=message):
        fit(Chunks(features(n=4, d=1), np.array(labels)), loss)


@pytest.mark.parametrize(
    ("loss", "label", "message"),
    [
        ("logistic", 1.0, "is 1 in every row"),
        ("softmax", 0.0, "is 0 in every row"),
        ("poisson", 0.0, "is 0 in every row"),
        ("squared", 0.0, "target 'y' is 0 in every row; there is nothing to fit"),
        ("squared", 5.0, "is 5 in every row"),
        ("huber", 0.1, "is 0.1 in every row"),
    ],
)
def test_a_target_without_variation_is_refused(loss: str, label: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(Chunks(features(n=50), np.full(50, label)), loss)


def test_without_intercept_a_constant_target_can_be_fitted() -> None:
    X = features(n=50)
    assert fit(Chunks(X, np.full(50, 3.0)), intercept=False).r_squared is not None
    with pytest.raises(InputError, match="is 0 in every row"):
        fit(Chunks(X, np.zeros(50)), intercept=False)


def test_newton_passes_are_numbered_as_steps() -> None:
    X = features()
    ours = fit(Chunks(X, (heteroskedastic(X) > 0.3).astype(float)), "logistic")
    steps = [f"Newton {number}" for number in range(1, ours.n_iterations + 1)]
    assert [item.title for item in ours.passes] == ["moments", "start", *steps, "gradient products"]


def test_classes_with_gaps_are_refused() -> None:
    with pytest.raises(InputError, match="classes up to 3, but no row of class 1"):
        fit(Chunks(features(n=60), np.repeat([0, 2, 3], 20)), "softmax")


def test_bad_sources_are_refused() -> None:
    X = features(n=100)
    y = heteroskedastic(X)
    with pytest.raises(InputError, match="no rows"):
        fit(Chunks(X[:0], y[:0]))
    with pytest.raises(InputError, match="5 rows are too few for 5 parameters"):
        fit(Chunks(X[:5], y[:5]))
    with pytest.raises(InputError, match=r"nothing to fit: x0 is constant \(1\)"):
        fit(Chunks(np.ones((100, 1)), y))

    class OneShot(Chunks):
        def __iter__(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
            return self

        def __next__(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            raise StopIteration

    with pytest.raises(InputError, match="read only once"):
        fit(OneShot(X, y))

    class Growing(Chunks):
        def __iter__(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
            yield from super().__iter__()
            self.X, self.y = np.vstack([self.X, self.X]), np.concatenate([self.y, self.y])

    with pytest.raises(InputError, match="changed while being read: 100 rows in the first pass, now 200"):
        fit(Growing(X, y))
