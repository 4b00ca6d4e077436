"""Recovery of Hessians: every method, loss and way of drawing; receivers; and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from regressions import FreshOracle, delta_of_risk, spectrum

from gradhess import recovery as rec
from gradhess.errors import InputError, InputTypeError, NonFiniteError, NotFittedError
from gradhess.recovery import drawing
from gradhess.recovery.oracle import distinct_rows
from gradhess.recovery.orthogonal import orthogonal_rows

REDUCTIONS = {"half_mean": (1.0, 40.0), "mean": (2.0, 20.0), "half_sum": (40.0, 1.0), "sum": (80.0, 0.5)}
"""At n = 40: the Hessian over Sigma, and the variance that calibration needs."""


@pytest.fixture
def data(rng):
    """500 rows that are not centred, and not Gaussian."""
    X = rng.standard_normal((500, 4)) @ np.diag([1.0, 0.5, 2.0, 0.1]) + np.array([0.0, 1.0, 0.0, 0.2])
    y = X @ np.array([1.0, -1.0, 0.5, 3.0]) + 0.5 * rng.standard_normal(500)
    return X, y, np.array([1.5, -1.0, 0.0, 2.0])


def finite_covariance(X, r, n, s2, *, replace):
    """The identity for rows drawn from a data set, which assumes nothing about it."""
    N = len(X)
    moment = X.T @ X / N
    rows = X * r[:, None]
    own = np.cov(rows, rowvar=False, ddof=0)
    return (s2 * moment + (1.0 if replace else (N - n) / (N - 1)) * own) / n


# ---- calibration ----


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_calibrated_noise_variance(reduction):
    needed = REDUCTIONS[reduction][1]
    assert rec.calibrated_noise_variance(40, reduction=reduction) == needed
    assert rec.calibrated_noise_variance(40, existing=needed / 4, reduction=reduction) == needed * 3 / 4
    assert rec.calibrated_noise_variance(40, existing=needed, reduction=reduction) == 0
    with pytest.raises(InputError, match="method='rescaled'"):
        rec.calibrated_noise_variance(40, existing=needed * 1.01, reduction=reduction)


# ---- methods ----


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("method", ["calibrated", "rescaled", "antithetic", "difference"])
def test_every_method_and_loss(method, reduction):
    """Near the optimum all of them recover the Hessian of their loss, within twice the predicted error."""
    d, n, m = 5, 40, 6000
    Sigma = spectrum(d, 30)
    oracle = FreshOracle(Sigma, delta_of_risk(Sigma, 0.01), n, reduction=reduction)
    est = rec.recover_hessian(oracle, m, method, rng=1)
    assert est.noise_variance == REDUCTIONS[reduction][1]
    np.testing.assert_allclose(oracle.hessian, REDUCTIONS[reduction][0] * Sigma)
    assert rec.whitened_error(est, oracle.hessian) < 2 * est.sampling_error + 0.01
    assert est.sampling_error < 0.2
    np.testing.assert_array_equal(est.hessian, est.hessian.T)
    assert rec.whitened_error(est.second_moment, Sigma) < 2 * est.sampling_error + 0.01
    error = np.sqrt(np.diag(np.asarray(est.covariance.covariance_)) / m)
    assert (np.abs(est.gradient - oracle.hessian @ oracle.delta) < 5 * error).all()


@pytest.mark.parametrize("noise_variance", [4.0, 40.0, 4000.0])
def test_antithetic_at_any_noise_and_risk(noise_variance):
    Sigma = spectrum(5, 30)
    oracle = FreshOracle(Sigma, delta_of_risk(Sigma, 400.0), 40, noise=100.0)
    est = rec.recover_hessian(oracle, 6000, noise_variance=noise_variance, rng=2)
    assert rec.whitened_error(est, Sigma) < 2 * est.sampling_error
    assert est.bias_bound == 0
    assert est.method == "antithetic"


def test_the_pair_mean_is_the_clean_gradient(data):
    X, y, coef = data
    oracle = rec.LinearRegressionOracle(X, y, coef, batch_size=20, rng=3)
    est = rec.recover_hessian(oracle, 400, noise_variance=1e4, rng=3)
    same = rec.LinearRegressionOracle(X, y, coef, batch_size=20, rng=3)
    clean = np.mean([same.gradient(same.draw_batch(), np.zeros(20)) for _ in range(200)], axis=0)
    # The noise cancels in the sum of two gradients of size 100 |x| to rounding.
    np.testing.assert_allclose(est.gradient, clean, atol=200 * 100 * np.finfo(float).eps * 10)


def test_larger_noise_beats_calibration_where_it_is_free():
    Sigma = spectrum(5, 30)
    oracle = FreshOracle(Sigma, delta_of_risk(Sigma, 200.0), 40)
    calibrated = rec.recover_hessian(oracle, 4000, "calibrated", rng=3)
    rescaled = rec.recover_hessian(oracle, 4000, "rescaled", noise_variance=40_000.0, rng=3)
    assert rec.whitened_error(calibrated, Sigma) > 5
    assert rec.whitened_error(rescaled, Sigma) < 2 * rescaled.sampling_error + 2 * 200 / 40_000
    assert rescaled.bias_bound == pytest.approx(2 * 200 / 40_000, rel=0.5)
    assert calibrated.bias_bound > 5


def test_difference_with_unknown_noise():
    Sigma = spectrum(4, 10)
    oracle = FreshOracle(Sigma, delta_of_risk(Sigma, 20.0), 40, noise=30.0)
    est = rec.recover_hessian(oracle, 8000, "difference", rng=4)
    assert rec.whitened_error(est, Sigma) < 1.5 * est.sampling_error < 1


def test_difference_may_be_indefinite_and_is_projected_on_request():
    Sigma = spectrum(6, 10)
    for seed in range(20):
        oracle = FreshOracle(Sigma, delta_of_risk(Sigma, 100.0), 10, seed=seed)
        est = rec.recover_hessian(oracle, 20, "difference", rng=seed)
        if np.linalg.eigvalsh(est.hessian)[0] < 0:
            break
    else:
        pytest.fail("no indefinite difference in 20 tries")
    assert "indefinite" in est.summary()
    assert est.sampling_error == np.inf
    with pytest.raises(InputError, match="indefinite"):
        rec.preconditioner(est, 0.0)
    oracle = FreshOracle(Sigma, delta_of_risk(Sigma, 100.0), 10, seed=seed)
    projected = rec.recover_hessian(oracle, 20, "difference", rng=seed, project_psd=True)
    values, vectors = np.linalg.eigh(est.hessian)
    expected = (vectors * np.maximum(values, 0)) @ vectors.T
    np.testing.assert_allclose(projected.hessian, expected, atol=1e-12)


def test_fixed_batch_is_the_hessian_of_the_batch(data):
    X, y, coef = data
    oracle = rec.LinearRegressionOracle(X, y, coef + 100, batch_size=30, rng=5)
    est = rec.recover_hessian(oracle, 6000, "fixed_batch", rng=5)
    rows = rec.LinearRegressionOracle(X, y, coef, batch_size=30, rng=5).draw_batch()
    batch = X[rows].T @ X[rows] / 30
    assert rec.whitened_error(est, batch) < 1.5 * est.sampling_error
    assert rec.whitened_error(batch, oracle.hessian()) > 3 * est.sampling_error


@pytest.mark.parametrize("n", [16, 30, 1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_orthogonal_noise_is_exact(data, n, reduction):
    X, y, coef = data
    oracle = rec.LinearRegressionOracle(X, y, coef, batch_size=n, reduction=reduction, rng=6)
    est = rec.recover_hessian(oracle, None, "orthogonal", rng=6)
    same = rec.LinearRegressionOracle(X, y, coef, batch_size=n, reduction=reduction, rng=6)
    rows = same.draw_batch()
    factor = {"half_mean": 1 / n, "mean": 2 / n, "half_sum": 1.0, "sum": 2.0}[reduction]
    expected = factor * X[rows].T @ X[rows]
    # A gradient has n terms of which it carries (n + 10) eps; products of two differences are divided by a s^2.
    s2 = est.noise_variance
    terms = factor * (np.abs(X[rows] @ coef - y[rows]) + np.sqrt(2 * s2)) @ np.abs(X[rows])
    bound = 4 * (n + 10) * np.finfo(float).eps * np.outer(terms, terms) / (factor * s2)
    assert (np.abs(est.hessian - expected) <= bound).all()
    clean = same.gradient(rows, np.zeros(n))
    assert (np.abs(est.gradient - clean) <= (n + 10) * np.finfo(float).eps * terms).all()
    assert est.n_gradients == n + 1
    assert est.sampling_error == 0


@pytest.mark.parametrize("n", [1, 2, 3, 8, 12, 37, 64])
def test_orthogonal_rows(n):
    U = orthogonal_rows(n, 0, n)
    np.testing.assert_allclose(U @ U.T, n * np.eye(n), atol=8 * n * n * np.finfo(float).eps)
    np.testing.assert_array_equal(orthogonal_rows(n, n // 2, n), U[n // 2 :])


# ---- where the rows come from ----


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("n", [10, 300])
def test_the_identity_on_data(data, replace, n):
    X, y, coef = data
    m = 20_000 if n == 10 else 4000
    oracle = rec.LinearRegressionOracle(X, y, coef, batch_size=n, replace=replace, rng=7)
    est = rec.recover_hessian(oracle, m, "calibrated", rng=7)
    expected = finite_covariance(X, X @ coef - y, n, n, replace=replace)
    assert rec.whitened_error(np.asarray(est.covariance.covariance_), expected) < 1.5 * rec.sampling_error(
        4, m
    )
    if n == 300:  # the way of drawing is seen in the clean gradients
        clean = rec.recover_hessian(oracle, m, rng=8).pair_means
        other = finite_covariance(X, X @ coef - y, n, 0, replace=not replace)
        right = finite_covariance(X, X @ coef - y, n, 0, replace=replace)
        assert rec.whitened_error(np.asarray(clean.covariance_), right) < 1.5 * rec.sampling_error(4, m // 2)
        assert rec.whitened_error(np.asarray(clean.covariance_), other) > 0.4


def test_population_in_the_theory():
    Sigma, delta = spectrum(3, 5), np.array([1.0, 0.0, -1.0])
    options = dict(batch_size=10, existing=2.0)
    noise = rec.gradient_covariance_theory(Sigma, 0 * delta, batch_size=10, noise_variance=7.0)
    alone = rec.gradient_covariance_theory(Sigma, delta, noise_variance=0.0, **options)
    np.testing.assert_allclose(noise, 0.7 * Sigma, atol=1e-15)
    found = rec.gradient_covariance_theory(Sigma, delta, noise_variance=7.0, population=30, **options)
    np.testing.assert_allclose(found, noise + 20 / 29 * alone, atol=1e-14)
    q = delta @ Sigma @ delta
    v = Sigma @ delta
    np.testing.assert_allclose(alone, (2 * Sigma + q * Sigma + np.outer(v, v)) / 10, atol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_theory_of_every_loss(reduction):
    Sigma = spectrum(4, 20)
    delta = delta_of_risk(Sigma, 15.0)
    oracle = FreshOracle(Sigma, delta, 40, noise=5.0, reduction=reduction)
    s2 = REDUCTIONS[reduction][1]
    est = rec.recover_hessian(oracle, 8000, "rescaled", noise_variance=s2, rng=9)
    theory = rec.gradient_covariance_theory(
        Sigma, delta, batch_size=40, noise_variance=s2, existing=5.0, reduction=reduction
    )
    assert rec.whitened_error(np.asarray(est.covariance.covariance_), theory) < 1.5 * rec.sampling_error(
        4, 8000
    )


DRAWS = {
    "signs": (lambda rng, shape: rng.integers(0, 2, shape) * 2.0 - 1, 1.0),
    "uniform": (lambda rng, shape: rng.uniform(-np.sqrt(3), np.sqrt(3), shape), 1.8),
    "laplace": (lambda rng, shape: rng.laplace(size=shape) / np.sqrt(2), 6.0),
    "student 10": (lambda rng, shape: rng.standard_t(10, shape) * np.sqrt(0.8), 4.0),
}


@pytest.mark.parametrize("name", DRAWS)
def test_binary_and_heavy_tailed_features(name):
    draw, kurtosis = DRAWS[name]
    Sigma = spectrum(4, 20)
    delta = delta_of_risk(Sigma, 60.0)
    m = 20_000
    oracle = FreshOracle(Sigma, delta, 30, noise=3.0, draw=draw)
    est = rec.recover_hessian(oracle, m, rng=10)
    assert rec.whitened_error(est, Sigma) < 2 * est.sampling_error
    theory = rec.gradient_covariance_theory(
        Sigma, delta, batch_size=30, noise_variance=est.noise_variance, existing=3.0, kurtosis=kurtosis
    )
    # Gradients of 30 heavy-tailed terms: their own kurtosis is a few thirtieths above that of a Gaussian vector.
    assert rec.whitened_error(np.asarray(est.covariance.covariance_), theory) < 3 * rec.sampling_error(4, m)


def test_features_that_are_not_centred(data):
    """What is recovered is E[x x^T], mean included."""
    X, y, coef = data
    est = rec.recover_hessian(rec.LinearRegressionOracle(X, y, coef, batch_size=50, rng=0), 20_000, rng=0)
    assert rec.whitened_error(est, X.T @ X / len(X)) < 2 * est.sampling_error
    assert rec.whitened_error(est, np.cov(X, rowvar=False)) > 1


def test_fewer_gradients_than_parameters():
    Sigma = spectrum(12, 10)
    oracle = FreshOracle(Sigma, np.zeros(12), 50)
    est = rec.recover_hessian(oracle, 8, "calibrated", rng=0)
    assert np.linalg.matrix_rank(est.hessian) == 7
    assert est.bias_bound == np.inf
    assert est.sampling_error == pytest.approx(2 * np.sqrt(1.04 * 12 / 8) + 1.08 * 12 / 8)
    with pytest.raises(InputError, match=r"singular.*more than d \+ 1 = 13 gradients"):
        rec.preconditioner(est, 0.0)
    P = rec.preconditioner(est)
    assert P.ridge == pytest.approx(np.trace(est.hessian) / 8)
    assert "not known" in est.summary()


# ---- the oracle ----


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_many_gradients_are_single_gradients(data, dtype, order):
    X, y, coef = data
    oracle = rec.LinearRegressionOracle(np.asarray(X, dtype, order=order), y, coef, batch_size=25, rng=1)
    batches = oracle.draw_batches(30)
    noise = np.random.default_rng(0).standard_normal((30, 25))
    single = np.array([oracle.gradient(*pair) for pair in zip(batches, noise, strict=True)])
    # Both sum 25 terms of about 10, once in float64 and once also rounded to the type of X.
    tolerance = 30 * 10 * np.finfo(dtype).eps
    np.testing.assert_allclose(oracle.gradients(batches, noise), single, rtol=0, atol=tolerance)
    direct = X[batches[0]].T @ (X[batches[0]] @ coef - y[batches[0]] - noise[0]) / 25
    np.testing.assert_allclose(single[0], direct, rtol=0, atol=tolerance)


def test_an_oracle_of_four_names(data):
    """Without draw_batches and gradients, everything is asked one by one, to the same effect."""
    X, y, coef = data

    class Plain:
        def __init__(self):
            self.full = rec.LinearRegressionOracle(X, y, coef, batch_size=25, rng=1)
            self.batch_size, self.n_params = 25, 4

        def draw_batch(self):
            return self.full.draw_batch()

        def gradient(self, batch, target_noise):
            return self.full.gradient(batch, target_noise).tolist()

    for method in ("antithetic", "calibrated", "difference", "fixed_batch", "orthogonal"):
        m = 26 if method == "orthogonal" else 100
        one = rec.recover_hessian(Plain(), m, method, rng=2)
        many = rec.recover_hessian(
            rec.LinearRegressionOracle(X, y, coef, batch_size=25, rng=1), m, method, rng=2
        )
        np.testing.assert_allclose(one.hessian, many.hessian, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(one.gradient, many.gradient, rtol=1e-9, atol=1e-9)


def test_the_same_seed_gives_the_same_bits_and_chunks_do_not_matter(data, monkeypatch):
    X, y, coef = data

    def estimate():
        return rec.recover_hessian(rec.LinearRegressionOracle(X, y, coef, batch_size=25, rng=1), 3000, rng=1)

    first = estimate()
    assert estimate().hessian.tobytes() == first.hessian.tobytes()
    monkeypatch.setattr(drawing, "CHUNK_BATCHES", 700)
    np.testing.assert_allclose(estimate().hessian, first.hessian, rtol=1e-12)


@pytest.mark.parametrize(("N", "n"), [(50, 3), (50, 20), (50, 40), (50, 50)])
def test_distinct_rows_are_uniform(N, n, rng):
    count = 4000
    drawn = distinct_rows(rng, N, (count, n))
    assert drawn.shape == (count, n)
    assert all(len(set(row)) == n for row in drawn.tolist())
    p = n / N
    hits = np.bincount(drawn.ravel(), minlength=N) / count
    assert np.abs(hits - p).max() <= 5 * np.sqrt(p * (1 - p) / count)
    together = np.mean([(0 in row) and (1 in row) for row in drawn.tolist()])
    both = n * (n - 1) / (N * (N - 1))
    assert abs(together - both) <= 5 * np.sqrt(both / count)


def test_same_seeds_do_not_correlate_batches_and_noise(data):
    X, y, coef = data
    oracle = rec.LinearRegressionOracle(X, y, coef, batch_size=500, rng=0)
    ask = drawing.Asker(oracle, 0)
    rows, noise = oracle.draw_batches(40).ravel(), ask.noise(40, 1.0).ravel()
    assert abs(np.corrcoef(rows, noise)[0, 1]) < 4 / np.sqrt(len(rows))


# ---- measures ----


def test_errors_are_in_units_of_the_target(rng):
    T = spectrum(5, 100)
    assert rec.whitened_error(T, T) < 1e-12
    assert rec.whitened_error(1.5 * T, T) == pytest.approx(0.5)
    assert rec.best_scale_error(1.5 * T, T) < 1e-12
    A = rng.standard_normal((5, 5))  # a change of units changes nothing
    E = T + 0.1 * spectrum(5, 3, seed=9)
    assert rec.whitened_error(A @ E @ A.T, A @ T @ A.T) == pytest.approx(rec.whitened_error(E, T))
    assert rec.best_scale_error(-T, T) == 1
    scales = np.linspace(0, 2, 4001)
    best = min(rec.whitened_error(s * E, T) for s in scales)
    assert rec.best_scale_error(E, T) == pytest.approx(best, abs=1e-3)
    for singular in (np.zeros((5, 5)), -T):
        with pytest.raises(InputError, match="not positive definite"):
            rec.whitened_error(T, singular)
    with pytest.raises(InputError, match="must be \\(5, 5\\)"):
        rec.whitened_error(np.eye(4), T)
    with pytest.raises(InputError, match="not symmetric"):
        rec.whitened_error(np.triu(np.ones((5, 5))), T)


# ---- receivers ----


def test_a_receiver_recovers_and_centres_by_worker(rng):
    Sigma, n = spectrum(4, 20), 50
    rx = rec.HessianReceiver(batch_size=n, noise_variance=n)
    mixed = rec.HessianReceiver(batch_size=n, noise_variance=n)
    means = []
    for worker in range(3):
        delta = delta_of_risk(Sigma, 2.0, seed=worker)
        oracle = FreshOracle(Sigma, delta, n, seed=worker)
        gradients = oracle.gradients(oracle.draw_batches(3000), rng.standard_normal((3000, n)) * np.sqrt(n))
        rx.partial_fit(gradients[:-1], worker=worker).partial_fit(gradients[-1], worker=worker)
        mixed.partial_fit(gradients)
        means.append(gradients.mean(axis=0))
    assert rec.whitened_error(rx.hessian_, Sigma) < 2 * rx.sampling_error_ + 2 * 2 / n
    assert rec.whitened_error(mixed.hessian_, Sigma) > 0.5
    np.testing.assert_allclose(rx.gradient_, np.mean(means, axis=0), atol=1e-12)
    assert rx.n_gradients_ == 9000
    assert rx.workers_ == {0: 3000, 1: 3000, 2: 3000}


def test_receivers_merge(rng):
    parts = [rng.standard_normal((40, 3)) for _ in range(4)]
    whole = rec.HessianReceiver(10, 10.0)
    left, right = rec.HessianReceiver(10, 10.0), rec.HessianReceiver(10, 10.0)
    for index, part in enumerate(parts):
        worker = index % 2
        whole.partial_fit(part, worker=worker)
        (left if index < 3 else right).partial_fit(part, worker=worker)
    right.partial_fit(parts[0], worker="c")
    whole.partial_fit(parts[0], worker="c")
    before = right.hessian_
    assert left.merge(right) is left
    np.testing.assert_allclose(left.hessian_, whole.hessian_, rtol=1e-12)
    np.testing.assert_allclose(left.gradient_, whole.gradient_, rtol=1e-12)
    np.testing.assert_array_equal(right.hessian_, before)
    left.partial_fit(parts[0], worker="c")
    np.testing.assert_array_equal(right.hessian_, before)
    empty = rec.HessianReceiver(10, 10.0)
    np.testing.assert_array_equal(empty.merge(right).hessian_, before)


def test_a_receiver_keeps_its_state_when_it_refuses(rng):
    rx = rec.HessianReceiver(10, 4.0, existing=6.0).partial_fit(rng.standard_normal((20, 3)), worker=1)
    before = (rx.hessian_.tobytes(), rx.gradient_.tobytes(), rx.workers_)
    bad = rng.standard_normal((5, 3))
    bad[3, 1] = np.nan
    for value, worker, error, message in (
        (bad, 1, NonFiniteError, r"^batch_gradients\[3, 1\] is nan"),
        (bad[3], 1, NonFiniteError, r"^batch_gradients\[1\] is nan"),
        (bad, 2, NonFiniteError, "nan"),
        (np.ones((2, 4)), 1, InputError, "had 3 entries"),
        (np.ones((2, 3, 1)), 1, InputError, "rows are samples"),
        ([["a", "b", "c"]], 1, InputTypeError, "real numbers"),
        (np.ones((2, 3)), [1], InputTypeError, "hashable"),
    ):
        with pytest.raises(error, match=message):
            rx.partial_fit(value, worker=worker)
        assert (rx.hessian_.tobytes(), rx.gradient_.tobytes(), rx.workers_) == before
    for other, message in (
        (rec.HessianReceiver(11, 4.0, existing=6.0), "batch_size is 11 there and 10 here"),
        (rec.HessianReceiver(10, 5.0, existing=6.0), "noise_variance is 5.0"),
        (rec.HessianReceiver(10, 4.0, existing=6.0).partial_fit(np.ones((2, 5))), "length 5 into 3"),
    ):
        with pytest.raises(InputError, match=message):
            rx.merge(other)
        assert (rx.hessian_.tobytes(), rx.gradient_.tobytes(), rx.workers_) == before


def test_a_receiver_that_has_too_little():
    rx = rec.HessianReceiver(10, 10.0)
    with pytest.raises(NotFittedError, match="no gradients have arrived"):
        rx.hessian_  # noqa: B018
    rx.partial_fit(np.ones(3), worker=1).partial_fit(np.ones((0, 3)), worker=2).partial_fit(
        np.ones(3), worker=3
    )
    assert rx.workers_ == {1: 1, 3: 1}
    with pytest.raises(NotFittedError, match="needs two of one worker"):
        rx.hessian_  # noqa: B018
    with pytest.raises(InputError, match="without noise"):
        rec.HessianReceiver(10, 0.0)
    assert "batch_size=10" in repr(rx)


# ---- preconditioning ----


def test_preconditioner_is_a_linear_operator(rng):
    from scipy.sparse.linalg import cg

    H = spectrum(6, 1e3)
    P = rec.preconditioner(H, ridge=0.01)
    g = rng.standard_normal(6)
    expected = np.linalg.solve(H + 0.01 * np.eye(6), g)
    np.testing.assert_allclose(P.step(g), expected, rtol=1e-10)
    np.testing.assert_allclose(P @ g, expected, rtol=1e-10)
    np.testing.assert_allclose(P.T @ g, expected, rtol=1e-10)
    np.testing.assert_allclose(P @ np.eye(6), np.linalg.inv(P.matrix), rtol=1e-10)
    x, info = cg(P.matrix, g, M=P)
    assert info == 0
    np.testing.assert_allclose(x, expected, rtol=1e-4)
    assert P.shape == (6, 6)
    with pytest.raises(InputError, match="grad has shape"):
        P.step(np.ones(5))
    with pytest.raises(InputError, match="singular"):
        rec.preconditioner(np.diag([1.0, 0.0]), 0.0)
    with pytest.raises(InputError, match="'auto'"):
        rec.preconditioner(H, ridge="none")


def test_a_ridge_for_a_singular_matrix(rng):
    """A step along what the matrix has is that of the pseudo-inverse, up to the ridge."""
    B = rng.standard_normal((5, 3))
    H = B @ B.T
    P = rec.preconditioner(H)
    assert P.ridge == pytest.approx(np.sqrt(np.finfo(float).eps) * np.trace(H) / 5)
    g = H @ rng.standard_normal(5)
    smallest = np.linalg.eigvalsh(H)[2]
    expected = np.linalg.pinv(H, hermitian=True) @ g
    # The ridge changes it by ridge / smallest; rounding of g, d eps |g|, outside of the range is divided by the ridge.
    tolerance = (
        P.ridge / smallest * np.linalg.norm(expected)
        + 10 * 5 * np.finfo(float).eps * np.linalg.norm(g) / P.ridge
    )
    assert np.linalg.norm(P.step(g) - expected) <= tolerance
    for hopeless, message in ((np.zeros((3, 3)), "singular"), (np.diag([1.0, -1.0]), "indefinite")):
        with pytest.raises(InputError, match=message):
            rec.preconditioner(hopeless)


def test_preconditioner_of_a_receiver(rng):
    rx = rec.HessianReceiver(10, 10.0)
    for worker in range(2):
        rx.partial_fit(rng.standard_normal((30, 3)) + worker, worker=worker)
    P = rec.preconditioner(rx)
    assert P.ridge == 0
    np.testing.assert_array_equal(P.matrix, rx.hessian_)
    few = rec.HessianReceiver(10, 10.0).partial_fit(rng.standard_normal((3, 3)), worker=0)
    few.partial_fit(rng.standard_normal(3), worker=1)
    assert rec.preconditioner(few).ridge == pytest.approx(np.trace(few.hessian_) / 3)
    with pytest.raises(NotFittedError):
        rec.preconditioner(rec.HessianReceiver(10, 10.0))


def test_which_scale_an_estimate_is_measured_in():
    Sigma = spectrum(4, 10)
    est = rec.recover_hessian(FreshOracle(Sigma, np.zeros(4), 40, reduction="mean"), 8000, rng=0)
    assert rec.whitened_error(est, 2 * Sigma) < 2 * est.sampling_error
    assert rec.whitened_error(est.second_moment, Sigma) < 2 * est.sampling_error
    assert rec.whitened_error(est, Sigma) > 0.8
    w = np.ones(4)
    of_estimate, of_moment, of_hessian = (
        rec.adversarial_risk(w, H, 1.0, 0.2, "mahalanobis") for H in (est, est.second_moment, est.hessian)
    )
    assert of_estimate == of_moment < of_hessian


# ---- what is refused ----


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


def test_too_much_noise_for_calibration(data):
    oracle = rec.LinearRegressionOracle(*data, batch_size=25, existing_noise=26.0, rng=0)
    with pytest.raises(InputError, match=r"existing is 26.*'rescaled'"):
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
    with pytest.raises(InputError, match="norm is 3"):
        rec.adversarial_risk(coef, est, 1.0, 0.1, 3)
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


# ---- what people see ----


def test_summary_and_plot(data, tmp_path):
    oracle = rec.LinearRegressionOracle(*data, batch_size=25, rng=0)
    for method in ("antithetic", "calibrated"):
        est = rec.recover_hessian(oracle, 1000, method, rng=0)
        text = est.summary()
        assert f"Hessian of 4 parameters from 1,000 gradients on batches of 25 ({method})" in text
        assert max(map(len, text.splitlines())) <= 100
        path = tmp_path / f"{method}.png"
        figure = est.plot(path, reference=oracle.hessian())
        assert path.stat().st_size > 10_000
        assert len(figure.axes) == 2
    with pytest.raises(InputError, match="must end in"):
        est.plot(tmp_path / "figure.jpeg")
    missing = tmp_path / "nowhere" / "figure.png"
    with pytest.raises(FileNotFoundError) as caught:
        est.plot(missing)
    assert caught.value.filename == str(missing)


@pytest.mark.parametrize("method", ["calibrated", "rescaled"])
def test_a_bias_that_is_lost_in_its_noise_is_not_called_none(method):
    oracle = FreshOracle(spectrum(8, 10), np.zeros(8), 50)
    for seed in range(20):
        est = rec.recover_hessian(oracle, 40, method, rng=seed)
        if est.bias_bound == 0:
            break
    else:
        pytest.fail("q came out positive 20 times")
    assert "unbiased" not in est.summary()
    assert "estimated as 0 to within its noise" in est.summary()
    for unbiased, m in (("antithetic", 40), ("orthogonal", None)):
        assert "the method is unbiased" in rec.recover_hessian(oracle, m, unbiased, rng=0).summary()


@pytest.mark.parametrize("method", ["antithetic", "calibrated", "fixed_batch", "orthogonal"])
@pytest.mark.parametrize("n", [3, 40])
def test_singular_is_not_indefinite(rng, method, n):
    """A column twice, and with n = 3 also fewer rows than columns."""
    X = rng.standard_normal((100, 5))[:, [0, 1, 2, 3, 4, 4]]
    y = X.sum(axis=1) + rng.standard_normal(100)
    oracle = rec.LinearRegressionOracle(X, y, np.zeros(6), batch_size=n, rng=0)
    est = rec.recover_hessian(oracle, None if method == "orthogonal" else 400, method, rng=0)
    assert "indefinite" not in est.summary()
    assert "condition number inf" in est.summary()


def test_adversarial_risk_takes_an_estimate(data):
    """Of any loss: what counts is E[x x^T], which the estimate knows."""
    X, y, coef = data
    exact = rec.adversarial_risk(coef, X.T @ X / len(X), 1.0, 0.2, "mahalanobis")
    for reduction in REDUCTIONS:
        oracle = rec.LinearRegressionOracle(X, y, coef, batch_size=40, reduction=reduction, rng=0)
        found = rec.adversarial_risk(coef, rec.recover_hessian(oracle, 8000, rng=0), 1.0, 0.2, "mahalanobis")
        assert found == pytest.approx(
            exact, rel=0.05
        )  # the error of one quadratic form is sqrt(2 / 4000) = 0.022
