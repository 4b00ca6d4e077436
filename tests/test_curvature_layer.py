"""H, M and C of layers and of generalised linear models against sums over explicit per-sample matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradhess as gh
from gradhess import curvature as cv
from gradhess.curvature import _kronecker, _layer
from gradhess.errors import InputError, InputTypeError, NonFiniteError, ResultTooLargeError

EPS = np.finfo(np.float64).eps


def make_samples(n, k, m, r=None, *, seed=0, positive=True, sparse=True):
    rng = np.random.default_rng([seed, n, k, m])
    rows = k if r is None else r
    root = rng.standard_normal((n, rows, rows))
    S = root @ root.transpose(0, 2, 1)
    if not positive:
        S -= 2 * np.eye(rows)
    F = None if r is None else rng.standard_normal((n, r, k))
    a = rng.standard_normal((n, m))
    if sparse:
        a = np.maximum(a, 0)
    return cv.LayerSamples(a, rng.standard_normal((n, k)), S, F, positive or None)


def explicit(samples):
    """Per-sample gradients (n, p) and Hessians (n, p, p), by Kronecker products."""
    g = np.stack([np.kron(b, a) for a, b in zip(samples.activations, samples.errors, strict=True)])
    h = [np.kron(Q, np.outer(a, a)) for a, Q in zip(samples.activations, samples.hessians(), strict=True)]
    return g, np.stack(h)


def assert_curvature(found, g, h, batch_size=1):
    """Sums of n products with a relative error of some eps each, against the sum of their sizes."""
    n, p = g.shape
    terms = 8 * (n + p) * EPS
    squared = h @ h
    sizes = (np.abs(h), np.abs(h) @ np.abs(h), np.abs(g)[:, :, None] * np.abs(g)[:, None, :])
    centred = g - g.mean(axis=0)
    expected = (h.mean(axis=0), squared.mean(axis=0), centred.T @ centred / n / batch_size)
    for name, matrix, size in zip("HMC", expected, sizes, strict=True):
        bound = terms * size.mean(axis=0) + np.finfo(float).tiny
        assert (np.abs(getattr(found, name) - matrix) <= bound).all(), name
        assert (getattr(found, name) == getattr(found, name).T).all()
    spectra = np.linalg.eigvalsh(h)
    assert found.kappa_max == pytest.approx(np.abs(spectra).max(), rel=8 * p * EPS)
    assert found.n_samples == n
    return spectra


@pytest.mark.parametrize(
    ("n", "k", "m", "r"), [(40, 3, 5, None), (40, 5, 4, 2), (1, 2, 3, 2), (30, 1, 6, 1), (25, 4, 1, 6)]
)
@pytest.mark.parametrize("positive", [True, False])
def test_a_layer_is_the_mean_of_its_samples(n, k, m, r, positive):
    samples = make_samples(n, k, m, r, positive=positive)
    spectra = assert_curvature(cv.layer_curvature(samples), *explicit(samples))
    assert cv.layer_curvature(samples).positive is bool(spectra.min() > -1e-9)


def test_wide_layers_take_the_other_way(monkeypatch):
    samples = make_samples(20, 2, 7, 2)
    narrow = cv.layer_curvature(samples)
    monkeypatch.setattr(_kronecker, "WIDE", 7)
    assert_curvature(cv.layer_curvature(samples), *explicit(samples))
    assert cv.cosine(narrow.H, cv.layer_curvature(samples).H) == pytest.approx(1.0, abs=8 * EPS)


def test_rows_are_summed_in_pieces(monkeypatch):
    samples = make_samples(50, 7, 3, 4)
    monkeypatch.setattr(_layer, "ROWS", 16)
    monkeypatch.setattr(_layer, "PIECE_ROWS", 5)
    assert_curvature(cv.layer_curvature(samples), *explicit(samples))


@pytest.mark.parametrize("source", ["list", "generator", "function"])
def test_pieces_make_the_whole(source):
    samples = make_samples(60, 3, 4, 2)
    pieces = [samples.part(0, 17), samples.part(17, 17), samples.part(17, 60)]
    given = {"list": pieces, "generator": iter(pieces), "function": lambda: iter(pieces)}[source]
    assert_curvature(cv.layer_curvature(given), *explicit(samples))


@pytest.mark.parametrize(("k", "m", "r"), [(3, 4, None), (3, 4, 2), (1, 64, 1)])
def test_how_samples_are_cut_changes_no_bits(backend, k, m, r):
    """Batches of a loader are joined to whole slabs before they are summed, the last shape by weighted Grams."""
    samples = make_samples(2500, k, m, r, positive=False)
    whole = cv.layer_curvature(samples)
    for size in (1, 100, 1024, 1500):
        pieces = [samples.part(start, start + size) for start in range(0, 2500, size)]
        found = cv.layer_curvature(pieces)
        for name in "HMC":
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        assert (found.n_samples, found.positive) == (2500, whole.positive)
        assert found.kappa_max == whole.kappa_max


def test_pieces_may_keep_their_hessians_in_different_forms():
    """As where one batch of a smooth network happens to see no curvature of the network itself."""
    samples = make_samples(60, 3, 4, 2)
    first, last = samples.part(0, 20), samples.part(20, 60)
    formed = cv.LayerSamples(last.activations, last.errors, last.hessians(), None, positive=True)
    found = cv.layer_curvature([first, formed])
    assert_curvature(found, *explicit(samples))
    assert found.positive


def test_the_batch_size_divides_the_noise_alone():
    samples = make_samples(30, 3, 4)
    one, eight = cv.layer_curvature(samples), cv.layer_curvature(samples, batch_size=8)
    assert (one.C / 8 == eight.C).all()
    assert (one.H == eight.H).all()
    assert (one.M == eight.M).all()
    g, _ = explicit(samples)
    bound = 100 * EPS * np.abs(g).max() ** 2
    np.testing.assert_allclose(cv.gradient_noise_covariance(g, batch_size=8), eight.C, rtol=0, atol=bound)


def test_the_order_of_samples_does_not_matter():
    samples = make_samples(50, 3, 4, 2)
    order = np.random.default_rng(1).permutation(50)
    one, other = cv.layer_curvature(samples), cv.layer_curvature(samples.select(order))
    for name in "HMC":
        size = np.abs(getattr(one, name)).max()
        assert np.abs(getattr(one, name) - getattr(other, name)).max() <= 200 * EPS * size


def test_labels_of_the_model_make_the_noise_the_hessian():
    """E[e e^T] = S for labels drawn from P. Every label occurs as often as P says, so the equality is exact."""
    rng = np.random.default_rng(0)
    counts = np.array([1, 2, 5])
    labels = np.repeat([0, 1, 2], counts)
    logits = np.log(counts / 8)
    a = np.repeat(rng.standard_normal((10, 4)), 8, axis=0)
    J = np.repeat(rng.standard_normal((10, 3, 5)), 8, axis=0)
    e, S, _ = cv.output_terms(np.tile(logits, (80, 1)), np.tile(labels, 10), "cross_entropy")
    found = cv.layer_curvature(cv.LayerSamples(a, np.einsum("prk,pr->pk", J, e), S, J, positive=True))
    assert np.abs(found.C - found.H).max() <= 100 * EPS * np.abs(found.H).max()


def test_a_layer_that_never_fires():
    samples = cv.LayerSamples(np.zeros((9, 3)), np.ones((9, 2)), np.ones((9, 2, 2)))
    found = cv.layer_curvature(samples, batch_size=3)
    assert not found.H.any()
    assert not found.C.any()
    assert found.kappa_max == 0
    assert cv.analyze(found).sandwich.holds


def test_samples_are_checked():
    a, b, S = np.ones((4, 3)), np.ones((4, 2)), np.ones((4, 2, 2))
    for bad in [
        (a[:3], b, S),
        (a, b, S[:, :1]),
        (a, b, S, np.ones((4, 2, 3))),
        (a[0], b, S),
        (a[:, :0], b, S),
    ]:
        with pytest.raises(InputError):
            cv.LayerSamples(*bad)
    with pytest.raises(InputTypeError):
        cv.LayerSamples(a * 1j, b, S)
    a[2, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"activations\[2\]") as caught:
        cv.LayerSamples(a, b, S)
    assert caught.value.row == 2
    for nothing in ([], make_samples(5, 2, 2).part(0, 0)):
        with pytest.raises(InputError, match="empty"):
            cv.layer_curvature(nothing)
    with pytest.raises(InputError, match="shape"):
        cv.layer_curvature([make_samples(5, 2, 3), make_samples(5, 2, 4)])
    with pytest.raises(InputTypeError):
        cv.layer_curvature([np.ones(3)])
    with pytest.raises(InputError, match="batch_size"):
        cv.layer_curvature(make_samples(5, 2, 3), batch_size=0)
    with pytest.raises(ResultTooLargeError, match="layer_spectrum"):
        cv.layer_curvature(
            cv.LayerSamples(np.ones((1, 2000)), np.ones((1, 1000)), np.ones((1, 1, 1)), np.ones((1, 1, 1000)))
        )


# ---- matrix-free ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [None, 2])
@pytest.mark.parametrize("positive", [True, False])
def test_the_spectrum_without_matrices_is_that_of_the_matrices(r, positive):
    samples = make_samples(60, 4, 5, r, positive=positive)
    dense = cv.layer_curvature(samples, batch_size=7)
    found = cv.layer_spectrum([samples.part(0, 31), samples.part(31, 60)], 6, batch_size=7)
    scale = 500 * EPS * np.abs(dense.eigenvalues).max()
    np.testing.assert_allclose(found.H, dense.eigenvalues[:6], rtol=0, atol=scale)
    for i in range(6):  # diagonals belong to the vectors that were found, in this order
        v = found.eigenvectors[:, i]
        assert found.M[i] == pytest.approx(v @ dense.M @ v, rel=1000 * EPS)
        assert found.C[i] == pytest.approx(v @ dense.C @ v, rel=1000 * EPS)
    assert found.kappa_max == pytest.approx(dense.kappa_max, rel=1000 * EPS)
    assert found.positive is dense.positive
    assert cv.sandwich_check(found).holds


@pytest.mark.parametrize(
    ("n", "k", "m", "r", "count"), [(1, 3, 4, 1, 11), (3, 10, 10, 2, 50), (1, 1, 2, 1, 1)]
)
def test_the_spectrum_of_a_singular_hessian(n, k, m, r, count):
    """More eigenvalues than H has of rank: Lanczos starts anew where it runs out of directions."""
    samples = make_samples(n, k, m, r, sparse=False)
    found, dense = cv.layer_spectrum(samples, count), cv.layer_curvature(samples)
    scale = 500 * EPS * dense.eigenvalues[0]
    np.testing.assert_allclose(found.H, dense.eigenvalues[:count], rtol=0, atol=scale)
    V = found.eigenvectors
    np.testing.assert_allclose(V.T @ V, np.eye(count), rtol=0, atol=500 * EPS)
    assert cv.sandwich_check(found).holds


def test_variances_are_centred_before_they_are_squared():
    """Slopes of 1e8 that differ by 1: a variance from raw sums would have no digit right."""
    n = 64
    b = 1e8 + np.tile([-1.0, 1.0], n // 2)
    samples = cv.LayerSamples(
        np.ones((n, 1)), np.column_stack([b, b]), np.tile(np.diag([2.0, 1.0]), (n, 1, 1))
    )
    found = cv.layer_spectrum([samples.part(0, 20), samples.part(20, n)], 1)
    assert found.C[0] == pytest.approx(1.0, rel=1e-6)


def test_spectrum_of_nothing_and_what_is_refused():
    dead = cv.LayerSamples(np.zeros((9, 3)), np.ones((9, 2)), np.ones((9, 2, 2)))
    found = cv.layer_spectrum(dead, 2)
    assert not found.H.any()
    assert not found.C.any()
    samples = make_samples(9, 2, 3)
    for k in (0, 6):
        with pytest.raises(InputError):
            cv.layer_spectrum(samples, k)
    with pytest.raises(InputError, match="iterator"):
        cv.layer_spectrum(iter([samples]), 2)


# ---- surgery --------------------------------------------------------------------------------------------------------


def test_stiff_rank_one_samples_of_equal_stiffness_have_exponent_one():
    cut = cv.spectral_surgery(make_samples(80, 4, 5, 3), keep=1, damp_below=0.2, equalize_above=0.2)
    found = cv.layer_curvature(cut)
    assert np.abs(found.M - found.kappa_max * found.H).max() <= 500 * EPS * np.abs(found.M).max()
    assert cv.analyze(found, top=10).fit_M.exponent == pytest.approx(1.0, abs=1e-9)


def test_each_cut_does_what_it_says():
    samples = make_samples(40, 4, 5, 3)
    lengths = samples.squared_lengths()

    def spectra(s):
        return np.linalg.eigvalsh(s.hessians())[:, ::-1] * lengths[:, None]

    before = spectra(samples)
    largest = before[:, 0].max()
    rounding = {"rtol": 0, "atol": 100 * EPS * largest}
    np.testing.assert_allclose(spectra(cv.spectral_surgery(samples)), before, **rounding)
    kept = spectra(cv.spectral_surgery(samples, keep=2))
    np.testing.assert_allclose(kept[:, :2], before[:, :2], **rounding)
    np.testing.assert_allclose(kept[:, 2:], 0, **rounding)
    weak = before[:, 0] < 0.3 * largest
    assert weak.any()
    damped = spectra(cv.spectral_surgery(samples, damp_below=0.3, damping=0.5))
    np.testing.assert_allclose(damped, np.where(weak[:, None], 0.5, 1.0) * before, **rounding)
    level = spectra(cv.spectral_surgery(samples, equalize_above=0.3))[:, 0]
    np.testing.assert_allclose(level[~weak], before[~weak, 0].mean(), **rounding)
    for bad in ({"keep": 0}, {"damp_below": 2.0}, {"equalize_above": 0}, {"damping": -1.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            cv.spectral_surgery(samples, **bad)
    with pytest.raises(InputTypeError, match="damping must be a number, not str"):
        cv.spectral_surgery(samples, damping="0.5")


# ---- duality --------------------------------------------------------------------------------------------------------


def test_the_dual_change_of_weight_does_the_same_and_is_the_smallest():
    rng = np.random.default_rng(0)
    W, a, a2 = rng.standard_normal((3, 5)), rng.standard_normal((7, 5)), rng.standard_normal((7, 5))
    delta = cv.duality_delta(W, a, a2)
    np.testing.assert_allclose(np.einsum("pki,pi->pk", W + delta, a), a2 @ W.T, rtol=0, atol=100 * EPS)
    smallest = np.stack(
        [np.outer(W @ (q - p), np.linalg.pinv(p[:, None])) for p, q in zip(a, a2, strict=True)]
    )
    np.testing.assert_allclose(delta, smallest, rtol=0, atol=200 * EPS)
    np.testing.assert_allclose(cv.duality_delta(W, a[0], a2[0]), delta[0], rtol=0, atol=100 * EPS)
    for bad in [(W, a[:, :4], a2[:, :4]), (W, a, a2[:3]), (W, 0 * a, a2), (W[0], a, a2), (W, a, a2 * np.nan)]:
        with pytest.raises(InputError):
            cv.duality_delta(*bad)
    with pytest.raises(InputTypeError, match="W has dtype complex"):
        cv.duality_delta(W * 1j, a, a2)


def test_neighbours_are_the_nearest_of_their_class():
    points = np.array([[0.0], [1.0], [1.5], [0.1], [9.0], [9.5]])
    labels = np.array([0, 0, 0, 1, 1, 0])
    assert cv.same_class_neighbours(points, labels).tolist() == [1, 2, 1, 4, 3, 2]
    with pytest.raises(InputError, match="one sample"):
        cv.same_class_neighbours(points, [0, 0, 0, 0, 0, 1])
    with pytest.raises(InputError, match="activations"):
        cv.same_class_neighbours(np.full((6, 1), np.nan), labels)


def test_the_chain_of_approximations_by_explicit_matrices():
    samples = make_samples(30, 3, 4, 2, sparse=False)
    W = np.random.default_rng(1).standard_normal((3, 4))
    labels = np.arange(30) % 3
    other = cv.same_class_neighbours(samples.activations, labels)
    g, h = explicit(samples)
    dw = cv.duality_delta(W, samples.activations, samples.activations[other]).reshape(30, -1)
    hdw = np.einsum("pij,pj->pi", h, dw)
    D = (dw**2).mean(axis=0)
    half = 0.5 / 4
    expected = {
        "all terms": half * np.cov((g[other] - g).T, ddof=0),
        "h dw": half * np.cov(hdw.T, ddof=0),
        "same sample": half * hdw.T @ hdw / 30,
        "diagonal": half * (h @ (D[:, None] * h)).mean(axis=0),
        "isotropic": half * D.mean() * (h @ h).mean(axis=0),
    }
    C = np.cov(g.T, ddof=0) / 4
    found = cv.duality_terms(samples, W, other, batch_size=4)
    assert [term.name for term in found] == list(expected)
    for term in found:
        matrix = expected[term.name]
        np.testing.assert_allclose(term.matrix, matrix, rtol=0, atol=2000 * EPS * np.abs(matrix).max())
        assert term.cosine == pytest.approx(cv.cosine(matrix, C), abs=1e-12)
        assert term.scale == pytest.approx(np.trace(matrix) / np.trace(C), rel=1e-10)
    for bad in [(W.T, other), (W, other[:5]), (W, other + 30), (W, other * 0.5)]:
        with pytest.raises(InputError):
            cv.duality_terms(samples, *bad)


# ---- generalised linear models --------------------------------------------------------------------------------------

GLM = ["squared", "logistic", "poisson", "huber"]


def glm_problem(loss, n=50, d=4, dtype=np.float64):
    rng = np.random.default_rng([n, d])
    X = rng.standard_normal((n, d)).astype(dtype)
    y = {"logistic": rng.integers(0, 2, n), "poisson": rng.poisson(1.5, n), "softmax": rng.integers(0, 3, n)}
    coef = rng.standard_normal((3, d) if loss == "softmax" else d) / 2
    return X, y.get(loss, rng.standard_normal(n)), coef


def glm_explicit(X, y, coef, loss, intercept):
    Z = X if intercept is None else np.column_stack([X, np.ones(len(X))])
    eta = X @ coef.T + (0 if intercept is None else intercept)
    if loss == "softmax":
        first, S = gh.losses.softmax.derivative(eta, y), gh.losses.softmax.second_derivative(eta, y)
        g = np.stack([np.kron(e, z) for e, z in zip(first, Z, strict=True)])
        return g, np.stack([np.kron(s, np.outer(z, z)) for s, z in zip(S, Z, strict=True)])
    loss = gh.losses.huber() if loss == "huber" else getattr(gh.losses, loss)
    s = loss.second_derivative(eta, y)
    return loss.derivative(eta, y)[:, None] * Z, s[:, None, None] * Z[:, :, None] * Z[:, None, :]


@pytest.mark.parametrize("loss", [*GLM, "softmax"])
@pytest.mark.parametrize("with_intercept", [False, True])
def test_glm_curvature_is_the_mean_of_its_samples(loss, with_intercept, monkeypatch):
    from gradhess.curvature import _glm

    monkeypatch.setattr(_glm, "CHUNK_ENTRIES", 1)  # chunks of 64 rows, which straddle the 150
    X, y, coef = glm_problem(loss, n=150)
    intercept = None if not with_intercept else (np.array([0.3, -0.2, 0.1]) if loss == "softmax" else 0.3)
    found = cv.glm_curvature(X, y, coef, loss, intercept=intercept, batch_size=5)
    assert_curvature(found, *glm_explicit(X, y, coef, loss, intercept), batch_size=5)
    assert found.positive
    assert cv.sandwich_check(found).holds


def test_glm_curvature_agrees_with_the_gradients():
    X, y, coef = glm_problem("logistic", n=500)
    g = gh.glm_gradients(X, y, coef, "logistic")
    found = cv.glm_curvature(X, y, coef, "logistic")
    np.testing.assert_allclose(found.H, g.hessian() / 500, rtol=0, atol=1000 * EPS)
    np.testing.assert_allclose(found.C, cv.gradient_noise_covariance(g), rtol=0, atol=1000 * EPS)


def test_a_singular_design_float32_and_a_loss_that_is_not_convex():
    X, y, coef = glm_problem("logistic", dtype=np.float32)
    X[:, 3] = X[:, 2]
    report = cv.analyze(cv.glm_curvature(X, y, coef, "logistic"), top=4)
    assert report.rank == 3
    assert report.fit_C.n_used == 3  # the zero eigenvalue is rounding, and is left out
    assert report.sandwich.holds

    cauchy = gh.losses.custom(
        lambda eta, y: 2 * (eta - y) / (1 + (eta - y) ** 2),
        second=lambda eta, y: 2 * (1 - (eta - y) ** 2) / (1 + (eta - y) ** 2) ** 2,
    )
    found = cv.glm_curvature(np.eye(2), [0.0, 9.0], [0.0, 0.0], cauchy)
    assert found.positive is False
    np.testing.assert_allclose(np.diag(found.H), [1.0, (1 - 81) / 82**2], rtol=1e-12)
    with pytest.raises(InputError, match="second"):
        cv.glm_curvature(np.eye(2), [0.0, 9.0], [0.0, 0.0], gh.losses.custom(lambda eta, y: eta - y))


def test_glm_arguments():
    X, y, coef = glm_problem("logistic", n=200)
    with pytest.raises(InputTypeError):
        cv.glm_curvature(X * 1j, y, coef, "logistic")
    with pytest.raises(InputError):
        cv.glm_curvature(X, y, coef, "logistic", batch_size=0)
    with pytest.raises(InputError, match="no rows"):
        cv.glm_curvature(X[:0], y[:0], coef, "logistic")
    with pytest.raises(InputError):
        cv.gradient_noise_covariance(np.empty((0, 3)))
    with pytest.raises(InputTypeError):
        cv.gradient_noise_covariance(X * 1j)
    for loss in ("logistic", "softmax"):
        X, y, coef = glm_problem(loss, n=200)
        X[150, 2] = np.nan
        with pytest.raises(NonFiniteError, match="150") as caught:
            cv.glm_curvature(X, y, coef, loss)
        assert caught.value.row == 150


# ---- output losses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "softmax_mse"])
def test_derivatives_by_the_outputs_against_finite_differences(loss):
    """Central differences of the value, then of the first derivative: h^2 from the formula, eps / h from rounding."""
    rng = np.random.default_rng(0)
    o, t = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    T = np.eye(4)[t]

    def value(o):
        P = np.exp(o) / np.exp(o).sum(axis=1, keepdims=True)
        if loss == "cross_entropy":
            return -np.log(P[np.arange(6), t])
        return (((o if loss == "mse" else P) - T) ** 2).mean(axis=1)

    step = EPS ** (1 / 3)
    e, S, positive = cv.output_terms(o, t, loss)
    for q in range(4):
        up, down = o + step * np.eye(4)[q], o - step * np.eye(4)[q]
        np.testing.assert_allclose((value(up) - value(down)) / (2 * step), e[:, q], rtol=0, atol=20 * step**2)
        slope = (cv.output_terms(up, t, loss).errors - cv.output_terms(down, t, loss).errors) / (2 * step)
        np.testing.assert_allclose(slope, S[:, q], rtol=0, atol=20 * step**2)
    assert positive is (None if loss == "softmax_mse" else True)
    if loss != "cross_entropy":  # numbers as targets
        np.testing.assert_array_equal(cv.output_terms(o, T, loss).errors, e)


def test_nothing_is_lost_where_one_class_is_almost_certain():
    e, S, _ = cv.output_terms([[40.0, 0.0, 0.0]], [0], "cross_entropy")
    small = math.exp(-40)
    assert e[0, 0] == pytest.approx(-2 * small, rel=1e-12, abs=0)  # P - 1 would be 0
    assert S[0, 0, 0] == pytest.approx(2 * small, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("outputs", "targets", "loss"),
    [
        (np.ones((3, 2)), [0, 1, 2], "cross_entropy"),
        (np.ones((3, 2)), [0, 1], "cross_entropy"),
        (np.ones((3, 2)), np.ones((3, 2)), "cross_entropy"),
        (np.ones((3, 2)), np.ones((3, 3)), "mse"),
        (np.ones((3, 2)), [0, 1, 1], "hinge"),
        (np.ones(3), [0, 1, 1], "mse"),
    ],
)
def test_targets_are_checked(outputs, targets, loss):
    with pytest.raises(InputError):
        cv.output_terms(outputs, targets, loss)
