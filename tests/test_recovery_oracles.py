"""Where batches come from: ways of drawing, features of all kinds, and what an oracle must be."""

from __future__ import annotations

import numpy as np
import pytest
from regressions import REDUCTIONS, FreshOracle, delta_of_risk, finite_covariance, off_centre, spectrum

from gradhess import recovery as rec
from gradhess.errors import InputError
from gradhess.recovery import drawing
from gradhess.recovery.oracle import distinct_rows


@pytest.fixture
def data(rng):
    return off_centre(rng)


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


def test_indicators_as_features(rng):
    """Columns of zeros and ones, one of them rare, and an intercept: at any distance from the optimum."""
    X = np.column_stack([rng.uniform(size=(2000, 3)) < [0.5, 0.2, 0.02], np.ones(2000)]).astype(float)
    y = X @ [1.0, -2.0, 30.0, 5.0] + rng.standard_t(3, 2000)
    for replace in (True, False):
        oracle = rec.LinearRegressionOracle(X, y, np.zeros(4), batch_size=50, replace=replace, rng=0)
        est = rec.recover_hessian(oracle, 20_000, rng=0)
        assert rec.whitened_error(est, X.T @ X / len(X)) < 2 * est.sampling_error


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


@pytest.mark.parametrize("method", ["antithetic", "calibrated", "difference", "fixed_batch", "orthogonal"])
@pytest.mark.parametrize("many", [False, True])
def test_an_oracle_may_use_its_arrays_again(data, method, many):
    """It adds the noise to the targets in place, and gives the same array of gradients at every call."""
    X, y, coef = data

    class Thrifty:
        def __init__(self):
            self.full = rec.LinearRegressionOracle(X, y, coef, batch_size=25, rng=1)
            self.batch_size, self.n_params = 25, 4
            self.answers = {}
            if many:
                self.draw_batches = self.full.draw_batches
                self.gradients = self.gradient

        def draw_batch(self):
            return self.full.draw_batch()

        def gradient(self, batch, target_noise):
            target_noise += y[batch]
            residual = X[batch] @ coef - target_noise
            shape = (*target_noise.shape[:-1], 4)
            answer = self.answers.setdefault(shape, np.empty(shape))
            answer[...] = np.einsum("...n,...nd->...d", residual, X[batch]) / 25
            return answer

    m = None if method == "orthogonal" else 100
    thrifty = rec.recover_hessian(Thrifty(), m, method, rng=2)
    plain = rec.recover_hessian(
        rec.LinearRegressionOracle(X, y, coef, batch_size=25, rng=1), m, method, rng=2
    )
    np.testing.assert_allclose(thrifty.hessian, plain.hessian, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(thrifty.gradient, plain.gradient, rtol=1e-9, atol=1e-9)


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
