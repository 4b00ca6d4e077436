"""Products with vectors and other sums in float64 on a GPU, at odd sizes, against NumPy to rounding.

Run on the CuPy backend here, and by test_cuda_products.py on the compiled engine.
"""

from __future__ import annotations

import numpy as np
import pytest

from gradhess._backends import registry
from gradhess._backends.cupy import pairs, products
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import KroneckerFactor

U = 2.0**-53
SIZES = [(0, 1, 1), (1, 17, 3), (63, 65, 9), (63, 129, 1), (300, 129, 9), (2, 1100, 3)]


def matrix(n, d, m, dtype=np.float64):
    rng = np.random.default_rng([n, d, m])
    return rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(d, m)), rng.normal(size=(n, m))


def near(got, expected, size, terms):
    """Sums of ``terms`` rounded products in any order."""
    got = got.get()
    assert got.shape == expected.shape
    assert (np.abs(got - expected) <= (terms + 1) * U * size).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("n", "d", "m"), SIZES)
def test_products_at_odd_sizes(gpu, n, d, m, dtype):
    backend = registry.get("cupy")
    X, V, W = matrix(n, d, m, dtype)
    rows = DeviceRows(gpu.array(X))
    wide = X.astype(np.longdouble)
    size = abs(wide)
    near(backend.norms(rows), np.sqrt((wide * wide).sum(axis=1)), np.sqrt((wide * wide).sum(axis=1)), d + 2)
    near(backend.matvec(rows, gpu.array(V)), wide @ V, size @ abs(V), d)
    near(backend.rmatvec(rows, gpu.array(W)), wide.T @ W, size.T @ abs(W), n)
    image = size @ abs(V)
    near(backend.gram_matvec(rows, gpu.array(V)), wide.T @ (wide @ V), size.T @ image, n + d)


@pytest.mark.parametrize("m", [1, 3])
def test_products_of_many_rows(gpu, m):
    X, V, W = matrix(16_385, 3, m)
    backend, rows = registry.get("cupy"), DeviceRows(gpu.array(X))
    near(backend.matvec(rows, gpu.array(V)), X @ V, abs(X) @ abs(V), 2 * 3)
    near(backend.rmatvec(rows, gpu.array(W)), X.T @ W, abs(X).T @ abs(W), 2 * 16_385)


def test_pieces_of_rows(gpu, monkeypatch):
    """Pieces of 7 rows, where not even one segment of them would fit."""
    X, V, W = matrix(50, 12, 2)
    rows, backend = DeviceRows(gpu.array(X)), registry.get("cupy")
    monkeypatch.setattr(products, "PIECE_BYTES", 8 * 12 * 7)
    near(backend.norms(rows), np.linalg.norm(X, axis=1), np.linalg.norm(X, axis=1), 30)
    near(backend.rmatvec(rows, gpu.array(W)), X.T @ W, abs(X).T @ abs(W), 2 * 50)
    near(backend.gram_matvec(rows, gpu.array(V)), X.T @ (X @ V), abs(X).T @ (abs(X) @ abs(V)), 2 * 62)


def factors_of(gpu, n, k, rank):
    rng = np.random.default_rng([n, k])
    L, R, Q = (rng.normal(size=(n, *shape)) for shape in ((rank, k), (rank, k), (k, k)))
    host = [KroneckerFactor(R, L), KroneckerFactor(Q + Q.transpose(0, 2, 1))]
    moved = [KroneckerFactor(gpu.array(f.right), None if f.left is None else gpu.array(f.left)) for f in host]
    return host, moved


def kronecker_on(gpu, A, moved):
    k, m = moved[0].right.shape[2], A.shape[1]
    out = gpu.cupy.zeros((len(moved), k * (k + 1) // 2, m * (m + 1) // 2))
    registry.get("cupy").kronecker_sums(gpu.array(A), moved, out)
    return out


@pytest.mark.parametrize(("n", "m", "k"), [(0, 2, 2), (1, 17, 1), (63, 5, 16), (1100, 3, 2), (40, 17, 3)])
def test_kronecker_sums_at_odd_sizes(gpu, n, m, k):
    A = np.random.default_rng(n).normal(size=(n, m))
    host, moved = factors_of(gpu, n, k, 2)
    got = kronecker_on(gpu, A, moved).get()
    (q, r), (i, j) = np.triu_indices(k), np.triu_indices(m)
    squares = A[:, i] * A[:, j]
    for factor, found in zip(host, got, strict=True):
        left = np.broadcast_to(np.eye(k), (n, k, k)) if factor.left is None else factor.left
        W = np.einsum("ntq,ntr->nqr", left, factor.right)[:, q, r]
        size = np.einsum("ntq,ntr->nqr", abs(left), abs(factor.right))[:, q, r].T @ abs(squares)
        # Two orders of the sum, of products of a rounded square and of a sum of two products.
        assert (np.abs(found - W.T @ squares) <= 2 * (n + 6) * U * size).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n_targets", "n", "q"), [(1, 1, 2), (63, 17, 2), (1100, 20, 3), (5, 130, 2)])
def test_pairwise_dependence_at_odd_sizes(gpu, n_targets, n, q, weighted, monkeypatch):
    monkeypatch.setattr(pairs, "TILE_BYTES", 8 * n_targets * 64)
    rng = np.random.default_rng([n_targets, n])
    labels, mu = rng.integers(0, q, (n_targets, n)).astype(np.uint8), rng.dirichlet(np.ones(n))
    shares = rng.dirichlet(np.ones(n_targets)) if weighted else None
    expected = registry.get("reference").pair_dependence(labels, q, mu, shares, threads=1)
    moved = None if shares is None else gpu.array(shares)
    got = registry.get("cupy").pair_dependence(gpu.array(labels), q, gpu.array(mu), moved).get()
    # As in test_pair_dependence.py, for both sides.
    bound = 2 * (8 * (n_targets + q * q + 8) + 4 * n) * U
    assert got.shape == (n,)
    assert (np.abs(got - expected) <= bound).all()
