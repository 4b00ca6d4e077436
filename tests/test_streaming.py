"""``StreamingCovariance``: what it computes, in whatever chunks, and merged."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance
from states import N, assert_same_state, data

import gradhess as gh
from gradhess import losses

EPS = np.finfo(np.float64).eps


def rounding(X):
    """c eps sqrt(C_ii C_jj) with C the second moment about the mean; n is small, so c = 64 covers the sums."""
    spread = X.astype(np.float64).std(axis=0)
    return 64 * np.finfo(X.dtype).eps * np.outer(spread, spread)


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_matches_numpy_cov(backend, weighted, ddof):
    X = data()
    weights = np.random.default_rng(2).uniform(0, 3, N) if weighted else None
    cov = gh.StreamingCovariance(ddof=ddof).partial_fit(X, weights)
    assert (np.abs(cov.covariance_ - np.cov(X.T, aweights=weights, ddof=ddof)) <= rounding(X)).all()
    np.testing.assert_array_equal(cov.covariance_, cov.covariance_.T)
    np.testing.assert_allclose(cov.location_, np.average(X, axis=0, weights=weights), rtol=64 * EPS)
    second = (
        (X.T * (np.ones(N) if weights is None else weights)) @ X / (N if weights is None else weights.sum())
    )
    np.testing.assert_allclose(cov.second_moment_, second, rtol=1e-12)
    np.testing.assert_array_equal(cov.second_moment_, cov.second_moment_.T)
    assert cov.n_samples_seen_ == N
    assert cov.n_features_in_ == 4
    assert cov.weight_sum_ == pytest.approx(N if weights is None else weights.sum(), rel=1e-14)


@pytest.mark.parametrize("assume_centered", [False, True])
def test_matches_scikit_learn(backend, assume_centered):
    X = data()
    theirs = EmpiricalCovariance(assume_centered=assume_centered).fit(X)
    ours = gh.StreamingCovariance(assume_centered=assume_centered).fit(X)
    np.testing.assert_allclose(ours.covariance_, theirs.covariance_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours.location_, theirs.location_, rtol=1e-12)
    np.testing.assert_allclose(ours.precision_, theirs.precision_, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(ours.get_precision(), ours.precision_)
    np.testing.assert_allclose(ours.mahalanobis(X), theirs.mahalanobis(X), rtol=1e-8)


def test_a_diagonal_is_the_diagonal(backend):
    X = data()
    weights = np.random.default_rng(3).uniform(0, 3, N)
    full, diagonal = gh.StreamingCovariance(ddof=1), gh.StreamingCovariance("diagonal", ddof=1)
    full.partial_fit(X, weights)
    diagonal.partial_fit(X, weights)
    np.testing.assert_allclose(diagonal.covariance_, np.diag(full.covariance_), rtol=64 * EPS)
    np.testing.assert_allclose(diagonal.second_moment_, np.diag(full.second_moment_), rtol=64 * EPS)
    np.testing.assert_allclose(diagonal.location_, full.location_, rtol=64 * EPS)


def test_gradients_give_what_their_own_methods_give(backend):
    X = data(n=5000)
    y = (X[:, 0] > 0).astype(float)
    g = gh.glm_gradients(X, y, 0.1 * np.ones(4), "logistic", intercept=-0.2)
    cov = gh.StreamingCovariance(ddof=1).partial_fit(g)
    np.testing.assert_array_equal(cov.covariance_, g.covariance(ddof=1))
    np.testing.assert_allclose(cov.location_, g.mean(), atol=1e-15)
    raw = gh.StreamingCovariance(assume_centered=True).partial_fit(g)
    np.testing.assert_allclose(raw.covariance_ * 5000, g.gram(), rtol=4 * EPS)


def test_the_two_kinds_of_weights(backend):
    """Weights of the loss enter squared, weights of the moment once."""
    X, weights = data(), np.random.default_rng(4).uniform(0, 2, N)
    y, coef = X[:, 0], np.zeros(4)
    moment = gh.StreamingCovariance(assume_centered=True)
    moment.partial_fit(gh.glm_gradients(X, y, coef), sample_weight=weights)
    loss = gh.StreamingCovariance(assume_centered=True)
    loss.partial_fit(gh.glm_gradients(X, y, coef, sample_weight=np.sqrt(weights)))
    np.testing.assert_allclose(moment.covariance_ * moment.weight_sum_, loss.covariance_ * N, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "ratio"), [(np.float64, 1e6), (np.float32, 1e3)])
def test_centring_is_stable(backend, dtype, ratio):
    """Within a block nothing is lost. Between blocks the means, of 4096 rows each, differ by about std / 64, and are
    themselves known to eps64 * mean: that is eps64 * ratio / 64 relative, doubled, where raw sums lose eps * ratio^2.
    """
    X = (np.random.default_rng(5).normal(size=(9000, 3)) + ratio).astype(dtype)
    exact = X.astype(np.longdouble)
    exact -= exact.mean(axis=0)
    expected = (exact.T @ exact / 9000).astype(np.float64)
    found = gh.StreamingCovariance().partial_fit(X).covariance_
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (np.abs(found - expected) <= (64 * np.finfo(dtype).eps + 4 * EPS * ratio / 64) * scale).all()


def test_a_float32_accumulator(backend):
    X = data(dtype=np.float32)
    cov = gh.StreamingCovariance(dtype="float32").partial_fit(X)
    assert cov.covariance_.dtype == np.float32
    assert (np.abs(cov.covariance_ - np.cov(X.T, ddof=0)) <= rounding(X)).all()
    with pytest.raises(gh.errors.InputTypeError, match="float64"):
        cov.partial_fit(X.astype(np.float64))
    assert cov.n_samples_seen_ == N


# ---- chunks ------------------------------------------------------------------------------------------------------


def feed(cov, rows, weights, cuts):
    edges = [0, *sorted(cuts), N]
    for start, stop in itertools.pairwise(edges):
        cov.partial_fit(rows(start, stop), None if weights is None else weights[start:stop])
    return cov


KINDS = ["float64", "float32", "glm", "softmax", "integers"]


def rows_of(kind):
    X = data(d=3)
    y = np.arange(N) % 2
    return {
        "float64": lambda a, b: X[a:b],
        "float32": lambda a, b: X[a:b].astype(np.float32),
        "glm": lambda a, b: gh.glm_gradients(X[a:b], y[a:b], np.ones(3), "logistic", intercept=0.1),
        "softmax": lambda a, b: gh.glm_gradients(
            np.asfortranarray(X)[a:b], y[a:b], np.eye(2, 3), losses.softmax
        ),
        "integers": lambda a, b: X[a:b].astype(np.int32),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, N), max_size=8),
    structure=st.sampled_from(["full", "diagonal"]),
    weighted=st.booleans(),
    assume_centered=st.booleans(),
)
def test_any_chunking_gives_the_same_bits(backend, kind, *, cuts, structure, weighted, assume_centered):
    rows = rows_of(kind)
    weights = np.random.default_rng(6).uniform(0, 2, N) if weighted else None
    once = feed(gh.StreamingCovariance(structure, assume_centered), rows, weights, [])
    pieces = feed(gh.StreamingCovariance(structure, assume_centered), rows, weights, cuts)
    assert_same_state(once, pieces)
    for name in ("covariance_", "location_", "second_moment_", "weight_sum_"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(once, name))


def test_rows_one_by_one_and_results_in_between(backend):
    X = data(n=600)
    once = gh.StreamingCovariance().partial_fit(X)
    single = gh.StreamingCovariance()
    for i in range(600):
        single.partial_fit(X[i : i + 1])
        if i % 100 == 7:
            _ = single.covariance_, single.location_, single.second_moment_  # reading changes nothing
    assert_same_state(once, single)
    np.testing.assert_array_equal(once.covariance_, single.covariance_)


@pytest.mark.parametrize("cut", [1, 255, 256, 300, 1023])
def test_weights_that_begin_in_mid_stream_are_ones_before(backend, cut):
    X, weights = data(), np.random.default_rng(7).uniform(0, 2, N)
    weights[:cut] = 1.0
    once = gh.StreamingCovariance().partial_fit(X, weights)
    pieces = gh.StreamingCovariance().partial_fit(X[:cut]).partial_fit(X[cut:], weights[cut:])
    np.testing.assert_array_equal(once.covariance_, pieces.covariance_)
    np.testing.assert_array_equal(once.location_, pieces.location_)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, N), max_size=6), change=st.sampled_from([100, 256, 700]))
def test_a_change_of_type_gives_the_same_bits_in_any_chunks(backend, cuts, change):
    """float32, then float64, then float32 again: the stream goes on in the wider type from the slab of the change."""
    X = data()
    narrow = X.astype(np.float32)

    def stream(cuts):
        cov = gh.StreamingCovariance()
        edges = sorted({0, change, change + 300, N, *cuts})
        for a, b in itertools.pairwise(edges):
            cov.partial_fit(X[a:b] if change <= a < change + 300 else narrow[a:b])
        return cov

    assert_same_state(stream([]), stream(cuts))
    mixed = np.vstack([narrow[:change], X[change : change + 300], narrow[change + 300 :]])
    assert (np.abs(stream(cuts).covariance_ - np.cov(mixed.T, ddof=0)) <= rounding(narrow)).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_gives_the_same_bits(backend, threads):
    X = data(n=9000)
    once = gh.StreamingCovariance().partial_fit(X)
    gh.set_num_threads(threads)
    try:
        again = gh.StreamingCovariance().partial_fit(X)
    finally:
        gh.set_num_threads(None)
    assert_same_state(once, again)


def test_wide_rows(backend):
    """More parameters than a block buffer holds; and slabs of few rows under a diagonal."""
    X = data(n=600, d=300)
    for structure in ("full", "diagonal"):
        once = gh.StreamingCovariance(structure).partial_fit(X)
        pieces = gh.StreamingCovariance(structure)
        for a in range(0, 600, 250):
            pieces.partial_fit(X[a : a + 250])
        assert_same_state(once, pieces)
    wide = np.random.default_rng(8).normal(size=(70, 9000))
    cov = gh.StreamingCovariance("diagonal")
    for a in range(0, 70, 23):
        cov.partial_fit(wide[a : a + 23])
    assert_same_state(cov, gh.StreamingCovariance("diagonal").partial_fit(wide))
    np.testing.assert_allclose(cov.covariance_, wide.var(axis=0), rtol=1e-12)


# ---- merging -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["full", "diagonal"])
@pytest.mark.parametrize("assume_centered", [False, True])
def test_merging_is_adding_the_rows_of_both(backend, structure, assume_centered):
    X, weights = data(), np.random.default_rng(9).uniform(0, 2, N)
    a = gh.StreamingCovariance(structure, assume_centered).partial_fit(X[:700], weights[:700])
    b = gh.StreamingCovariance(structure, assume_centered).partial_fit(X[700:1200])
    before = copy.copy(b)
    merged = a + b
    assert_same_state(b, before)
    assert a.n_samples_seen_ == 700
    merged.partial_fit(X[1200:], weights[1200:])
    weights[700:1200] = 1.0
    once = gh.StreamingCovariance(structure, assume_centered).partial_fit(X, weights)
    np.testing.assert_allclose(merged.covariance_, once.covariance_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.location_, once.location_, rtol=1e-12)
    assert merged.n_samples_seen_ == N
    assert merged.weight_sum_ == pytest.approx(weights.sum(), rel=1e-14)


def test_merging_with_nothing_and_with_a_copy(backend):
    X = data(n=300)
    cov, empty = gh.StreamingCovariance().partial_fit(X), gh.StreamingCovariance()
    np.testing.assert_array_equal((empty + cov).covariance_, cov.covariance_)
    assert_same_state(copy.copy(cov).merge(empty), cov)
    assert (empty + empty).n_samples_seen_ == 0
    for n in (300, 256):  # with rows waiting, and without
        twice = gh.StreamingCovariance().partial_fit(X[:n])
        twice.merge(twice.copy())
        assert twice.n_samples_seen_ == 2 * n
        np.testing.assert_allclose(twice.covariance_, np.cov(X[:n].T, ddof=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (gh.StreamingCovariance("diagonal"), "structure"),
        (gh.StreamingCovariance(assume_centered=True), "assume_centered"),
        (gh.StreamingCovariance(dtype="float32"), "dtype"),
        (gh.StreamingCovariance(), "5 parameters into 4"),
    ],
)
def test_what_does_not_fit_is_not_merged(other, message):
    other = copy.copy(other).partial_fit(np.ones((3, 5), np.float32))
    cov = gh.StreamingCovariance().partial_fit(data())
    before = copy.copy(cov)
    with pytest.raises(gh.errors.InputError, match=message):
        cov.merge(other)
    assert_same_state(cov, before)
    with pytest.raises(gh.errors.InputError, match="with itself"):
        cov.merge(cov)
    assert_same_state(cov, before)
    with pytest.raises(gh.errors.InputTypeError, match="StreamingCovariance"):
        cov.merge(np.eye(4))
    with pytest.raises(TypeError, match="unsupported operand"):
        cov + 1
