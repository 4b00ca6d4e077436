"""``gradhess.grouped``: every way to name groups, what comes out, and what is refused."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradhess as gh
from gradhess.errors import InputError, InputTypeError, NonFiniteError

N, D = 60, 4


@pytest.fixture
def problem(rng):
    X, y, coef = rng.standard_normal((N, D)), rng.standard_normal(N), rng.standard_normal(D)
    return X, y, coef, X * (X @ coef - y)[:, None]


def close(actual, expected):
    """A sum of at most N + D terms of size at most a few tens."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=(N + D) * 100 * np.finfo(np.float64).eps)


def test_every_form_of_groups(problem, rng):
    X, y, coef, G = problem
    g = gh.glm_gradients(X, y, coef)
    index = rng.integers(0, N, (7, 5))
    expected = G[index].sum(axis=1)
    for form in (index, index.tolist(), index.astype(np.int32), index.astype(np.uint8), list(index)):
        grouped = gh.grouped(g, form)
        assert grouped.shape == (7, D)
        close(grouped.toarray(), expected)
    close(gh.grouped(g, index.ravel(), offsets=np.arange(0, 36, 5)).toarray(), expected)
    close(gh.grouped(g, group_size=12).toarray(), G.reshape(5, 12, D).sum(axis=1))
    close(gh.grouped(G, index).toarray(), expected)

    ragged = [np.array([3, 3, 59]), np.array([], np.int64), np.array([0])]
    close(gh.grouped(g, ragged).toarray(), np.stack([G[3] * 2 + G[59], 0 * G[0], G[0]]))
    labels = rng.integers(0, 4, N)
    expected = np.stack([G[labels == label].sum(axis=0) for label in range(4)])
    for form in (labels, labels.tolist(), np.array(list("abcd"))[labels], labels * 10 - 7):
        close(gh.grouped(g, form).toarray(), expected)


def test_factors_shifts_and_scale_belong_to_draws(problem, rng):
    X, _, _, G = problem
    g = gh.glm_gradients(*problem[:3])
    index = rng.integers(0, N, (6, 3))
    a, b, scale = rng.standard_normal((6, 3)), rng.standard_normal((6, 3)), rng.uniform(1, 2, 6)
    grouped = gh.grouped(g, index, factors=a, shifts=b, scale=scale)
    rows = a[..., None] * G[index] + b[..., None] * X[index]
    close(grouped.toarray(), scale[:, None] * rows.sum(axis=1))
    labels = rng.integers(0, 3, N)
    a = rng.standard_normal(N)
    expected = np.stack([(a[:, None] * G)[labels == label].sum(axis=0) for label in range(3)])
    close(gh.grouped(g, labels, factors=a).toarray(), expected)
    ragged = [[0, 1], [2]]
    for factors in ([[1.0, 2.0], [3.0]], [1.0, 2.0, 3.0], np.array([1.0, 2.0, 3.0])):
        close(gh.grouped(g, ragged, factors=factors).toarray(), [G[0] + 2 * G[1], 3 * G[2]])


def test_noise_on_targets_is_a_shift(problem, rng):
    X, y, coef, _ = problem
    index, noise = rng.integers(0, N, (5, 8)), rng.standard_normal((5, 8))
    grouped = gh.grouped(gh.glm_gradients(X, y, coef), index, shifts=-noise, scale=1 / 8)
    for j in range(5):
        batch = gh.glm_gradients(X[index[j]], y[index[j]] + noise[j], coef)
        close(grouped.toarray()[j], batch.mean())


def test_groups_are_gradients(problem, rng):
    g = gh.grouped(gh.glm_gradients(*problem[:3], intercept=0.3), rng.integers(0, N, (40, 6)))
    G = g.toarray()
    assert g.shape == G.shape == (40, D + 1)
    close(g.sum(), G.sum(axis=0))
    close(g.mean(), G.mean(axis=0))
    np.testing.assert_allclose(g.gram(), G.T @ G, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(g.covariance(1), np.cov(G, rowvar=False), rtol=1e-12, atol=1e-10)
    close(g.norms(), np.linalg.norm(G, axis=1))
    stream = gh.StreamingCovariance(ddof=1)
    stream.partial_fit(g)
    np.testing.assert_allclose(stream.covariance_, np.cov(G, rowvar=False), rtol=1e-12, atol=1e-10)
    for call in (g.loss, g.hessian):
        with pytest.raises(InputError, match="groups carry no"):
            call()


def test_softmax(rng):
    X, y = rng.standard_normal((N, D)), rng.integers(0, 3, N)
    g = gh.glm_gradients(X, y, rng.standard_normal((3, D)), "softmax", intercept=np.zeros(3))
    index = rng.integers(0, N, (9, 4))
    close(gh.grouped(g, index).toarray(), g.toarray()[index].sum(axis=1))
    assert g.slopes().shape == (N, 3)


@pytest.mark.parametrize("loss", ["squared", "logistic", "poisson", "huber"])
def test_slopes(loss, rng):
    X, coef, weights = rng.standard_normal((N, D)), rng.standard_normal(D) / 2, rng.uniform(size=N)
    y = rng.integers(0, 2, N).astype(float)
    g = gh.glm_gradients(X, y, coef, loss, intercept=0.2, sample_weight=weights)
    function = gh.losses.huber() if loss == "huber" else getattr(gh.losses, loss)
    expected = weights * function.derivative(X @ coef + 0.2, y)
    close(g.slopes(), expected)
    g.slopes()[:] = 0  # a copy
    close(g.slopes(), expected)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 40), max_size=12), seed=st.integers(0, 2**32 - 1))
def test_any_lengths(lengths, seed):
    rng = np.random.default_rng(seed)
    G = rng.integers(-9, 10, (N, D)).astype(np.float64)  # integers: sums are exact
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    index = rng.integers(0, N, offsets[-1])
    grouped = gh.grouped(G, index, offsets=offsets)
    expected = [G[index[a:b]].sum(axis=0) for a, b in itertools.pairwise(offsets)]
    np.testing.assert_array_equal(grouped.toarray(), np.reshape(expected, (-1, D)))


def test_as_many_groups_as_rows_are_still_a_part_of_the_groups(backend, rng):
    """A part that happens to count N, as the data they draw from do, is not all: here the one that fills a slab."""
    G, index = rng.standard_normal((N, D)), rng.integers(0, N, (900, 3))
    rows = gh.grouped(G, index).rows
    for start in (0, 300):
        assert rows.slice(start, start + N).n_samples == N
    stream = gh.StreamingCovariance()
    for cut in (slice(256 - N), slice(256 - N, 900)):
        stream.partial_fit(gh.grouped(G, index[cut]))
    whole = gh.StreamingCovariance().partial_fit(gh.grouped(G, index))
    np.testing.assert_array_equal(stream.covariance_, whole.covariance_)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(1, 899), max_size=4))
def test_chunks_of_groups_change_no_bits(seed, cuts):
    rng = np.random.default_rng(seed)
    g = gh.glm_gradients(rng.standard_normal((N, D)), rng.standard_normal(N), np.ones(D))
    index = rng.integers(0, N, (900, 3))
    whole, parts = gh.StreamingCovariance(), gh.StreamingCovariance()
    whole.partial_fit(gh.grouped(g, index))
    edges = [0, *sorted(cuts), 900]
    for start, stop in itertools.pairwise(edges):
        parts.partial_fit(gh.grouped(g, index[start:stop]))
    assert whole.covariance_.tobytes() == parts.covariance_.tobytes()


def test_memory_does_not_grow_with_the_draws(rng):
    X, y = rng.standard_normal((2000, 64)), rng.standard_normal(2000)
    index = rng.integers(0, 2000, (5000, 200))
    g = gh.grouped(gh.glm_gradients(X, y, np.ones(64)), index)
    stream = gh.StreamingCovariance()
    stream.partial_fit(gh.grouped(gh.glm_gradients(X, y, np.ones(64)), index[:300]))
    tracemalloc.start()
    stream.partial_fit(g)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20  # a block of sums is 4 MiB; all drawn rows would be 488 MiB


def test_a_bad_row_matters_where_it_is_drawn(problem):
    X, y, coef, G = problem
    X[7, 2] = np.inf
    g = gh.glm_gradients(X, y, coef)
    close(gh.grouped(g, [[0, 1], [2, 3]]).toarray(), [G[0] + G[1], G[2] + G[3]])
    with pytest.raises(NonFiniteError, match="group 1 holds row 7, whose gradient is not finite") as caught:
        gh.grouped(g, [[0, 1], [2, 7]]).covariance()
    assert caught.value.row == 1
    stream = gh.StreamingCovariance(on_nonfinite="skip")
    stream.partial_fit(gh.grouped(g, [[0, 1], [2, 7], [3, 4]]))
    assert (stream.n_samples_seen_, stream.n_samples_skipped_) == (2, 1)
    close(stream.location_, (G[0] + G[1] + G[3] + G[4]) / 2)


def test_float32(problem):
    X, y, coef, G = problem
    grouped = gh.grouped(gh.glm_gradients(X.astype(np.float32), y, coef), group_size=30)
    assert grouped.dtype == np.float32
    size = np.abs(G).reshape(2, 30, D).sum(axis=1)
    # X is rounded once, and enters the residual and the product; the sum is rounded once.
    assert (np.abs(grouped.toarray() - G.reshape(2, 30, D).sum(axis=1)) <= 40 * 2.0**-24 * size.max()).all()


def test_no_groups(problem):
    grouped = gh.grouped(gh.glm_gradients(*problem[:3]), np.zeros((0, 5), np.int64))
    assert grouped.shape == (0, D)
    assert grouped.toarray().shape == (0, D)
    assert gh.grouped(problem[3], []).shape == (0, D)  # a list of no arrays
    with pytest.raises(InputError, match="more than 0 rows"):
        grouped.mean()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(), InputError, "either groups or group_size"),
        (dict(groups=[[0]], group_size=2), InputError, "either groups or group_size"),
        (dict(group_size=7), InputError, "leave 4 over; pass the first 56 rows"),
        (dict(group_size=0), InputError, "at least 1"),
        (dict(group_size=2.0), InputTypeError, "must be an integer"),
        (dict(group_size=2, offsets=[0, 1]), InputError, "offsets belong to groups"),
        (dict(groups=[[0, 60]]), InputError, "names row 60, but there are 60 rows, 0 to 59"),
        (dict(groups=[[0, -1]]), InputError, "names row -1"),
        (dict(groups=np.array([[2**63]], np.uint64)), InputError, "names row 9223372036854775808"),
        (dict(groups=[[0.0, 1.0]]), InputTypeError, "it must hold integers"),
        (dict(groups=[0, 1, 2]), InputError, "without offsets, it holds the label of every row"),
        (dict(groups=[1, 2], offsets=[0, 1]), InputError, "end with the 2 draws"),
        (dict(groups=[1, 2], offsets=[0, 2, 1, 2]), InputError, "not decrease"),
        (dict(groups=[[1, 2]], offsets=[0, 2]), InputError, "must be \\(t,\\)"),
        (dict(groups=[[1, 2]], factors=[1.0]), InputError, "factors has shape \\(1,\\)"),
        (dict(groups=[[1, 2]], shifts=[[1.0, np.nan]]), InputError, "shifts holds NaN"),
        (dict(groups=[[1, 2]], scale=[1.0, 2.0]), InputError, "there are 1 groups"),
        (dict(groups=[[1, 2]], scale=np.inf), InputError, "scale holds NaN or infinity"),
        (dict(groups=[[1, 2], [3]], factors=[[1.0], [1.0]]), InputError, "same lengths"),
        (dict(groups=np.full(N, np.nan)), InputError, "NaN"),
        (dict(groups=np.array(["a", 1] * (N // 2), object)), InputTypeError, "neither all text nor all"),
        (dict(groups=np.array([None] * N)), InputTypeError, "neither all text nor all"),
    ],
)
def test_bad_arguments(problem, arguments, error, message):
    with pytest.raises(error, match=message):
        gh.grouped(gh.glm_gradients(*problem[:3]), **arguments)


def test_groups_of_groups_are_refused(problem):
    with pytest.raises(InputTypeError, match="GroupedGradients cannot be grouped"):
        gh.grouped(gh.grouped(problem[3], group_size=2), group_size=2)
