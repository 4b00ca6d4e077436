"""Eigenvalues and what follows from them, on regular and on singular covariances."""

from __future__ import annotations

import numpy as np
import pytest

import gradhess as gh


def data(n=500, d=6, rank=None, dtype=np.float64, seed=1):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) if rank is None else rng.normal(size=(rank, d))
    return (rng.normal(size=(n, len(mixing))) @ mixing + 2).astype(dtype)


@pytest.mark.parametrize("k", [None, 1, 2, 6])
def test_eigh_is_descending_and_orthonormal(backend, k):
    cov = gh.StreamingCovariance().partial_fit(data())
    values, vectors = cov.eigh(k)
    expected = np.linalg.eigvalsh(cov.covariance_)[::-1][:k]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert vectors.shape == (6, len(values))
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-13)
    np.testing.assert_allclose(cov.covariance_ @ vectors, vectors * values, atol=1e-12 * values[0])


def test_decompositions_happen_once_and_only_on_access(backend, monkeypatch):
    calls = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda a: calls.append(a.shape) or eigh(a))
    cov = gh.StreamingCovariance().partial_fit(data())
    _ = cov.covariance_, cov.location_
    assert not calls
    for _ in range(2):
        cov.eigh(), cov.logdet(), cov.precision_, cov.mahalanobis(data())
    assert len(calls) == 1
    cov.eigh()[1][:] = 0  # a copy
    assert np.abs(cov.eigh()[1]).max() > 0.1
    cov.partial_fit(data())
    cov.logdet()
    assert len(calls) == 2


def test_the_largest_alone_are_found_once(monkeypatch):
    cov = gh.StreamingCovariance().partial_fit(data())
    first = cov.eigh(2)
    monkeypatch.setattr(cov, "_covariance", None)
    np.testing.assert_array_equal(cov.eigh(1)[0], first[0][:1])


def test_logdet_is_that_of_numpy(backend):
    cov = gh.StreamingCovariance().partial_fit(data())
    values = np.linalg.eigvalsh(cov.covariance_)
    # Eigenvalues within p eps of the largest, so their logarithms by that over each.
    bound = len(values) * np.finfo(float).eps * (values[-1] / values).sum()
    assert cov.logdet() == pytest.approx(np.linalg.slogdet(cov.covariance_)[1], rel=0, abs=bound)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_singular_covariance_has_a_pseudo_inverse(backend, dtype):
    X = data(rank=3, dtype=dtype)
    cov = gh.StreamingCovariance().partial_fit(X)
    precision, covariance = cov.precision_, cov.covariance_
    np.testing.assert_array_equal(precision, precision.T)
    eps = np.finfo(dtype).eps
    scale = np.linalg.norm(covariance, 2) * np.linalg.norm(precision, 2)
    rtol = 1e-6 if dtype == np.float64 else 0.05
    np.testing.assert_allclose(precision, np.linalg.pinv(covariance, 64 * eps), rtol=rtol)
    np.testing.assert_allclose(
        covariance @ precision @ covariance, covariance, atol=64 * eps * scale * np.abs(covariance).max()
    )
    assert np.linalg.matrix_rank(precision) == 3
    assert cov.logdet() == -np.inf
    centred = X.astype(np.float64) - cov.location_
    np.testing.assert_allclose(
        cov.mahalanobis(X), np.einsum("ij,jk,ik->i", centred, precision, centred), rtol=1e-6
    )


def test_a_constant_column_of_a_diagonal_has_no_precision(backend):
    X = data()
    X[:, 2] = 0.1  # not a number of the binary system, so its variance is a rounding error
    X[:, 3] *= 1e-12
    cov = gh.StreamingCovariance("diagonal").partial_fit(X)
    precision = cov.precision_
    assert precision[2] == 0
    expected = 1 / np.delete(X.var(axis=0), 2)
    np.testing.assert_allclose(np.delete(precision, 2), expected, rtol=1e-10)
    assert cov.logdet() == -np.inf
    values, vectors = cov.eigh()
    np.testing.assert_array_equal(values, np.sort(cov.covariance_)[::-1])
    np.testing.assert_array_equal(vectors.T @ (cov.covariance_[:, None] * vectors), np.diag(values))
    assert cov.eigh(2)[1].shape == (6, 2)
    centred = X - cov.location_
    np.testing.assert_allclose(cov.mahalanobis(X), (centred**2 * precision).sum(axis=1), rtol=1e-12)


def test_mahalanobis_of_gradients_and_of_no_rows(backend):
    X = data()
    g = gh.glm_gradients(X, X[:, 0], np.zeros(6))
    cov = gh.StreamingCovariance().partial_fit(g)
    np.testing.assert_array_equal(cov.mahalanobis(g), cov.mahalanobis(g.toarray()))
    assert cov.mahalanobis(np.empty((0, 6))).shape == (0,)
    with pytest.raises(gh.errors.InputError, match="X has 5 columns, but the rows seen have 6"):
        cov.mahalanobis(X[:, :5])


@pytest.mark.parametrize(("k", "message"), [(0, "at least 1"), (7, "6 parameters"), (1.5, "integer")])
def test_a_number_of_eigenvalues_that_is_not_there(k, message):
    with pytest.raises(gh.errors.GradhessError, match=message):
        gh.StreamingCovariance().partial_fit(data()).eigh(k)


def test_rows_that_are_all_equal(backend):
    cov = gh.StreamingCovariance().partial_fit(np.zeros((10, 3)))
    np.testing.assert_array_equal(cov.precision_, np.zeros((3, 3)))
    np.testing.assert_array_equal(cov.mahalanobis(np.ones((2, 3))), [0, 0])
