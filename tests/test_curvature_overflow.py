"""Curvatures of numbers too large for float64, of one sample, and of matrices of any size or of none."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from gradhess import curvature as cv
from gradhess.errors import InputError, NonFiniteError

EPS = np.finfo(np.float64).eps
N = 200


def samples(scale=1.0, *, row=None, loss=1.0, factor=True):
    """With one activation, or all, of that scale, and a loss of that scale."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((N, 3))
    a[row if row is not None else slice(None)] *= scale
    F = rng.standard_normal((N, 2, 4)) if factor else None
    S = np.tile(np.eye(2 if factor else 4), (N, 1, 1)) * loss
    return cv.LayerSamples(a, rng.standard_normal((N, 4)), S, F, positive=True)


@pytest.mark.parametrize("factor", [True, False])
def test_a_layer_that_overflows_names_the_first_sample(factor):
    for found in (samples(1e80, row=150, factor=factor), samples(1e200, row=150, factor=factor)):
        for ask in (
            lambda s: cv.layer_curvature([s.part(0, 70), s.part(70, N)]),
            lambda s: cv.layer_spectrum([s.part(0, 70), s.part(70, N)], 2),
        ):
            with pytest.raises(NonFiniteError, match="sample 150 overflows float64") as caught:
                ask(found)
            assert caught.value.row == 150
    with pytest.raises(NonFiniteError, match="sample 0 overflows"):
        cv.layer_curvature(samples(loss=1e160, factor=factor))


@pytest.mark.parametrize("factor", [True, False])
def test_what_does_not_overflow_is_scaled(factor):
    """H by the square of the activations, M by their fourth power; powers of two change no digit."""
    one, large = (
        cv.layer_curvature(samples(factor=factor)),
        cv.layer_curvature(samples(2.0**200, factor=factor)),
    )
    np.testing.assert_array_equal(large.H, one.H * 2.0**400)
    np.testing.assert_array_equal(large.M, one.M * 2.0**800)
    np.testing.assert_array_equal(large.C, one.C * 2.0**400)


def glm(loss):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 4))
    y = (X[:, 0] > 0).astype(float)
    coef = np.ones((2, 4)) if loss == "softmax" else np.ones(4) / 4
    return X, y, coef


@pytest.mark.parametrize("loss", ["squared", "logistic", "poisson", "softmax"])
@pytest.mark.parametrize("size", [1e80, 1e200])
def test_features_that_overflow_are_named_with_what_to_do(loss, size):
    X, y, coef = glm(loss)
    X[150] *= size
    with pytest.raises(NonFiniteError, match=r"row 150 of X overflows.*divide X by a number c") as caught:
        cv.glm_curvature(X, y, coef / size, loss)
    assert caught.value.row == 150
    # And the advice is right: the same model, with X divided and coef multiplied.
    one = cv.glm_curvature(X / size, y, coef, loss)
    other = cv.glm_curvature(X / size * 2.0**10, y, coef / 2.0**10, loss)
    for name, power in (("H", 2), ("M", 4), ("C", 2)):
        np.testing.assert_array_equal(getattr(other, name), getattr(one, name) * 2.0 ** (10 * power))


def test_coefficients_and_labels_that_overflow_are_named():
    X, y, coef = glm("poisson")
    with pytest.raises(NonFiniteError, match=r"overflows H, M or C .*coef up to 500.*check coef and y"):
        cv.glm_curvature(X, y, coef * 2000, "poisson")
    with pytest.raises(NonFiniteError, match=r"overflows H, M or C .*y 1e\+200.*check coef and y"):
        cv.glm_curvature(X, y * 1e200, coef, "squared")
    with pytest.raises(NonFiniteError, match=r"X times coef overflows .*rescale X or coef"):
        cv.glm_curvature(X * 1e200, y, coef * 1e200, "squared")
    for place in ("X", "y"):
        X, y, coef = glm("squared")
        {"X": X, "y": y}[place][150] = np.nan
        with pytest.raises(NonFiniteError, match=rf"^{place}\[150.*\] is nan; drop") as caught:
            cv.glm_curvature(X, y, coef, "squared")
        assert caught.value.row == 150


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_one_sample_has_no_noise(loss):
    """C is zero, and not the rounding of a difference, of which every measure would be nonsense."""
    X, y, coef = glm(loss)
    found = cv.glm_curvature(X[:1] / 3, y[:1], coef, loss)
    assert found.H.any()
    assert not found.C.any()
    layer = cv.layer_curvature(samples().part(0, 1))
    assert layer.H.any()
    assert not layer.C.any()
    report = cv.analyze(layer)
    assert report.fit_C is None
    assert np.isnan(report.cosine_CM)


# ---- measures that do not depend on scale, and where they are not defined -------------------------------------------


def pair(p=6):
    rng = np.random.default_rng(0)
    return tuple(G @ G.T for G in rng.standard_normal((2, p, p + 2)))


def commutators(C, H, **settings):
    return np.append(*cv.commutator(C, H, **settings))


MEASURES = {
    "commutator": commutators,
    "product": partial(commutators, norm="product"),
    "window": partial(commutators, window=(0, 3)),
    "offdiagonal_ratio": cv.offdiagonal_ratio,
    "diagonal_recovery": cv.diagonal_recovery,
    "cosine": cv.cosine,
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    "scales", [(1e-300, 1.0), (1.0, 1e-300), (1e300, 1.0), (1.0, 1e300), (1e-170, 1e170)]
)
def test_measures_do_not_depend_on_scale(name, scales):
    """Squares of these entries are 0 or infinite in float64. What is left is the rounding of p products."""
    C, H = pair()
    found = MEASURES[name](C * scales[0], H * scales[1])
    np.testing.assert_allclose(found, MEASURES[name](C, H), rtol=1000 * len(C) * EPS)


def test_reports_do_not_depend_on_scale():
    C, H = pair()
    one = cv.analyze(cv.Curvature(H, H @ H, C, 1.0), window=(0, 3))
    for scale in (1e-160, 1e-120, 1e120, 1e150):
        other = cv.analyze(cv.Curvature(H, H @ H, C * scale, 1.0), window=(0, 3))
        for name in ("rank_correlation", "offdiagonal_ratio", "recovery", "recovery_by_chance", "cosine_CH"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1000 * EPS), name
        for name in ("commutator", "commutator_product", "commutator_window"):
            np.testing.assert_allclose(
                np.append(*getattr(other, name)), np.append(*getattr(one, name)), rtol=1e4 * EPS
            )
        assert other.fit_C.exponent == pytest.approx(one.fit_C.exponent, rel=1e-10)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("zero", ["C", "H", "C and H"])
def test_measures_of_zero_are_nan(name, zero):
    """0 / 0, as for a layer that never fires: not an error, since other layers are still to be looked at."""
    C, H = pair()
    C, H = C * ("C" not in zero), H * ("H" not in zero)
    assert np.isnan(MEASURES[name](C, H)).all()


@pytest.mark.parametrize(
    ("zero", "why"), [("C", "C is zero"), ("H", "H is zero"), ("CH", "C and H are zero")]
)
def test_reports_say_what_is_zero(zero, why):
    C, H = pair()
    C, H = C * ("C" not in zero), H * ("H" not in zero)
    report = cv.analyze(cv.Curvature(H, H @ H, C, 1.0, positive=True))
    assert report.fit_C is None
    assert (report.fit_M is None) == ("H" in zero)
    assert report.rank == (0 if "H" in zero else 6)
    numbers = (
        "rank_correlation",
        "offdiagonal_ratio",
        "recovery",
        "recovery_by_chance",
        "cosine_CM",
        "cosine_CH",
    )
    assert np.isnan([getattr(report, number) for number in numbers]).all()
    for found in (report.commutator, report.commutator_product, report.commutator_window):
        assert np.isnan([found.value, *found.baseline]).all()
    assert np.isnan(report.sandwich.lower) == ("H" in zero)
    assert report.sandwich.holds == ("H" in zero)  # kappa_max is wrong on purpose
    text = report.summary()
    assert text.count(why) == 6
    assert "nan" not in text
    assert "no two points" in text
    assert ("no eigenvalue above rounding" in text) == ("H" in zero)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("h", [np.zeros(4), -np.ones(4), np.full(4, 2.0)])
def test_a_line_without_points_is_an_error_that_counts_them(h):
    """Unlike the measures: a fit is asked for, and there is none."""
    positive = int((h > 0).sum())
    with pytest.raises(
        InputError, match=f"of 4 points {positive} have positive h and c.* two points of different h"
    ):
        cv.power_law_fit(h, np.arange(1.0, 5.0))
    with pytest.raises(
        InputError, match="of 4 points 4 have positive h and c, of which the settings leave 1"
    ):
        cv.power_law_fit([1.0, 2, 3, 4], [1.0, 2, 3, 4], fit_fraction=0.25)


def test_cosines_and_shares_stay_in_their_range():
    """Of parallel matrices and of diagonal ones, where rounding alone decides on which side of 1 they would be."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((7, 7))
        A = A + A.T
        for factor in (0.1, 1 / 3, 7.7):
            assert cv.cosine(A, factor * A) <= 1
            assert cv.cosine(A, -factor * A) >= -1
        diagonal = rng.uniform(0.1, 1, 9)
        assert cv.diagonal_recovery(np.diag(diagonal), np.diag(np.arange(1.0, 10))) <= 1
        h = rng.permutation(9).astype(float)
        assert cv.rank_correlation(h, h) <= 1
        assert cv.power_law_fit(h + 1, 10 ** rng.standard_normal(9)).r_squared >= 0
        samples = cv.LayerSamples(
            rng.standard_normal((12, 3)), rng.standard_normal((12, 2)), np.tile(np.eye(2), (12, 1, 1))
        )
        terms = cv.duality_terms(samples, rng.standard_normal((2, 3)), (np.arange(12) + 1) % 12)
        assert max(abs(term.cosine) for term in terms) <= 1
