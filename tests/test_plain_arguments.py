"""Arguments as they nearly always are pass one check in compiled code; all others must pass the long way, too."""

from __future__ import annotations

import numpy as np
import pytest

import gradhess as gh
from gradhess import _validation as check
from gradhess import losses
from gradhess._backends import plain
from gradhess.errors import InputError

compiled = pytest.mark.skipif(not plain.COMPILED, reason="installed without compiled code")

N, D = 37, 3


def arguments(dtype=np.float64, labels=np.float64):
    rng = np.random.default_rng(5)
    return (
        rng.standard_normal((N, D)).astype(dtype),
        (rng.random(N) < 0.5).astype(labels),
        rng.standard_normal(D),
    )


def without_the_quick_way(monkeypatch):
    monkeypatch.setattr(check, "are_plain_glm", lambda *_: False)
    monkeypatch.setattr(check, "are_zero_or_within", lambda *_: False)


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["squared", "logistic", "poisson", "huber"])
def test_plain(dtype, labels, loss):
    X, y, coef = arguments(dtype, labels)
    for data in (X, np.asfortranarray(X), X[::-1], X[:0]):
        assert plain.are_plain_glm(data, y[: len(data)], coef, loss)


def read_only(array):
    array.flags.writeable = False
    return array


def with_last(array, value):
    array[-1] = value
    return array


class Subclass(np.ndarray):
    pass


CLOSER = {
    "one axis": lambda X, y, w: (X[:, 0], y, w),
    "three axes": lambda X, y, w: (X[None], y, w),
    "no columns": lambda X, y, w: (X[:, :0], y, w[:0]),
    "a list": lambda X, y, w: (X.tolist(), y, w),
    "a subclass": lambda X, y, w: (X.view(Subclass), y, w),
    "integers": lambda X, y, w: (np.ones((N, D), int), y, w),
    "half precision": lambda X, y, w: (X.astype(np.float16), y, w),
    "the other byte order": lambda X, y, w: (X.astype(X.dtype.newbyteorder()), y, w),
    "labels of another length": lambda X, y, w: (X, y[1:], w),
    "labels in a column": lambda X, y, w: (X, y[:, None], w),
    "labels apart": lambda X, y, w: (X, np.repeat(y, 2)[::2], w),
    "labels of integers": lambda X, y, w: (X, y.astype(int), w),
    "labels in a list": lambda X, y, w: (X, y.tolist(), w),
    "another width": lambda X, y, w: (X, y, w[1:]),
    "coefficients apart": lambda X, y, w: (X, y, np.repeat(w, 2)[::2]),
    "coefficients of float32": lambda X, y, w: (X, y, w.astype(np.float32)),
    "coefficients in a row": lambda X, y, w: (X, y, w[None]),
    "an infinite coefficient": lambda X, y, w: (X, y, with_last(w, np.inf)),
    "a coefficient that is NaN": lambda X, y, w: (X, y, with_last(w, np.nan)),
    "a wrong label": lambda X, y, w: (X, with_last(y, -1.0), w),
    "a label that is NaN": lambda X, y, w: (X, with_last(y, np.nan), w),
    "not aligned": lambda X, y, w: (unaligned(X), y, w),
}


def unaligned(X):
    room = np.zeros(X.nbytes + 1, np.uint8)
    at = 1 if room.ctypes.data % 8 == 0 else 0
    shifted = room[at : at + X.nbytes].view(X.dtype).reshape(X.shape)
    shifted[...] = X
    return shifted


@pytest.mark.parametrize("case", CLOSER)
@pytest.mark.parametrize("loss", ["logistic", "poisson"])
def test_not_plain(case, loss):
    assert not plain.are_plain_glm(*CLOSER[case](*arguments()), loss)


@pytest.mark.parametrize("case", CLOSER)
def test_both_ways_say_the_same(case, monkeypatch):
    def outcome():
        try:
            found = gh.glm_gradients(*CLOSER[case](*arguments()), "logistic")
            return found.gram().tobytes(), found.sum().tobytes()
        except (gh.errors.GradhessError, TypeError, ValueError) as error:
            return type(error), str(error)

    first = outcome()
    without_the_quick_way(monkeypatch)
    assert outcome() == first


@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, lambda X: X[::-1], read_only])
@pytest.mark.parametrize(
    "loss", ["squared", "logistic", "poisson", "huber", losses.custom(lambda eta, y: eta - y)]
)
def test_the_same_rows(layout, loss, monkeypatch):
    X, y, coef = arguments()
    X = layout(X)
    quick = gh.glm_gradients(X, y, coef, loss)
    without_the_quick_way(monkeypatch)
    slow = gh.glm_gradients(X, y, coef, loss)
    for field in ("kind", "unit_column", "loss", "intercept", "loss_weight"):
        assert getattr(quick.rows, field) == getattr(slow.rows, field)
    for field in ("X", "y", "coef"):
        ours, theirs = getattr(quick.rows, field), getattr(slow.rows, field)
        assert np.shares_memory(ours, theirs)
        assert ours.shape == theirs.shape
    np.testing.assert_array_equal(quick.gram(), slow.gram())


@pytest.mark.parametrize("loss", ["softmax", "no such loss"])
def test_losses_that_are_always_looked_at(loss):
    assert not plain.are_plain_glm(*arguments(), loss)


@compiled
@pytest.mark.parametrize("place", [0, 7, 8, N - 1])
def test_every_label_is_seen(place):
    X, y, coef = arguments()
    y[place] = 0.5
    assert not plain.are_plain_glm(X, y, coef, "logistic")
    assert plain.are_plain_glm(X, y, coef, "poisson")
    y[place] = -1e-300
    assert not plain.are_plain_glm(X, y, coef, "poisson")
    with pytest.raises(InputError, match=rf"y\[{place}\]"):
        gh.glm_gradients(X, y, coef, "poisson")


@compiled
@pytest.mark.parametrize("place", [0, 7, 8, N - 1])
def test_weights_within_bounds(place):
    weights = np.ones(N)
    for good in (0.0, -0.0, 0.5, 2.0, -0.5, -2.0):
        weights[place] = good
        assert plain.are_zero_or_within(weights, 0.5, 2.0)
    for bad in (0.49, 2.01, -0.49, -2.01, np.nan, np.inf, -np.inf, 5e-324):
        weights[place] = bad
        assert not plain.are_zero_or_within(weights, 0.5, 2.0)
