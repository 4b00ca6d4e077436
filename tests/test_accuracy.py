"""A million rows of 64 columns, with means up to 1000 standard deviations: the error against an exact covariance.

What n does to the error is the question: sums of float32 products are cut after 256 rows, and provisional shifts keep
the mean out of the products. Stated: max |dC_ij| / sqrt(C_ii C_jj) of at most 5e-7 for float32 rows, 1e-13 for float64.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import gradhess as gh

N, D = 1 << 20, 64
RATIOS = (0.0, 1e2, 1e3)
"""Mean over standard deviation."""
LIMITS = {"float32": 5e-7, "float64": 1e-13}

CHUNK = 1 << 11
GRID = 2.0**-18


@cache
def noise(dtype: str) -> np.ndarray:
    """(N, D): correlated columns of mean 0 and standard deviation 1, with every bit of the type in use."""
    independent = np.random.default_rng(3).standard_normal((D, N), dtype=np.float32)
    independent[1::2] = np.float32(0.8) * independent[::2] + np.float32(0.6) * independent[1::2]
    return np.multiply(independent.T, 1 + 2.0**-40 / 3, dtype=dtype, order="C", casting="same_kind")


def rows(dtype: str, ratio: float) -> np.ndarray:
    return noise(dtype) + np.dtype(dtype).type(ratio)


def exact_covariance(X: np.ndarray, centre: float) -> np.ndarray:
    """Two passes, the products without rounding: (d, d), divided by n.

    Subtracting ``centre``, which all rows are near (or 0), is exact. What is left is split at a grid: ``high`` has at
    most 21 bits, so that sums of 2048 products of it fit into the 53 bits of a float64, in whatever order BLAS adds
    (Ozaki and others, *Error-free transformations of matrix multiplication*, 2012). ``low`` is below 2^-19, so rounding
    in the products with it is 2^-19 of what it would be. Chunks are added in long double.
    """
    d = X.shape[1]
    moment, total = np.zeros((d, d), np.longdouble), np.zeros(d, np.longdouble)
    for start in range(0, len(X), CHUNK):
        Z = X[start : start + CHUNK].astype(np.float64) - centre
        assert np.abs(Z).max() < 8  # 2^3: 21 bits down to the grid
        high = np.round(Z / GRID) * GRID
        low = Z - high
        cross = high.T @ low
        moment += high.T @ high
        moment += cross + cross.T + low.T @ low
        total += high.sum(axis=0)
        total += low.sum(axis=0)
    mean = total / len(X)
    return moment / len(X) - np.outer(mean, mean)


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    root = np.sqrt(np.diag(exact))
    return float((np.abs(found - exact) / np.outer(root, root)).max())


@cache
@threadpool_limits.wrap(limits=1)  # small products: threads would only wait for each other
def expected(dtype: str, ratio: float) -> np.ndarray:
    return exact_covariance(rows(dtype, ratio), ratio)


def test_the_reference_is_exact():
    """Against integer arithmetic, which has no rounding; the mean is far from zero."""
    numbers = np.random.default_rng(4).integers(-(2**20), 2**20, (3000, 3))
    X = numbers * 2.0**-20 + 1000.0
    whole = numbers.astype(object)
    n = len(numbers)
    sums, products = whole.sum(axis=0), whole.T.dot(whole)
    exact = (n * products - np.outer(sums, sums)).astype(np.longdouble) / (n * n) * np.longdouble(2.0**-40)
    assert relative_error(exact_covariance(X, 1000.0), exact) <= 64 * float(np.finfo(np.longdouble).eps)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_the_error_of_a_million_rows(backend, dtype, ratio):
    found = gh.StreamingCovariance().fit(rows(dtype, ratio)).covariance_
    assert found.dtype == np.float64
    assert relative_error(found, expected(dtype, ratio)) <= LIMITS[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", LIMITS)
def test_gradients_of_many_rows(backend, dtype):
    """Row i is r_i x_i: the covariance of gradients against that of the rows, formed in the compute type."""
    X = rows(dtype, 0.0)[: N // 8]
    y = np.where(np.arange(len(X)) % 2, 1.0, -1.0)  # r_i = -y_i, so rows only change sign, without rounding
    found = gh.glm_gradients(X, y, np.zeros(D)).covariance()
    G = X * -y[:, None].astype(dtype)
    assert relative_error(found, exact_covariance(G, 0.0)) <= LIMITS[dtype]
