"""Receivers, preconditioners, measures of error, and what people see."""

from __future__ import annotations

import numpy as np
import pytest
from regressions import REDUCTIONS, FreshOracle, delta_of_risk, off_centre, spectrum

from gradhess import recovery as rec
from gradhess.errors import InputError, InputTypeError, NonFiniteError, NotFittedError


@pytest.fixture
def data(rng):
    return off_centre(rng)


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


@pytest.mark.parametrize(("reduction", "factor"), [("half_mean", 1 / 10), ("mean", 2 / 10), ("sum", 2.0)])
def test_each_worker_costs_one_degree_of_freedom(rng, reduction, factor):
    """The formula, of workers that sent few gradients of very different means; one gradient adds nothing."""
    sent = {
        "a": rng.standard_normal((3, 2)) + 50,
        "b": rng.standard_normal((5, 2)),
        "c": np.full((1, 2), 9.0),
    }
    rx = rec.HessianReceiver(10, 4.0, existing=2.0, reduction=reduction)
    for worker, gradients in sent.items():
        rx.partial_fit(gradients, worker=worker)
    scatter = sum((g - g.mean(axis=0)).T @ (g - g.mean(axis=0)) for g in sent.values())
    # Products of numbers near 50 of which differences of size one are left.
    np.testing.assert_allclose(rx.hessian_, scatter / (6 * factor * (4.0 + 2.0)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(rx.gradient_, np.concatenate(list(sent.values())).mean(axis=0), rtol=1e-14)
    assert rx.sampling_error_ == rec.sampling_error(2, 6, 10)


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
    counts = left.workers_
    with pytest.raises(InputError, match="with itself"):
        left.merge(left)
    assert left.workers_ == counts
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
        _ = rx.hessian_
    rx.partial_fit(np.ones(3), worker=1).partial_fit(np.ones((0, 3)), worker=2).partial_fit(
        np.ones(3), worker=3
    )
    assert rx.workers_ == {1: 1, 3: 1}
    with pytest.raises(NotFittedError, match="needs two of one worker"):
        _ = rx.hessian_
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


@pytest.mark.parametrize("size", [1e153, 1e155, 1e200])
def test_squares_of_received_gradients_that_overflow(rng, size):
    """At 1e153 each worker's covariance is within float64, and the sum of their scatters is not."""
    gradients = rng.standard_normal((60, 3))
    rx, small = rec.HessianReceiver(10, 10.0), rec.HessianReceiver(10, 10.0)
    for worker in range(30):
        rx.partial_fit(size * 1.3 * gradients[worker : worker + 30], worker=worker)
        small.partial_fit(gradients[worker : worker + 30], worker=worker)
    if size == 1e153:
        assert all(np.isfinite(np.asarray(stream.covariance_)).all() for stream in rx._workers.values())
    with pytest.raises(InputError, match="overflows float64, though they do not; divide all of them by"):
        _ = rx.hessian_
    assert np.isfinite(rx.gradient_).all()  # and the receiver goes on
    scaled = rec.HessianReceiver(10, 10.0)
    for worker in range(30):
        scaled.partial_fit(1e10 * gradients[worker : worker + 30], worker=worker)
    np.testing.assert_allclose(scaled.hessian_ / 1e20, small.hessian_, rtol=1e-12)


@pytest.mark.parametrize(("method", "each"), [("calibrated", 1), ("antithetic", 2)])
def test_a_ridge_for_few_gradients(method, each):
    """Just enough vectors for a rank of d, and one more than d + 1: an inverse is noise in the first case."""
    d = 6
    for vectors in (d + 1, d + 2):
        oracle = FreshOracle(spectrum(d, 10), np.zeros(d), 50)
        est = rec.recover_hessian(oracle, each * vectors, method, rng=0)
        assert est.n_vectors == vectors
        assert np.linalg.matrix_rank(est.hessian) == d
        expected = np.trace(est.hessian) / vectors if vectors == d + 1 else 0
        assert rec.preconditioner(est).ridge == pytest.approx(expected)


def test_an_exact_hessian_needs_no_ridge(data):
    oracle = rec.LinearRegressionOracle(*data, batch_size=4, rng=0)  # as many rows as columns
    est = rec.recover_hessian(oracle, None, "orthogonal", rng=0)
    assert rec.preconditioner(est).ridge == 0


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


# ---- what people see ----


def test_summary_and_plot(data, tmp_path):
    oracle = rec.LinearRegressionOracle(*data, batch_size=25, rng=0)
    for method in ("antithetic", "calibrated"):
        est = rec.recover_hessian(oracle, 1000, method, rng=0)
        text = est.summary()
        assert f"Hessian of 4 parameters from 1,000 gradients on batches of 25 ({method})" in text
        assert max(map(len, text.splitlines())) <= 100
        assert str(est) == text
        assert repr(est) == f"<HessianEstimate: 4 parameters from 1,000 gradients, {method}>"
        path = tmp_path / f"{method}.png"
        figure = est.plot(path, reference=oracle.hessian())
        assert path.stat().st_size > 10_000
        assert len(figure.axes) == 2
    with pytest.raises(InputError, match="must end in"):
        est.plot(tmp_path / "figure.jpeg")
    few = rec.recover_hessian(oracle, 4, "difference", rng=0)
    assert few.sampling_error == np.inf
    exact = rec.recover_hessian(oracle, None, "orthogonal", rng=0)
    for nothing_to_predict in (few, exact):  # a warning is an error here
        assert len(nothing_to_predict.plot(tmp_path / "spectrum.png").axes) == 1
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
