"""``StreamingCovariance``: what it is after a failure, without rows, and as an object that is copied and set."""

from __future__ import annotations

import copy
import itertools
import pickle
import signal

import numpy as np
import pytest
from sklearn.base import clone
from states import N, assert_same_state, data

import gradhess as gh
from gradhess._backends import registry

# ---- failure -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["snapshot", "large"])
def keeping(request, monkeypatch):
    """Small states are put back from a copy, large ones are checked beforehand; both ways for the same tests."""
    if request.param == "large":
        monkeypatch.setattr("gradhess._streaming.stream.SNAPSHOT_MAX_BYTES", 0)
    return request.param


BAD_CHUNKS = {
    "nan": lambda X: (_with(X, 700, np.nan), None),
    "infinity in the first rows": lambda X: (_with(X, 3, np.inf), None),
    "in the last rows": lambda X: (_with(X, 1199, -np.inf), None),
    "weight": lambda X: (X, _with(np.ones(1200), 700, np.nan)),
    "negative weight": lambda X: (X, _with(np.ones(1200), 700, -1.0)),
    "width": lambda X: (X[:, :3], None),
    "label": lambda X: (gh.glm_gradients(X, _with(X[:, 0], 5, np.nan), np.ones(4)), None),
    "wide and bad": lambda X: (_with(X.astype(np.float64), 1100, np.nan), None),
}


def _with(array, index, value):
    array = array.copy()
    array[index, ...] = value
    return array


@pytest.mark.parametrize(
    ("bad", "seen"),
    [pair for pair in itertools.product(BAD_CHUNKS, [0, 100, 300, 512]) if pair != ("width", 0)],
)
def test_a_chunk_that_fails_changes_no_bits(backend, keeping, bad, seen):
    X = data(dtype=np.float32)
    chunk, weights = BAD_CHUNKS[bad](X[:1200])
    cov = gh.StreamingCovariance().partial_fit(X[:seen], None if seen != 300 else np.full(300, 0.5))
    before = copy.copy(cov)
    with pytest.raises(gh.errors.InputError):
        cov.partial_fit(chunk, weights)
    assert_same_state(cov, before)
    cov.partial_fit(X[seen:])
    np.testing.assert_array_equal(cov.covariance_, before.partial_fit(X[seen:]).covariance_)


@pytest.mark.parametrize("seen", [0, 300])
def test_without_a_backend_nothing_changes(monkeypatch, seen):
    X = data()
    cov = gh.StreamingCovariance().partial_fit(X[:seen])
    before = copy.copy(cov)
    with monkeypatch.context() as patch:
        patch.setenv("GRADHESS_BACKEND", "nonsense")
        with pytest.raises(gh.errors.InputError, match="nonsense"):
            cov.partial_fit(X)
    assert_same_state(cov, before)
    if not seen:
        cov.partial_fit(X[:, :2])  # the rows that failed left no width behind


@pytest.mark.parametrize(("seen", "row"), [(0, 0), (0, 700), (100, 10), (100, 160), (100, 1199), (250, 6)])
def test_the_row_is_that_of_the_callers_chunk(backend, keeping, seen, row):
    X = data()
    cov = gh.StreamingCovariance().partial_fit(X[:seen])
    with pytest.raises(gh.errors.NonFiniteError, match=rf"X\[{row}, 0\] is nan") as caught:
        cov.partial_fit(_with(X[:1200], row, np.nan))
    assert caught.value.row == row


@pytest.mark.parametrize("seed", range(6))
def test_failures_and_results_in_between_change_no_bits(backend, keeping, seed):
    """The memory of a copy and of a slab is used again and again; results that were handed out must not be in it."""
    rng = np.random.default_rng(seed)
    X = data()
    cov, start, handed_out = gh.StreamingCovariance(), 0, []
    while start < N:
        stop = min(start + int(rng.choice([1, 40, 256, 300, 700])), N)
        event = rng.integers(4)
        if event == 0:
            with pytest.raises(gh.errors.NonFiniteError):
                cov.partial_fit(_with(X[start:], int(rng.integers(N - start)), np.nan))
        cov.partial_fit(X[start:stop])
        start = stop
        if event in (1, 2):
            result = cov.covariance_ if event == 1 else cov.second_moment_
            handed_out.append((result, result.copy()))
    assert_same_state(cov, gh.StreamingCovariance().partial_fit(X))
    for result, kept in handed_out:
        np.testing.assert_array_equal(result, kept)


class Failing:
    """A backend that interrupts, or fails, at the end of a call of ``extend``."""

    def __init__(self, inner, action, at=3):
        self.inner, self.action, self.calls, self.at = inner, action, 0, at
        self.name = inner.name

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def extend(self, *args, **kwargs):
        self.calls += 1
        self.inner.extend(*args, **kwargs)
        if self.calls == self.at:
            self.action()


def interrupt():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("gradhess._gradients.passes.PIECE_PRODUCTS", 1)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_an_interrupt_or_an_error_puts_a_small_state_back(backend, small_pieces, weighted, at):
    """Rows that wait, too, whose room was written to from the second call on."""
    X = data()
    weights = np.linspace(0.5, 2, N) if weighted else None
    cov = gh.StreamingCovariance().partial_fit(X[:100], weights if weights is None else weights[:100])
    before = copy.copy(cov)

    def out_of_memory():
        raise MemoryError

    for action, error in ((interrupt, KeyboardInterrupt), (out_of_memory, MemoryError)):
        with registry.BackendChoice(Failing(registry.get(backend), action, at)), pytest.raises(error):
            cov.partial_fit(X[100:], weights if weights is None else weights[100:])
        assert_same_state(cov, before)
        with registry.BackendChoice(Failing(registry.get(backend), action, at)), pytest.raises(error):
            cov.fit(X)
        assert_same_state(cov, before)


def test_an_interrupt_leaves_a_large_state_valid(backend, small_pieces, monkeypatch):
    monkeypatch.setattr("gradhess._streaming.stream.SNAPSHOT_MAX_BYTES", 0)
    X = data()
    cov = gh.StreamingCovariance().partial_fit(X[:100])
    with registry.BackendChoice(Failing(registry.get(backend), interrupt)), pytest.raises(KeyboardInterrupt):
        cov.partial_fit(X[100:])
    assert cov.n_samples_seen_ == 4 * 256  # the first piece ends a slab later
    assert_same_state(cov, gh.StreamingCovariance().partial_fit(X[: 4 * 256]))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_skipping_leaves_out_and_counts(backend, keeping):
    X = data()
    weights = np.random.default_rng(10).uniform(0, 2, N)
    dirty, dirty_weights = X.copy(), weights.copy()
    bad = [0, 17, 255, 256, 600, 1000, 1001, 1499]
    dirty[bad[:6], 1] = [np.nan, np.inf, -np.inf, np.nan, np.nan, np.inf]
    dirty_weights[bad[6:]] = [np.nan, np.inf]
    clean = gh.StreamingCovariance().partial_fit(np.delete(X, bad, axis=0), np.delete(weights, bad))
    cov = gh.StreamingCovariance(on_nonfinite="skip")
    for a in range(0, N, 400):
        cov.partial_fit(dirty[a : a + 400], dirty_weights[a : a + 400])
    assert cov.n_samples_skipped_ == len(bad)
    assert cov.n_samples_seen_ == N - len(bad)
    np.testing.assert_array_equal(cov.covariance_, clean.covariance_)
    np.testing.assert_array_equal(cov.location_, clean.location_)


def test_skipping_rows_of_gradients(backend):
    X = data()
    y = (X[:, 0] > 0).astype(float)
    y[5], X[800, 2] = np.nan, np.inf
    keep = np.delete(np.arange(N), [5, 800])
    cov = gh.StreamingCovariance(on_nonfinite="skip").partial_fit(
        gh.glm_gradients(X, y, np.ones(4), "logistic")
    )
    clean = gh.StreamingCovariance().partial_fit(gh.glm_gradients(X[keep], y[keep], np.ones(4), "logistic"))
    assert cov.n_samples_skipped_ == 2
    np.testing.assert_array_equal(cov.covariance_, clean.covariance_)


def test_skipping_every_row(backend):
    cov = gh.StreamingCovariance(on_nonfinite="skip").partial_fit(np.full((3, 2), np.nan))
    assert (cov.n_samples_seen_, cov.n_samples_skipped_) == (0, 3)
    with pytest.raises(gh.errors.NotFittedError):
        _ = cov.covariance_
    assert (cov + cov).n_samples_skipped_ == 6
    np.testing.assert_allclose(cov.partial_fit(data(d=2)).location_, data(d=2).mean(axis=0), rtol=1e-12)


def test_a_result_that_would_not_fit_is_refused_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr("gradhess._memory.available_bytes", lambda: 1 << 30)
    X = np.zeros((2, 100_000), np.float32)
    cov = gh.StreamingCovariance()
    with pytest.raises(
        gh.errors.ResultTooLargeError, match=r"bytes \(150 GiB\).*1 GiB are.*structure='diagonal'"
    ):
        cov.partial_fit(X)
    assert cov.n_samples_seen_ == 0
    assert_same_state(cov, gh.StreamingCovariance())
    assert gh.StreamingCovariance("diagonal").partial_fit(X).n_features_in_ == 100_000
    for refused in (lambda: gh.weighted_gram(X), gh.as_gradients(X).gram, gh.as_gradients(X).covariance):
        with pytest.raises(gh.errors.ResultTooLargeError, match=r"diagonal\(\)"):
            refused()


def test_too_few_rows():
    cov = gh.StreamingCovariance(ddof=1)
    for name in ("covariance_", "location_", "second_moment_", "precision_", "n_features_in_"):
        with pytest.raises(gh.errors.NotFittedError, match="no rows"):
            getattr(cov, name)
        assert not hasattr(cov, name)
    assert (cov.n_samples_seen_, cov.weight_sum_) == (0, 0.0)
    cov.partial_fit([[1.0, 2.0]])
    np.testing.assert_array_equal(cov.location_, [1, 2])
    with pytest.raises(gh.errors.InputError, match="ddof=1: 1 were seen"):
        _ = cov.covariance_
    np.testing.assert_array_equal(cov.set_params(ddof=0).covariance_, np.zeros((2, 2)))
    nothing = gh.StreamingCovariance().partial_fit([[1.0, 2.0]], [0.0])
    with pytest.raises(gh.errors.InputError, match="weights of the 1 rows seen sum to 0"):
        _ = nothing.covariance_


def test_no_rows_change_nothing(backend):
    cov = gh.StreamingCovariance().partial_fit(np.empty((0, 9)))
    assert cov.partial_fit(data()).n_features_in_ == 4
    before = copy.copy(cov)
    cov.partial_fit(np.empty((0, 4)), [])
    assert_same_state(cov, before)


# ---- the object --------------------------------------------------------------------------------------------------


def test_fit_forgets_and_reset_empties():
    X = data()
    cov = gh.StreamingCovariance().fit(X).fit(X[:100])
    assert_same_state(cov, gh.StreamingCovariance().fit(X[:100]))
    assert_same_state(cov.reset(), gh.StreamingCovariance())


@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), lambda c: c.copy()]
)
def test_copies_are_independent_and_go_on_in_the_same_way(way):
    X = data()
    cov = gh.StreamingCovariance("diagonal", True, 1, on_nonfinite="skip").partial_fit(X[:300], np.ones(300))
    other = way(cov)
    assert other.get_params() == cov.get_params()
    assert_same_state(other, cov)
    other.partial_fit(X[300:])
    assert cov.n_samples_seen_ == 300
    assert_same_state(other, cov.partial_fit(X[300:]))


def test_parameters_as_scikit_learn_has_them():
    cov = gh.StreamingCovariance(structure="diagonal", ddof=1)
    assert clone(cov).get_params() == cov.get_params()
    assert repr(cov) == (
        "StreamingCovariance(structure='diagonal', assume_centered=False, ddof=1, dtype='float64', "
        "on_nonfinite='error', device=None)"
    )
    cov.fit(data())
    assert cov.set_params(on_nonfinite="skip").on_nonfinite == "skip"
    with pytest.raises(gh.errors.InputError, match="reset"):
        cov.set_params(structure="full")
    with pytest.raises(gh.errors.InputError, match="unknown parameters shrinkage"):
        cov.set_params(shrinkage=0.1)
    assert cov.reset().set_params(structure="full").fit(data()).covariance_.shape == (4, 4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"structure": "kronecker"}, "'full', 'diagonal'"),
        ({"assume_centered": 1}, "True or False"),
        ({"ddof": -1}, "at least 0"),
        ({"ddof": 0.5}, "integer"),
        ({"ddof": True}, "integer"),
        ({"dtype": "float16"}, "'float64' or 'float32'"),
        ({"dtype": "nonsense"}, "'float64' or 'float32'"),
        ({"on_nonfinite": "ignore"}, "'error', 'skip'"),
    ],
)
def test_parameters_that_are_not_allowed(parameters, message):
    with pytest.raises(gh.errors.GradhessError, match=message):
        gh.StreamingCovariance(**parameters)
