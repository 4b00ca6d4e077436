"""Rows that wait, formed, for the rest of their slab have the bits of those that a kernel computes in it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gradhess as gh

N = 600
CUTS = [[257], [1, 2, 300, 301, 513]]
CASES = [
    (1, "squared", np.float64, "C"),
    (3, "logistic", np.float64, "C"),
    (9, "squared", np.float16, "C"),
    (17, "poisson", np.float32, "F"),
    (17, "squared", np.float64, "F"),
    (64, "huber", np.float32, "C"),
    (130, "logistic", np.float64, "C"),
    (5, "softmax", np.float32, "F"),
]


@pytest.mark.parametrize("structure", ["full", "diagonal"])
@pytest.mark.parametrize(("d", "loss", "dtype", "order"), CASES)
def test_rows_that_wait_have_the_same_bits(backend, d, loss, dtype, order, structure):
    if backend == "reference":
        pytest.skip("the products of NumPy's BLAS")
    rng = np.random.default_rng(d)
    X = np.asarray(rng.normal(size=(N, d)) + 1, dtype, order=order)
    y, weights = np.arange(N) % 2, rng.uniform(0, 2, N)
    coef = np.eye(3, d) if loss == "softmax" else np.ones(d) / d
    intercept = np.arange(3) / 10 if loss == "softmax" else 0.1

    def fed(cuts, given, assume_centered):
        stream = gh.StreamingCovariance(structure, assume_centered)
        for start, stop in itertools.pairwise([0, *cuts, N]):
            rows = gh.glm_gradients(X[start:stop], y[start:stop], coef, loss, intercept=intercept)
            stream.partial_fit(rows, None if given is None else given[start:stop])
        return stream.covariance_, stream.location_

    for given, assume_centered in itertools.product([None, weights], [False, True]):
        expected = fed([], given, assume_centered)
        for cuts in CUTS:
            found = fed(cuts, given, assume_centered)
            for array, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(array, other)
