"""Scalars that hold C against H, on matrices whose answer is known."""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradhess import curvature as cv
from gradhess.errors import InputError, InputTypeError

EPS = np.finfo(np.float64).eps


def rotation(p, rng):
    return np.linalg.qr(rng.standard_normal((p, p)))[0]


def psd(p, rng, rank=None):
    G = rng.standard_normal((rank or p, p))
    return G.T @ G / len(G)


def spectral(values, V):
    return (V * values) @ V.T


# ---- power law ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [-1.5, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, 3.0])
def test_the_rank_one_family_has_exponent_one_plus_t_and_keeps_the_bounds(t):
    """Inside and outside [0, 1]: gamma is never clipped, and leaves [1, 2] without breaking the sandwich."""
    family = cv.rank_one_family(np.geomspace(1e-6, 3.0, 60), t)
    for matrix in ("C", "M"):
        fit = cv.power_law_fit(family.diagonals.H, getattr(family.diagonals, matrix))
        assert fit.exponent == pytest.approx(1 + t, abs=1e-6)
        assert (
            fit.r_squared == pytest.approx(1.0, abs=1e-9) or t == -1.0
        )  # nothing varies that could be explained
        assert fit.n_used == 60
    found = cv.sandwich_check(family)
    assert found.holds
    assert found.lower >= 1
    assert found.upper == pytest.approx(1.0, abs=1e-12)  # reached by the stiffest type
    report = cv.analyze(family, top=60, n_baseline=1)
    assert report.fit_C.exponent == pytest.approx(1 + t, abs=1e-6)


def test_the_rank_one_family_is_what_it_says():
    """From the definition: probabilities and stiffnesses of every type."""
    s, t = np.array([0.5, 2.0, 1.0]), 0.3
    Z = (s ** (1 - t)).sum()
    probability, stiffness = s ** (1 - t) / Z, Z * s**t
    family = cv.rank_one_family(s, t)
    np.testing.assert_allclose(np.diag(family.H), probability * stiffness, rtol=8 * EPS)
    np.testing.assert_allclose(np.diag(family.M), probability * stiffness**2, rtol=8 * EPS)
    assert family.kappa_max == pytest.approx(stiffness.max(), rel=8 * EPS)


@pytest.mark.parametrize(
    ("spectrum", "t"), [([1.0, 0.0], 0.5), ([1.0, -1.0], 0.5), ([1.0], math.nan), ([1e200, 1], 3)]
)
def test_a_rank_one_family_that_does_not_exist_is_refused(spectrum, t):
    with pytest.raises(InputError):
        cv.rank_one_family(spectrum, t)


@given(
    exponent=st.floats(-3, 4),
    level=st.floats(-5, 5),
    n=st.integers(2, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_an_exact_power_law_is_found(exponent, level, n, seed):
    h = 10.0 ** np.random.default_rng(seed).permutation(np.linspace(-4, 1, n))
    fit = cv.power_law_fit(h, 10.0**level * h**exponent)
    assert fit.exponent == pytest.approx(exponent, abs=1e-9)
    assert fit.intercept == pytest.approx(level, abs=1e-8)


def test_the_line_is_that_of_a_textbook(rng):
    """Slope, intercept, R squared and standard error of an ordinary regression with noise."""
    from scipy.stats import linregress

    h = 10 ** rng.uniform(-5, 0, 50)
    c = h**1.3 * 10 ** rng.normal(0, 0.2, 50)
    fit, expected = cv.power_law_fit(h, c), linregress(np.log10(h), np.log10(c))
    assert fit.exponent == pytest.approx(expected.slope, rel=1e-12)
    assert fit.stderr == pytest.approx(expected.stderr, rel=1e-10)
    assert fit.intercept == pytest.approx(expected.intercept, rel=1e-10)
    assert fit.r_squared == pytest.approx(expected.rvalue**2, rel=1e-12)


def test_what_is_left_out():
    h = np.array([8.0, 4.0, 2.0, 1.0, -1.0, 0.5])
    c = np.array([8.0, 4.0, 2.0, 1.0, 5.0, 0.0])
    assert cv.power_law_fit(h, c).n_used == 4  # neither a negative h nor a zero c has a logarithm
    assert cv.power_law_fit(h, c, top=3).n_used == 3
    assert cv.power_law_fit(h[::-1], c[::-1], top=2).n_used == 2  # the largest h, in whatever order they come
    assert cv.power_law_fit(h, c, fit_fraction=0.5).n_used == 2
    assert cv.power_law_fit(h, c, trim_percentile=30).n_used == 3  # of 1, 2, 4, 8 those from 1.9 on
    bent = cv.power_law_fit([100, 10, 1], [100, 10, 5.0], top=2)
    assert bent.exponent == pytest.approx(1.0)
    assert math.isnan(bent.stderr)


@pytest.mark.parametrize(
    ("h", "c"),
    [([1.0], [1.0]), ([1.0, 2.0], [1.0, -1.0]), ([2.0, 2.0], [1.0, 3.0]), ([1.0, 2.0], [1.0]), ([], [])],
)
def test_no_slope_without_two_points(h, c):
    with pytest.raises(InputError):
        cv.power_law_fit(h, c)


@pytest.mark.parametrize(
    "bad", [{"top": 1}, {"trim_percentile": 100}, {"fit_fraction": 0}, {"fit_fraction": 1.5}]
)
def test_settings_of_the_fit_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        cv.power_law_fit([1, 2, 3], [1, 2, 3], **bad)
    with pytest.raises(InputTypeError, match="trim_percentile must be a number, not str"):
        cv.power_law_fit([1, 2, 3], [1, 2, 3], trim_percentile="5")


# ---- commutator and alignment ---------------------------------------------------------------------------------------


def test_matrices_that_commute(rng):
    V = rotation(12, rng)
    C, H = spectral(rng.uniform(1, 2, 12), V), spectral(np.arange(1.0, 13), V)
    rounding = 100 * 12 * EPS
    for norm in ("relative", "product"):
        value, baseline = cv.commutator(C, H, norm)
        assert value < rounding
        assert baseline.shape == (8,)
        assert (baseline > 1e-3).all()
    assert cv.offdiagonal_ratio(C, H) < rounding
    assert cv.diagonal_recovery(C, H) == pytest.approx(1.0, abs=rounding)


@pytest.mark.parametrize("norm", ["relative", "product"])
def test_the_commutator_is_that_of_its_definition(rng, norm):
    C, H = psd(9, rng), psd(9, rng)
    size = np.linalg.norm(C @ H) if norm == "relative" else np.linalg.norm(C) * np.linalg.norm(H)
    expected = np.linalg.norm(C @ H - H @ C) / size
    assert cv.commutator(C, H, norm).value == pytest.approx(expected, rel=1e-12)


def test_the_baseline_rotates_and_keeps_the_spectra(rng):
    C, H = psd(8, rng), psd(8, rng)
    first, again, other = (cv.commutator(C, H, rng=seed).baseline for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).all()
    # The second moment of the commutator over all rotations has a closed form; its mean square agrees within 5
    # standard errors.
    c, h, p = np.linalg.eigvalsh(C), np.linalg.eigvalsh(H), 8
    draws = cv.commutator(C, H, "product", n_baseline=2000).baseline ** 2 * (c @ c) * (h @ h)
    ss_c, ss_h = (c**2).sum() - c.sum() ** 2 / p, (h**2).sum() - h.sum() ** 2 / p
    expected = 2 * p * ss_c * ss_h / ((p - 1) * (p + 2))
    assert abs(draws.mean() - expected) < 5 * draws.std() / math.sqrt(len(draws))


def test_low_rank_nearly_commutes_by_chance():
    """Why the value is nothing without its baseline."""
    rng = np.random.default_rng(3)
    value, baseline = cv.commutator(psd(200, rng, rank=2), psd(200, rng, rank=2), "product")
    assert value < 0.3
    assert abs(value - baseline.mean()) < 5 * baseline.std()


def test_the_product_norm_is_bounded(rng):
    worst = cv.commutator(
        np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, -1.0]), "product", n_baseline=0
    ).value
    assert worst == pytest.approx(math.sqrt(2), rel=4 * EPS)


@given(p=st.integers(1, 12), rank=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_commutator_is_above_its_bound(p, rank, seed):
    """Boettcher and Wenzel's for the product norm; the triangle inequality for the other. Of baselines, too."""
    rng = np.random.default_rng(seed)
    C, H = psd(p, rng, rank), rng.standard_normal((p, p))
    for norm, bound in (("relative", 2.0), ("product", math.sqrt(2))):
        value, baseline = cv.commutator(C, H + H.T, norm, n_baseline=3, rng=seed)
        assert max(value, *baseline) <= bound * (1 + 100 * p * EPS)


def test_a_window_is_the_span_of_some_eigenvectors(rng):
    C, H = psd(10, rng), psd(10, rng)
    _, V = np.linalg.eigh(H)
    W = V[:, ::-1][:, 2:6]
    inside = cv.commutator(W.T @ C @ W, W.T @ H @ W, n_baseline=0).value
    assert cv.commutator(C, H, window=(2, 6), n_baseline=0).value == pytest.approx(inside, rel=1e-10)


def test_a_report_has_a_window(rng):
    C, H = (x @ x.T for x in rng.normal(size=(2, 10, 12)))
    curvature = cv.Curvature(H, H @ H, C, 1.0, True, 12, 1)
    for asked, window in ((None, (0, 3)), ((2, 6), (2, 6))):
        report = cv.analyze(curvature, window=asked, n_baseline=3)
        assert report.window == window
        alone = cv.commutator(C, H, window=window, n_baseline=0)
        assert report.commutator_window.value == pytest.approx(alone.value, rel=1e-10)
        assert report.commutator_window.baseline.shape == (3,)
        assert f"of eigenvectors {window[0] + 1} to {window[1]}" in report.summary()
    with pytest.raises(InputError, match="window"):
        cv.analyze(curvature, window=(3, 11))


@pytest.mark.parametrize("window", [(0, 11), (3, 3), (5, 2), (-1, 3), 4])
def test_windows_outside_are_refused(window):
    with pytest.raises(InputError):
        cv.commutator(np.eye(10), np.eye(10), window=window)


def test_alignment_by_definition(rng):
    C, H = psd(7, rng), psd(7, rng)
    _, V = np.linalg.eigh(H)
    K = V.T @ C @ V
    off = K[~np.eye(7, dtype=bool)]
    ratio = math.sqrt((off**2).mean() / (np.diag(K) ** 2).mean())
    assert cv.offdiagonal_ratio(C, H) == pytest.approx(ratio, rel=1e-10)
    assert cv.diagonal_recovery(C, H) == pytest.approx((np.diag(K) ** 2).sum() / (K**2).sum(), rel=1e-10)
    assert cv.cosine(C, 3 * C) == pytest.approx(1.0, abs=4 * EPS)
    assert cv.cosine(C, -C) == pytest.approx(-1.0, abs=4 * EPS)
    assert cv.cosine(np.diag([1.0, 0]), np.diag([0.0, 1])) == 0


def test_rank_correlation_is_spearmans(rng):
    from scipy.stats import spearmanr

    h = rng.integers(0, 10, 40).astype(float)  # with ties
    c = h + rng.normal(0, 3, 40)
    assert cv.rank_correlation(h, c) == pytest.approx(spearmanr(h, c).statistic, rel=1e-12)
    assert math.isnan(cv.rank_correlation(np.ones(4), c[:4]))


def test_recovery_by_chance_is_the_mean_over_rotations(rng):
    C, H, p = psd(6, rng), np.diag(np.arange(6.0)), 6
    c = np.linalg.eigvalsh(C)
    draws = np.array([cv.diagonal_recovery(spectral(c, rotation(p, rng)), H) for _ in range(2000)])
    report = cv.analyze(cv.Curvature(H, H @ H, C, 5.0), n_baseline=0)
    assert abs(draws.mean() - report.recovery_by_chance) < 5 * draws.std() / math.sqrt(len(draws))


# ---- what is refused, and what is not defined -----------------------------------------------------------------------


@pytest.mark.parametrize("function", [cv.commutator, cv.offdiagonal_ratio, cv.diagonal_recovery, cv.cosine])
def test_matrices_are_checked(function):
    eye = np.eye(3)
    for bad in (np.ones((3, 2)), np.triu(np.ones((3, 3))), np.full((3, 3), np.nan), np.eye(4), np.ones(3)):
        with pytest.raises(InputError):
            function(bad, eye)
        with pytest.raises(InputError):
            function(eye, bad)
    with pytest.raises(InputTypeError):
        function(eye * 1j, eye)


def test_the_largest_eigenvalue_is_checked():
    eye = np.eye(2)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="kappa_max"):
            cv.Curvature(eye, eye, eye, bad)
    with pytest.raises(InputTypeError, match="kappa_max must be a number"):
        cv.Curvature(eye, eye, eye, "1")


def test_asymmetry_of_rounding_passes():
    noisy = np.diag([1.0, 2.0, 3.0]) + 1e-7 * np.triu(np.ones((3, 3)), 1)
    assert cv.cosine(noisy, np.diag([1.0, 2.0, 3.0])) == pytest.approx(1.0, abs=1e-12)


def test_the_sandwich_shows_where_it_breaks():
    H, M = np.diag([4.0, 3.0, 2.0, 1.0]), np.diag([17.0, 8.0, 5.0, 2.0])
    below = cv.sandwich_check(cv.Curvature(H, M, M, 10.0, positive=True))
    assert not below.holds
    assert (below.lower, below.lower_index) == (pytest.approx(8 / 9), 1)
    M[1, 1] = 9.0
    assert cv.sandwich_check(cv.Curvature(H, M, M, 10.0, positive=True)).holds
    above = cv.sandwich_check(cv.Curvature(H, M, M, 4.0, positive=True))
    assert not above.holds
    assert (above.upper, above.upper_index) == (pytest.approx(17 / 16), 0)
    assert cv.sandwich_check(cv.Curvature(H, M, M, 4.0, positive=False)).upper is None
    with pytest.raises(InputTypeError):
        cv.sandwich_check(H)


def test_identical_hessians_give_two(rng):
    H = psd(10, rng)
    fit = cv.analyze(cv.Curvature(H, H @ H, H @ H, np.linalg.eigvalsh(H)[-1], positive=True), top=10).fit_M
    assert fit.exponent == pytest.approx(2.0, abs=1e-9)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_reports_are_drawn(tmp_path, rng, suffix):
    H = psd(12, rng, rank=8)  # singular
    report = cv.analyze(
        cv.Curvature(H, H @ H, H / 3, 9.0, positive=True, n_samples=8, label="a <layer> & $more$")
    )
    assert report.rank == 8
    report.plot(tmp_path / f"report{suffix}")
    content = (tmp_path / f"report{suffix}").read_bytes()
    assert len(content) > 10_000
    if suffix == ".html":
        page = content.decode()
        assert "a &lt;layer&gt; &amp; $more$" in page
        assert 'src="data:image/png;base64,' in page
        assert "http" not in page  # nothing is fetched
    cv.analyze(cv.Curvature(0 * H, 0 * H, 0 * H, 0.0)).plot(tmp_path / f"zero{suffix}")
    with pytest.raises(InputError, match="jpg"):
        report.plot(tmp_path / "report.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"report{suffix}", f"zero{suffix}"]


def test_tables_fit_a_terminal(rng):
    report = cv.analyze(cv.Curvature(psd(30, rng), psd(30, rng), psd(30, rng), 2.0), n_baseline=3)
    assert max(map(len, report.summary().splitlines())) <= 80


# ---- what is written about it ---------------------------------------------------------------------------------------


def test_names_and_arguments_are_those_of_the_documentation():
    text = (Path(__file__).parents[1] / "docs" / "curvature.md").read_text(encoding="utf-8")
    table = text[text.index("## All names") : text.index("## How it is computed")]
    written = dict(re.findall(r"`([a-z]\w+)\(([^)`]+)\)`", table))
    functions = {name for name in cv.__all__ if inspect.isfunction(getattr(cv, name))}
    assert written.keys() == functions
    for name, arguments in written.items():
        signature = inspect.signature(getattr(cv, name))
        plain = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
        assert f"({arguments})".replace('"', "'") == str(inspect.Signature(plain)), name


def test_the_command_says_what_it_needs(monkeypatch):
    from typer.testing import CliRunner

    from gradhess.cli.app import app

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["curvature"])
    assert result.exit_code == 1
    assert "torch is not installed: pip install torch scikit-learn" in result.output


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, InputError, "rng is -1; a seed must not be negative"),
        ("a", InputTypeError, "rng must be an integer seed or a numpy.random.Generator, not str"),
        (1.5, InputTypeError, "not float"),
        (None, InputTypeError, "not NoneType"),
    ],
)
def test_bad_seeds(seed, error, message):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 4))
    found = cv.glm_curvature(X, (X[:, 0] > 0).astype(float), np.ones(4), "logistic")
    samples = cv.LayerSamples(X, rng.standard_normal((40, 2)), np.tile(np.eye(2), (40, 1, 1)))
    for ask in (
        lambda rng: cv.commutator(found.C, found.H, rng=rng),
        lambda rng: cv.analyze(found, rng=rng),
        lambda rng: cv.layer_spectrum(samples, 2, rng=rng),
    ):
        ask(np.random.default_rng(0))
        with pytest.raises(error, match=message):
            ask(seed)


def test_equal_eigenvalues_have_no_slope():
    """Of Q = I every eigenvalue comes twice, and two that differ by rounding gave exponents of 1e14."""
    rng = np.random.default_rng(0)
    values = np.linalg.eigvalsh(spectral(np.full(6, 1.3), rotation(6, rng)))
    for h in (values, [1.0, 1.0 + 2 * EPS]):
        with pytest.raises(InputError, match="different h"):
            cv.power_law_fit(h, np.arange(1.0, len(h) + 1))
    assert cv.power_law_fit([1.0, 1.0 + 1e-9], [1.0, 1.0 + 2e-9]).exponent == pytest.approx(2, rel=1e-6)
    samples = cv.LayerSamples(
        rng.standard_normal((50, 3)), rng.standard_normal((50, 2)), np.tile(np.eye(2), (50, 1, 1))
    )
    report = cv.analyze(cv.layer_curvature(samples))
    assert report.fit_C is None
    assert "no two points" in str(report)


def test_little_data_in_plain_words():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 8))
    found = cv.glm_curvature(X, (X[:, 0] > 0).astype(float), np.zeros(8), "logistic")
    text = str(cv.analyze(found))  # a quarter of 8 are two points
    assert "± unknown, R² 1.0000, 2 points" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "nan" not in text
    assert "8, 1 sample, B = 1" in str(cv.analyze(cv.glm_curvature(X[:1], [1.0], np.zeros(8), "logistic")))


@pytest.mark.parametrize("size", [1e155, 1e200])
def test_squares_of_gradients_that_overflow(size):
    G = np.random.default_rng(0).standard_normal((20, 3))
    with pytest.raises(InputError, match="overflows float64, though they do not; divide all of them"):
        cv.gradient_noise_covariance(size * G)
    np.testing.assert_allclose(
        cv.gradient_noise_covariance(1e100 * G) / 1e200, cv.gradient_noise_covariance(G), rtol=1e-12
    )
