"""Recovery of Hessians: every method and loss, and how much noise each needs."""

from __future__ import annotations

import numpy as np
import pytest
from regressions import REDUCTIONS, FreshOracle, delta_of_risk, off_centre, spectrum

from gradhess import recovery as rec
from gradhess.errors import InputError
from gradhess.recovery.orthogonal import orthogonal_rows


@pytest.fixture
def data(rng):
    return off_centre(rng)


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


def test_what_noise_that_nobody_knows_of_leaves():
    """rescaled, with only the injected variance known: a bias of (noise + 2 q) / s^2, in every loss."""
    d, n, q, noise, m = 5, 40, 8.0, 24.0, 6000
    Sigma = spectrum(d, 30)
    for reduction, (_, needed) in REDUCTIONS.items():
        oracle = FreshOracle(Sigma, delta_of_risk(Sigma, q), n, noise=noise, reduction=reduction)
        s2 = 2 * needed
        est = rec.recover_hessian(oracle, m, "rescaled", noise_variance=s2, rng=11)
        bias = (noise + 2 * q) / s2
        error = rec.whitened_error(est, oracle.hessian)
        # The direction of the bias is fixed: four standard errors sqrt(2 / m) of an eigenvalue 1 + bias.
        assert error == pytest.approx(bias, abs=4 * np.sqrt(2 / m) * (1 + bias))


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
    # Of one batch with fresh noise a gradient is Gaussian, of as many dimensions as the batch has rows.
    assert est.sampling_error == rec.sampling_error(4, 6000)
    few = rec.LinearRegressionOracle(X, y, coef, batch_size=3, rng=5)
    assert rec.recover_hessian(few, 50, "fixed_batch", rng=5).sampling_error == rec.sampling_error(3, 50)


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
