"""Structured gradients against the matrix that they never form, and against other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.sparse.linalg import svds
from sklearn.linear_model import LogisticRegression

import gradhess as gh
from gradhess import losses
from gradhess._validation import resolve_loss
from gradhess.curvature import gradient_noise_covariance

N, D, K = 700, 5, 3
SCALAR = ["squared", "logistic", "poisson", "huber"]


def make_problem(loss, *, intercept, weighted, dtype=np.float64, n=N, seed=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D)).astype(dtype)
    y = {
        "squared": rng.normal(size=n),
        "huber": 3 * rng.normal(size=n),
        "logistic": rng.integers(0, 2, n),
        "poisson": rng.poisson(2.0, n),
        "softmax": rng.integers(0, K, n),
    }[loss]
    shape = (K,) if loss == "softmax" else ()
    return {
        "X": X,
        "y": y,
        "coef": 0.3 * rng.normal(size=(*shape, D)),
        "loss": loss,
        "intercept": 0.2 * rng.normal(size=shape) if intercept else None,
        "sample_weight": rng.uniform(0, 2, n) if weighted else None,
    }


def explicit(problem):
    """(G, summed loss) from the formulas, in float64."""
    X, eta, weight = augmented(problem)
    loss = resolve_loss(problem["loss"])
    residual = loss.derivative(eta, problem["y"]).reshape(len(X), -1)
    G = ((weight[:, None] * residual)[:, :, None] * X[:, None, :]).reshape(len(X), -1)
    return G, weight @ loss.value(eta, problem["y"])


def augmented(problem):
    """``[X, 1]`` or ``X``, the linear predictor, and the loss weights."""
    X = problem["X"].astype(np.float64)
    intercept = problem["intercept"]
    eta = X @ problem["coef"].T + (0.0 if intercept is None else intercept)
    if intercept is not None:
        X = np.hstack([X, np.ones((len(X), 1))])
    return X, eta, np.ones(len(X)) if problem["sample_weight"] is None else problem["sample_weight"]


def magnitudes(problem):
    """S >= |G|, such that a row is known to eps * S: eta is known to eps times the sum of its terms, and l' moves
    by l'' times that."""
    X, eta, weight = augmented(problem)
    terms = np.abs(problem["X"].astype(np.float64)) @ np.abs(problem["coef"]).T + np.abs(eta)
    y = problem["y"] if problem["loss"] != "softmax" else np.zeros(len(X))
    steepness = np.exp(eta) if problem["loss"] == "poisson" else 1.0
    size = ((1 + steepness) * (1 + terms)).reshape(len(X), -1) + np.abs(y)[:, None]
    return ((weight[:, None] * size)[:, :, None] * np.abs(X)[:, None, :]).reshape(len(X), -1)


def bound(S, dtype, other=None):
    """Rounding of an inner product over n rows that are themselves rounded: c eps sum S_i S_j.

    The rows carry a few roundings each; of the products at most 256 are added in float32 before float64 takes over,
    and their errors add up as a random walk, so c = 16 covers both.
    """
    return 16 * np.finfo(dtype).eps * (S.T @ (S if other is None else np.abs(other)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("loss", [*SCALAR, "softmax"])
def test_every_contraction_matches_the_explicit_matrix(backend, loss, intercept, weighted, dtype):
    problem = make_problem(loss, intercept=intercept, weighted=weighted, dtype=dtype)
    (G, value), S = explicit(problem), magnitudes(problem)
    g = gh.glm_gradients(**problem)
    n, p = G.shape
    eps = 16 * np.finfo(dtype).eps

    assert g.shape == (n, p) == (g.n_samples, g.n_parameters)
    assert g.dtype == dtype
    assert (np.abs(g.toarray() - G) <= eps * S).all()
    assert (np.abs(g.gram() - G.T @ G) <= bound(S, dtype)).all()
    assert (np.abs(g.sum() - G.sum(axis=0)) <= eps * S.sum(axis=0)).all()
    np.testing.assert_array_equal(g.mean(), g.sum() / n)
    assert g.loss() == pytest.approx(value, rel=1e-12)
    assert (np.abs(g.diagonal() - (G * G).sum(axis=0)) <= np.diag(bound(S, dtype))).all()
    assert (np.abs(g.norms() - np.linalg.norm(G, axis=1)) <= eps * np.linalg.norm(S, axis=1)).all()
    assert (np.abs(g.covariance(ddof=1) - np.cov(G.T, ddof=1)) <= 2 * bound(S, dtype) / (n - 1)).all()

    rng = np.random.default_rng(4)
    v, u = rng.normal(size=(p, 2)), rng.normal(size=(n, 2))
    assert (np.abs(g.matvec(v) - G @ v) <= eps * (S @ np.abs(v))).all()
    assert (np.abs(g.rmatvec(u) - G.T @ u) <= eps * (S.T @ np.abs(u))).all()
    assert g.matvec(v[:, 0]).shape == (n,)
    assert (np.abs(g.matvec(v[:, 0]) - G @ v[:, 0]) <= eps * (S @ np.abs(v[:, 0]))).all()
    assert g.rmatvec(u[:, 0]).shape == (p,)
    assert g.gram_matvec(v[:, 0]).shape == (p,)
    assert (np.abs(g.gram_matvec(v) - G.T @ (G @ v)) <= 2 * eps * (S.T @ (S @ np.abs(v)))).all()
    assert (np.abs(g.rmatvec(u[:, 0]) - G.T @ u[:, 0]) <= eps * (S.T @ np.abs(u[:, 0]))).all()


@pytest.mark.parametrize("loss", [*SCALAR, "softmax"])
def test_hessian_is_the_derivative_of_the_gradient(backend, loss):
    """Central differences: error step^2 times the fourth derivative of the summed loss, and eps / step times it."""
    problem = make_problem(loss, intercept=True, weighted=True, n=300)
    hessian = gh.glm_gradients(**problem).hessian()
    np.testing.assert_array_equal(hessian, hessian.T)
    step = 2.0**-18
    parameters = np.concatenate(
        [np.atleast_2d(problem["coef"]), np.reshape(problem["intercept"], (-1, 1))], axis=1
    )
    p = parameters.size
    for j in range(p):
        sides = []
        for sign in (1, -1):
            moved = parameters.copy()
            moved.flat[j] += sign * step
            coef, intercept = moved[:, :-1], moved[:, -1]
            if loss != "softmax":
                coef, intercept = coef[0], intercept[0]
            sides.append(gh.glm_gradients(**{**problem, "coef": coef, "intercept": intercept}).sum())
        scale = np.abs(hessian).max()
        # The corners of huber move by less than a row for such a step, unless a row is hit: the seed hits none.
        np.testing.assert_allclose(hessian[:, j], (sides[0] - sides[1]) / (2 * step), atol=1e-7 * scale)


def test_meat_of_the_sandwich_is_that_of_statsmodels(backend):
    problem = make_problem("squared", intercept=True, weighted=False)
    X, y = sm.add_constant(problem["X"], prepend=False), problem["y"]
    fitted = sm.OLS(y, X).fit()
    g = gh.glm_gradients(problem["X"], y, fitted.params[:-1], intercept=fitted.params[-1])
    bread = np.linalg.inv(g.hessian())
    np.testing.assert_allclose(bread @ g.gram() @ bread, fitted.cov_HC0, rtol=1e-10)
    assert np.abs(g.sum()).max() < 1e-10  # at the solution


def test_logistic_gradient_vanishes_where_scikit_learn_has_converged(backend):
    problem = make_problem("logistic", intercept=False, weighted=False)
    fitted = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(problem["X"], problem["y"])
    g = gh.glm_gradients(
        problem["X"], problem["y"], fitted.coef_[0], "logistic", intercept=fitted.intercept_[0]
    )
    assert np.abs(g.mean()).max() < 1e-6


def test_custom_loss_runs_in_the_same_contractions(backend):
    pytest.importorskip("numba")
    loss = losses.custom(
        lambda eta, y: math.tanh(eta - y),
        value=lambda eta, y: math.log(math.cosh(eta - y)),
        second=lambda eta, y: 1.0 - math.tanh(eta - y) ** 2,
    )
    problem = make_problem("squared", intercept=True, weighted=True, n=300)
    problem["loss"] = loss
    (G, value), S = explicit(problem), magnitudes(problem)
    g = gh.glm_gradients(**problem)
    assert (np.abs(g.gram() - G.T @ G) <= bound(S, np.float64)).all()
    assert g.loss() == pytest.approx(value, rel=1e-12)
    eta = problem["X"] @ problem["coef"] + problem["intercept"]
    X = np.hstack([problem["X"], np.ones((300, 1))])
    curvature = problem["sample_weight"] * loss.second_derivative(eta, problem["y"])
    np.testing.assert_allclose(g.hessian(), X.T @ (curvature[:, None] * X), rtol=1e-11, atol=1e-11)


def test_custom_loss_without_value_or_second_says_so():
    problem = {
        **make_problem("squared", intercept=False, weighted=False),
        "loss": losses.custom(lambda eta, y: eta),
    }
    g = gh.glm_gradients(**problem)
    with pytest.raises(gh.errors.InputError, match="value="):
        g.loss()
    with pytest.raises(gh.errors.InputError, match="second="):
        g.hessian()


def test_intercept_zero_is_a_parameter_and_none_is_not():
    problem = make_problem("logistic", intercept=False, weighted=False)
    assert gh.glm_gradients(**problem).shape == (N, D)
    with_intercept = gh.glm_gradients(**{**problem, "intercept": 0.0})
    assert with_intercept.shape == (N, D + 1)
    np.testing.assert_array_equal(with_intercept.toarray()[:, :D], gh.glm_gradients(**problem).toarray())


def test_softmax_parameters_are_row_major_with_the_intercept_last_in_each_row(backend):
    problem = make_problem("softmax", intercept=True, weighted=False, n=4)
    G = gh.glm_gradients(**problem).toarray().reshape(4, K, D + 1)
    delta = G[:, :, -1]
    np.testing.assert_allclose(delta.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(G[:, :, :-1], delta[:, :, None] * problem["X"][:, None, :], rtol=1e-14)


@pytest.mark.parametrize("structured", [True, False])
def test_what_a_pass_finds_on_its_way_is_what_is_asked_for_later(backend, structured):
    """The sum and the loss have the same bits whether they come from a pass of their own or with the Gram matrix."""
    problem = make_problem("poisson", intercept=True, weighted=True, n=9000)
    fresh = (lambda: gh.glm_gradients(**problem)) if structured else (lambda: gh.as_gradients(problem["X"]))
    alone, after_gram, after_diagonal = fresh(), fresh(), fresh()
    after_gram.gram()
    after_diagonal.diagonal()
    np.testing.assert_array_equal(after_gram.sum(), alone.sum())
    np.testing.assert_array_equal(after_diagonal.sum(), alone.sum())
    if structured:
        assert after_gram.loss() == after_diagonal.loss() == alone.loss()


def test_results_are_copies():
    g = gh.as_gradients(np.ones((3, 2)))
    g.sum()[:] = 7
    np.testing.assert_array_equal(g.sum(), [3, 3])


@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "read-only", "int", "bool", "float16"])
def test_memory_layouts_and_types_of_the_data(backend, layout):
    rng = np.random.default_rng(5)
    X = rng.integers(0, 2, (600, 4)).astype(np.float64)
    given = {
        "C": X,
        "F": np.asfortranarray(X),
        "strided": np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": X[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": X.copy(),
        "int": X.astype(np.int32),
        "bool": X.astype(bool),
        "float16": X.astype(np.float16),
    }[layout]
    given.flags.writeable = layout != "read-only"
    before = given.copy()
    coef, y = rng.normal(size=4), X[:, 0]
    expected = gh.glm_gradients(X, y, coef, "logistic", intercept=0.5)
    g = gh.glm_gradients(given, y, coef, "logistic", intercept=0.5)
    eps = np.finfo(g.dtype).eps
    np.testing.assert_allclose(g.gram(), expected.gram(), rtol=16 * eps, atol=600 * eps)
    np.testing.assert_array_equal(given, before)


def test_float32_accumulates_in_float64_unless_asked_otherwise(backend):
    X = np.random.default_rng(6).normal(size=(500, 3)).astype(np.float32)
    g = gh.as_gradients(X)
    assert g.gram().dtype == np.float64
    assert g.covariance().dtype == np.float64
    assert g.gram(dtype="float32").dtype == np.float32
    assert g.covariance(dtype=np.float32).dtype == np.float32
    np.testing.assert_allclose(g.gram(dtype="float32"), g.gram(), rtol=1e-5, atol=1e-3)
    with pytest.raises(gh.errors.InputTypeError, match="float32"):
        gh.as_gradients(X.astype(np.float64)).gram(dtype="float32")
    with pytest.raises(gh.errors.InputError, match="dtype"):
        g.gram(dtype="float16")
    with pytest.raises(gh.errors.InputError, match="dtype"):
        g.gram(dtype=None)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_products_have_the_same_bits_for_any_number_of_threads(backend, threads, monkeypatch):
    monkeypatch.setattr("gradhess._gradients.passes.PIECE_PRODUCTS", 1 << 16)  # many pieces
    problem = make_problem("logistic", intercept=True, weighted=True, n=3000)
    u = np.random.default_rng(7).normal(size=3000)

    def products():
        g = gh.glm_gradients(**problem)
        return g.gram(), g.rmatvec(u), g.gram_matvec(g.sum()), g.covariance(), g.hessian(), g.sum()

    expected = products()
    gh.set_num_threads(threads)
    try:
        found = products()
    finally:
        gh.set_num_threads(None)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_linear_operator_has_the_singular_values_of_the_matrix(backend):
    problem = make_problem("squared", intercept=True, weighted=False, n=60)
    g = gh.glm_gradients(**problem)
    operator = g.as_linear_operator()
    assert operator.shape == g.shape
    G, _ = explicit(problem)
    np.testing.assert_allclose(
        svds(operator, k=2, return_singular_vectors=False, rng=0), np.linalg.svd(G)[1][[1, 0]], rtol=1e-10
    )


def test_empty_batches_have_zero_sums_and_no_mean(backend):
    g = gh.glm_gradients(np.empty((0, 3)), [], np.zeros(3), "logistic")
    assert g.shape == (0, 3)
    np.testing.assert_array_equal(g.sum(), np.zeros(3))
    np.testing.assert_array_equal(g.gram(), np.zeros((3, 3)))
    np.testing.assert_array_equal(g.rmatvec(np.empty(0)), np.zeros(3))
    np.testing.assert_array_equal(g.gram_matvec(np.ones(3)), np.zeros(3))
    assert g.loss() == 0.0
    assert g.norms().shape == (0,)
    assert g.toarray().shape == (0, 3)
    with pytest.raises(gh.errors.InputError, match="more than 0 rows"):
        g.mean()
    with pytest.raises(gh.errors.InputError, match="more than 1 rows"):
        gh.as_gradients(np.ones((1, 3))).covariance(ddof=1)


def test_explicit_gradients_have_no_loss():
    g = gh.as_gradients(np.ones((2, 2)))
    assert gh.as_gradients(g) is g
    assert repr(g) == "<DenseGradients of shape (2, 2), float64>"
    with pytest.raises(gh.errors.InputError, match="no loss"):
        g.loss()
    with pytest.raises(gh.errors.InputError, match="no Hessian"):
        g.hessian()


def test_rows_that_are_not_finite_are_named(backend):
    problem = make_problem("poisson", intercept=False, weighted=True)
    problem["X"][613, 2] = np.nan
    for method in ("gram", "sum", "covariance", "diagonal", "norms", "hessian", "loss"):
        with pytest.raises(gh.errors.NonFiniteError, match=r"X\[613, 2\] is nan") as caught:
            getattr(gh.glm_gradients(**problem), method)()
        assert caught.value.row == 613
    g = gh.glm_gradients(**problem)
    for product in (
        lambda: g.matvec(np.ones(D)),
        lambda: g.rmatvec(np.ones(N)),
        lambda: g.gram_matvec(np.ones(D)),
    ):
        with pytest.raises(gh.errors.NonFiniteError, match="613"):
            product()

    problem = make_problem("poisson", intercept=False, weighted=True)
    problem["X"][5] = 1e200
    problem["coef"][:] = 1.0
    with pytest.raises(gh.errors.NonFiniteError, match="gradient of row 5 overflows float64"):
        gh.glm_gradients(**problem).gram()


def test_explicit_rows_that_are_not_finite_are_named_as_the_argument(backend):
    G = np.ones((2000, 3))
    G[1613, 2] = np.nan
    g = gh.as_gradients(G)
    for ask in (
        g.gram,
        g.covariance,
        g.diagonal,
        g.sum,
        g.norms,
        g.toarray,
        g.cogram,
        lambda: g.matvec(np.ones(3)),
        lambda: g.project(gh.sketches.gaussian(2)),
        lambda: gh.StreamingCovariance().partial_fit(g),
    ):
        with pytest.raises(gh.errors.NonFiniteError, match=r"^G\[1613, 2\] is nan") as caught:
            ask()
        assert caught.value.row == 1613
    stream = gh.StreamingCovariance(on_nonfinite="skip").partial_fit(g)
    assert stream.n_samples_seen_ == 1999
    with pytest.raises(gh.errors.NonFiniteError, match=r"^gradients\[1613, 2\] is nan"):
        gradient_noise_covariance(G)
    with pytest.raises(gh.errors.InputError, match=r"^R has shape \(2, 3\)"):
        g.project(np.ones((2, 3)))
    with pytest.raises(gh.errors.InputError, match=r"^gradients has shape \(3,\)"):
        gh.grouped(G[0], group_size=1)


def test_a_softmax_hessian_names_the_row(backend):
    problem = make_problem("softmax", intercept=False, weighted=False)
    problem["X"][300, 1] = np.inf
    with pytest.raises(gh.errors.NonFiniteError, match=r"X\[300, 1\] is inf"):
        gh.glm_gradients(**problem).hessian()


def test_numpy_does_not_take_gradients_for_an_object():
    with pytest.raises(gh.errors.InputTypeError, match=r"never formed.*toarray\(\)"):
        np.asarray(gh.as_gradients(np.ones((2, 2))))
