"""Random projections: what they keep on average, and that they depend on the seed alone."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import gradhess as gh
from gradhess import sketches
from gradhess._gradients import dual

MAKERS = {
    "gaussian": sketches.gaussian,
    "rademacher": sketches.rademacher,
    "sjlt": sketches.sjlt,
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def gradients():
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(70, 6)), rng.integers(0, 3, 70)
    return {
        "dense": gh.as_gradients(X),
        "glm": gh.glm_gradients(X, y > 0, np.ones(6), "logistic", intercept=0.1),
        "softmax": gh.glm_gradients(X, y, rng.normal(size=(3, 6)), "softmax"),
        "layer": gh.layer_gradients(X, rng.normal(size=(70, 4)), bias=True),
        "steps": gh.layer_gradients(rng.normal(size=(70, 5, 6)), rng.normal(size=(70, 5, 2))),
    }


@pytest.mark.parametrize("name", gradients())
def test_projections_and_duals_of_every_structure(backend, make, name, monkeypatch):
    g = gradients()[name]
    G = g.toarray()
    R = make(12, 5)
    expected = G @ R.toarray(g.n_parameters)
    np.testing.assert_allclose(g.project(R), expected, rtol=0, atol=1e-13 * np.abs(G).sum(axis=1).max())
    np.testing.assert_allclose(g.cogram(), G @ G.T, rtol=1e-12, atol=1e-12)
    # The same columns, a few at a time.
    monkeypatch.setattr(dual, "SKETCH_BYTES", 1)
    monkeypatch.setattr(dual, "FORMED_BYTES", 1)
    np.testing.assert_allclose(g.project(R), expected, rtol=0, atol=1e-13 * np.abs(G).sum(axis=1).max())
    # A given matrix is used as it is.
    np.testing.assert_array_equal(g.project(R.toarray(g.n_parameters)), g.matvec(R.toarray(g.n_parameters)))


def test_the_matrix_is_never_stored(make, monkeypatch):
    """R of 20,000 rows and 96 columns would take 15 MiB, or 11 as a sparse one; a few MiB exist at a time."""
    monkeypatch.setattr(dual, "SKETCH_BYTES", 1 << 20)
    monkeypatch.setattr(dual, "FORMED_BYTES", 1 << 20)
    p, R = 20_000, make(96, 1, nonzeros=48) if make is sketches.sjlt else make(96, 1)
    g = gh.as_gradients(np.random.default_rng(0).normal(size=(2, p)))
    g.project(R)  # imports, and buffers of the backend
    tracemalloc.start()
    try:
        g.project(R)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * p * 96 / 3


def test_a_dual_of_many_rows_in_tiles(backend):
    g = gh.as_gradients(np.random.default_rng(0).normal(size=(1500, 4)))
    G = g.toarray()
    found = g.cogram()
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, G @ G.T, rtol=1e-12, atol=1e-13)


def test_products_are_kept_on_average(make):
    """``E[R R^T] = I``. The mean over 400 seeds of an entry of R R^T has a standard error of at most
    sqrt(2 / (16 * 400)) = 0.018; 5 of them are allowed for each of 36 entries."""
    p, m, repeats = 6, 16, 400
    mean = np.zeros((p, p))
    for seed in range(repeats):
        R = make(m, seed).toarray(p)
        mean += R @ R.T / repeats
    assert np.abs(mean - np.eye(p)).max() < 5 * np.sqrt(2 / (m * repeats))


def test_entries(make):
    R = make(12, 3)
    array = R.toarray(50)
    assert array.shape == (50, 12)
    if R.kind == "sjlt":
        assert (np.count_nonzero(array.reshape(50, 4, 3), axis=2) == 1).all()
        assert set(np.unique(array)) == {-0.5, 0.0, 0.5}
    elif R.kind == "rademacher":
        np.testing.assert_allclose(np.abs(array), 1 / np.sqrt(12), rtol=1e-15)
        assert abs(array.mean()) < 5 / 12  # 600 signs: five standard errors of 1 / sqrt(12 * 600)
    else:
        assert np.unique(array).size == 600


def test_the_seed_decides_and_nothing_else(make):
    one = make(8, 1).toarray(30)
    np.testing.assert_array_equal(one, make(8, 1).toarray(30))
    assert (one != make(8, 2).toarray(30)).any()
    assert make(8, 1) == make(8, 1)
    rows = np.random.default_rng(0).normal(size=(20, 30))
    whole = gh.as_gradients(rows).project(make(8, 1))
    parts = [gh.as_gradients(rows[i : i + 5]).project(make(8, 1)) for i in range(0, 20, 5)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-13, atol=1e-13)


def test_arguments_that_make_no_sketch():
    with pytest.raises(gh.errors.InputError, match="size is 0"):
        sketches.gaussian(0)
    with pytest.raises(gh.errors.InputError, match="seed is -1"):
        sketches.rademacher(4, -1)
    with pytest.raises(gh.errors.InputTypeError, match="size must be an integer, not float"):
        sketches.gaussian(4.0)
    with pytest.raises(gh.errors.InputError, match="multiple of nonzeros"):
        sketches.sjlt(10)
    with pytest.raises(gh.errors.InputError, match=r"must be \(2,\)"):
        gh.as_gradients(np.ones((3, 2))).project(np.ones((3, 4)))
