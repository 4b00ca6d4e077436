"""The numbers that theory gives for recovery by target noise, each with a tolerance of a few sampling errors.

The whitened error of a sample covariance fluctuates about its prediction ``e = 2 sqrt(d / m) + d / m`` by a fraction of
``sqrt(2 / m)`` (one eigenvalue) in units of the largest eigenvalue of the whitened covariance, ``top`` below. Where a
bias along a fixed direction dominates, the error is that bias give or take ``4 sqrt(2 / m) top``.
"""

from __future__ import annotations

import numpy as np
import pytest
from regressions import FreshOracle, delta_of_risk, root, spectrum

from gradhess import recovery as rec


def fixed_direction(m, top):
    """Four standard errors of one eigenvalue ``top`` of a sample covariance."""
    return 4 * np.sqrt(2 / m) * top


def test_identity():
    """Gaussian, d = 5, n = 20, variance 20, q = 10, m = 1e5: whitened error 1.00, and the formula within 0.03."""
    d, n, q, m = 5, 20, 10.0, 100_000
    Sigma = spectrum(d, 10)
    delta = delta_of_risk(Sigma, q)
    est = rec.recover_hessian(FreshOracle(Sigma, delta, n), m, "calibrated", rng=0)
    assert est.noise_variance == n
    assert rec.whitened_error(est, Sigma) == pytest.approx(2 * q / n, abs=0.05)
    theory = rec.gradient_covariance_theory(Sigma, delta, batch_size=n, noise_variance=n)
    assert rec.whitened_error(theory, Sigma) == pytest.approx(2 * q / n, rel=1e-10)
    assert rec.whitened_error(est, theory) < 0.03
    assert est.bias_bound == pytest.approx(2 * q / n, rel=0.1)


@pytest.mark.parametrize(("n", "expected"), [(10, 4.0), (30, 4 / 3), (100, 0.4), (300, 0.4 / 3)])
def test_bias_falls_with_the_batch(n, expected):
    d, q, m = 5, 20.0, 40_000
    Sigma = spectrum(d, 10)
    est = rec.recover_hessian(FreshOracle(Sigma, delta_of_risk(Sigma, q), n), m, "calibrated", rng=1)
    top = 1 + expected
    error = rec.whitened_error(est, Sigma)
    # Gradients of small batches have heavier tails: m Var = 2 + 6 / n and more where q counts; 2 in place of it.
    assert abs(error - expected) < 2 * fixed_direction(m, top)
    assert est.bias_bound == pytest.approx(expected, rel=0.15)


def test_error_falls_with_the_root_of_the_number():
    Sigma = spectrum(8, 100)
    sizes = np.array([250, 1000, 4000, 16_000])
    errors = []
    for m in sizes:
        found = [
            rec.whitened_error(
                rec.recover_hessian(FreshOracle(Sigma, np.zeros(8), 40, seed=s), m, "calibrated", rng=s),
                Sigma,
            )
            for s in range(8)
        ]
        errors.append(np.mean(found))
        # The prediction is the edge of a law; the mean over a few runs lies below it, near.
        assert 0.7 < errors[-1] / rec.sampling_error(8, m) < 1.1
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.06)


def test_gradients_must_be_centred():
    """q = 20, n = 300: the uncentred second moment is off by 20.2, the covariance by 0.16."""
    d, n, q, m = 5, 300, 20.0, 20_000
    Sigma = spectrum(d, 10)
    est = rec.recover_hessian(FreshOracle(Sigma, delta_of_risk(Sigma, q), n), m, "calibrated", rng=2)
    uncentred = np.asarray(est.covariance.second_moment_)
    # The mean of m gradients has an error of 1 / sqrt(m) in units of Sigma, and enters squared.
    assert rec.whitened_error(uncentred, Sigma) == pytest.approx(20.2, abs=4 * 2 * np.sqrt(q / m) * 1.1 + 0.1)
    assert rec.whitened_error(est, Sigma) == pytest.approx(0.16, abs=fixed_direction(m, 1.13))


def test_variance_of_an_entry():
    """Sigma = I, q = 0: m Var(H_11) = 2 + 6 / n."""
    n, m, runs = 5, 200, 1500
    oracle = FreshOracle(np.eye(2), np.zeros(2), n)
    rng = np.random.default_rng(3)
    entries = [rec.recover_hessian(oracle, m, "calibrated", rng=rng).hessian[0, 0] for _ in range(runs)]
    # A sample variance of nearly Gaussian entries has the relative standard error sqrt(2 / runs).
    assert m * np.var(entries) == pytest.approx(2 + 6 / n, rel=4 * np.sqrt(2 / runs) + 2 / m)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_sampling_error_of_small_batches(n):
    """Whatever n, the mean error lies a little below the predicted edge, as it does for Gaussian gradients (0.93)."""
    d, m, runs = 10, 4000, 12
    oracle = FreshOracle(np.eye(d), np.zeros(d), n)
    rng = np.random.default_rng(9)
    found = [rec.recover_hessian(oracle, m, "calibrated", rng=rng) for _ in range(runs)]
    errors = [rec.whitened_error(est, np.eye(d)) for est in found]
    assert found[0].sampling_error == rec.sampling_error(d, m, n)
    spread = 4 * np.std(errors, ddof=1) / np.sqrt(runs) / found[0].sampling_error
    assert np.mean(errors) / found[0].sampling_error == pytest.approx(0.93, abs=spread)


def test_sampling_error_of_heavy_tails():
    """Student's t with 3 degrees of freedom, batches of 10: about 1.7 times what is predicted for Gaussian features."""
    d, m, runs = 10, 4000, 12
    oracle = FreshOracle(
        np.eye(d), np.zeros(d), 10, draw=lambda rng, shape: rng.standard_t(3, shape) / np.sqrt(3)
    )
    rng = np.random.default_rng(10)
    found = [rec.recover_hessian(oracle, m, "calibrated", rng=rng) for _ in range(runs)]
    ratios = [rec.whitened_error(est, np.eye(d)) / est.sampling_error for est in found]
    assert np.mean(ratios) == pytest.approx(1.7, abs=4 * np.std(ratios, ddof=1) / np.sqrt(runs))


D10, N100, M4000 = 10, 100, 4000


@pytest.mark.parametrize(
    ("name", "q", "expected"),
    [
        ("calibrated", 0, 0.09),
        ("calibrated", 100, 2.0),
        ("ignored", 0, 0.35),
        ("ignored", 100, 2.3),
        ("none", 0, 0.77),
        ("none", 100, 1.3),
        ("antithetic", 0, 0.13),
        ("antithetic", 100, 0.13),
    ],
)
def test_the_table_of_rules(name, q, expected):
    """n = 100, d = 10, condition number 100, noise of variance 25 in the targets, 4000 gradients."""
    Sigma = spectrum(D10, 100)
    delta = delta_of_risk(Sigma, q) if q else np.zeros(D10)
    known = 0.0 if name == "ignored" else 25.0
    oracle = FreshOracle(Sigma, delta, N100, noise=25.0, existing_noise=known)
    if name == "none":  # nothing injected, and taken for what calibration would give
        est = rec.recover_hessian(oracle, M4000, "rescaled", noise_variance=0.0, rng=4)
        found = est.hessian * (25.0 / N100)
    else:
        method = "antithetic" if name == "antithetic" else "calibrated"
        found = rec.recover_hessian(oracle, M4000, method, rng=4).hessian
    top = 1 + expected if name != "none" else (0.25 if q == 0 else 2.25)
    # Without such a bias it is the edge of a spectrum, which fluctuates less: about three times sqrt(2 / m) / 2.
    biased = q > 0 and name != "antithetic"
    tolerance = fixed_direction(M4000, top) if biased else 0.035
    assert rec.whitened_error(found, Sigma) == pytest.approx(expected, abs=tolerance)


def test_failure_without_calibration():
    """The raw error at q = 0 is |sigma^2 / n - 1|; the best scale leaves r / (2 + r), and of signs up to 1."""
    d, n = 4, 50
    Sigma = spectrum(d, 10)
    theory = rec.gradient_covariance_theory(Sigma, np.zeros(d), batch_size=n, noise_variance=20.0)
    assert rec.whitened_error(theory, Sigma) == pytest.approx(abs(20 / n - 1), rel=1e-12)
    q, s2 = 30.0, 20.0
    delta = delta_of_risk(Sigma, q)
    theory = rec.gradient_covariance_theory(Sigma, delta, batch_size=n, noise_variance=s2)
    r = q / (s2 + q)
    assert rec.best_scale_error(theory, Sigma) == pytest.approx(r / (2 + r), rel=1e-10)
    along = np.sqrt(q) * np.eye(d)[0]
    theory = rec.gradient_covariance_theory(np.eye(d), along, batch_size=n, noise_variance=s2, kurtosis=1.0)
    assert rec.best_scale_error(theory, np.eye(d)) == pytest.approx(q / (2 * s2 + q), rel=1e-10)


def test_preconditioning():
    """d = 20, condition number 1e4, n = 200, q = 10, to 1e-6 of the excess risk: 30,000 iterations or at most 8."""
    d, n, q, m = 20, 200, 10.0, 1600
    Sigma = spectrum(d, 1e4)
    delta = delta_of_risk(Sigma, q)
    est = rec.recover_hessian(FreshOracle(Sigma, delta, n), m, "calibrated", rng=5)
    P = rec.preconditioner(est)
    assert P.ridge == 0
    w, steps = delta.copy(), 0
    while w @ Sigma @ w > 1e-6 * q:
        w = w - P.step(Sigma @ w)
        steps += 1
    assert steps <= 8
    # Plain gradient descent at its best step, 2 / (1 + 1e-4), in closed form along each eigenvector.
    values, vectors = np.linalg.eigh(Sigma)
    start = (vectors.T @ delta) ** 2 * values
    shrink = np.log(np.abs(1 - 2 / (values[0] + values[-1]) * values))

    def risk(iterations):
        return (start * np.exp(2 * iterations * shrink)).sum()

    needed = next(k for k in range(0, 200_000, 100) if risk(k) <= 1e-6 * q)
    assert 20_000 < needed < 40_000


def test_excess_risk_from_pairs():
    d, n, q, m = 6, 50, 10.0, 40_000
    Sigma = spectrum(d, 30)
    oracle = FreshOracle(Sigma, delta_of_risk(Sigma, q), n, noise=4.0)
    est = rec.recover_hessian(oracle, m, rng=6)
    risk = rec.excess_risk(est)
    # c has variance (noise + 2 q) / n along delta: q has the standard error 2 sqrt(q (noise + 2 q) / (n M)); and the
    # Hessian an error of sqrt(2 / M) along delta. tau is a mean over d directions.
    pairs = m // 2
    error = 2 * np.sqrt(q * (4 + 2 * q) / (n * pairs)) + q * np.sqrt(2 / pairs)
    assert risk.q == pytest.approx(q, abs=4 * error)
    spread = (4 + q * (1 + 1 / d)) * 2 * np.sqrt(2 / (d * pairs)) + error
    assert risk.noise_variance == pytest.approx(4.0, abs=4 * spread)
    assert risk.n_pairs == pairs


def test_excess_risk_from_few_pairs():
    """Unbiased to leading order: 30 pairs at d = 6, where both corrections count."""
    d, n, q, pairs, runs = 6, 20, 0.5, 30, 1500
    Sigma = spectrum(d, 30)
    oracle = FreshOracle(Sigma, delta_of_risk(Sigma, q), n, noise=40.0)
    rng = np.random.default_rng(12)
    found = [rec.excess_risk(rec.recover_hessian(oracle, 2 * pairs, rng=rng)).q for _ in range(runs)]
    # What is left is of second order: (d / M)^2 of q.
    error = 4 * np.std(found, ddof=1) / np.sqrt(runs) + q * (d / pairs) ** 2
    assert np.mean(found) == pytest.approx(q, abs=error)


def test_bias_bound_from_few_gradients():
    """24 gradients of 8 parameters: the inverse of their covariance is 1.64 times too large, which is put right."""
    d, n, q, s2, m, runs = 8, 400, 20.0, 4000.0, 24, 400
    Sigma = spectrum(d, 10)
    oracle = FreshOracle(Sigma, delta_of_risk(Sigma, q), n)
    rng = np.random.default_rng(13)
    found = [
        rec.recover_hessian(oracle, m, "rescaled", noise_variance=s2, rng=rng).bias_bound for _ in range(runs)
    ]
    error = 4 * np.std(found, ddof=1) / np.sqrt(runs)
    assert np.mean(found) == pytest.approx(2 * q / s2, abs=error + 4 * q / s2 * 2 * q / s2)


def test_adversarial_risk_is_what_an_adversary_does():
    """The closed form of the adversarial risk is what a simulated adversary does."""
    rng = np.random.default_rng(8)
    d, eps = 4, 0.3
    Sigma = spectrum(d, 10)
    w_star, w = rng.standard_normal(d), rng.standard_normal(d)
    x = rng.standard_normal((400_000, d)) @ root(Sigma)
    r = x @ (w - w_star) - 0.5 * rng.standard_normal(len(x))
    q = (w - w_star) @ Sigma @ (w - w_star)
    for norm, dual in ((2, 2), (np.inf, 1), (np.int64(1), np.inf)):
        worst = (np.abs(r) + eps * np.linalg.norm(w, dual)) ** 2  # the adversary moves x . w by eps |w|_*
        found = rec.adversarial_risk(w, None, q + 0.25, eps, norm)
        assert found == pytest.approx(worst.mean(), abs=4 * worst.std() / np.sqrt(len(x)))
    worst = (np.abs(r) + eps * np.sqrt(w @ Sigma @ w)) ** 2
    found = rec.adversarial_risk(w, Sigma, q + 0.25, eps, "mahalanobis")
    assert found == pytest.approx(worst.mean(), abs=4 * worst.std() / np.sqrt(len(x)))
