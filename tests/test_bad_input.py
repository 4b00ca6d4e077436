"""Every wrong argument: the type of the error, and a message that names the argument and says what to do."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from scipy import sparse

import gradhess as gh
from gradhess import errors

X = np.arange(12.0).reshape(4, 3)
Y = np.array([0.0, 1.0, 1.0, 0.0])
W = np.zeros(3)

DATA = {
    "1-D": (np.ones(4), errors.InputError, r"\(4,\).*reshape\(-1, 1\).*reshape\(1, -1\)"),
    "3-D": (np.ones((2, 2, 2)), errors.InputError, r"\(2, 2, 2\)"),
    "0-D": (3.0, errors.InputError, r"\(\)"),
    "no columns": (np.ones((4, 0)), errors.InputError, "no columns"),
    "ragged": ([[1, 2], [3]], errors.InputError, "cannot become an array"),
    "object": (np.array([[1, None]]), errors.InputTypeError, "object"),
    "string": (np.array([["a", "b"]]), errors.InputTypeError, "real numbers"),
    "bytes": (np.array([[b"a"]]), errors.InputTypeError, "real numbers"),
    "complex": (np.ones((2, 2), complex), errors.InputTypeError, "complex128"),
    "datetime": (np.ones((2, 2), "M8[s]"), errors.InputTypeError, "datetime64"),
    "timedelta": (np.ones((2, 2), "m8[s]"), errors.InputTypeError, "timedelta64"),
    "structured": (np.ones((2, 2), [("a", float)]), errors.InputTypeError, "real numbers"),
    "longdouble": (np.ones((2, 2), np.longdouble), errors.InputTypeError, r"astype\('float64'\)"),
    "big-endian": (np.ones((2, 2), ">f8"), errors.InputTypeError, "byte order"),
    "masked": (np.ma.masked_less(X, 3), errors.InputTypeError, r"masked.*filled"),
    "sparse": (sparse.csr_array(X), errors.InputTypeError, r"sparse.*toarray\(\)"),
    "None": (None, errors.InputTypeError, "object"),
    "text": ("X", errors.InputTypeError, "real numbers"),
}
ENTRIES = {
    "weighted_gram": gh.weighted_gram,
    "as_gradients": gh.as_gradients,
    "glm_gradients": lambda data: gh.glm_gradients(data, Y, W),
    "partial_fit": lambda data: gh.StreamingCovariance().partial_fit(data),
    "mahalanobis": lambda data: gh.StreamingCovariance().partial_fit(X).mahalanobis(data),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", DATA)
def test_data(entry, case):
    value, error, message = DATA[case]
    with pytest.raises(error, match=message):
        ENTRIES[entry](value)


GLM = {
    "y too short": ({"y": Y[:3]}, r"y has shape \(3,\), but X has shape \(4, 3\)"),
    "y a column": ({"y": Y[:, None]}, r"y has shape \(4, 1\).*y\.ravel\(\)"),
    "y of strings": ({"y": ["a", "b", "c", "d"]}, "y has dtype"),
    "y outside": ({"y": Y + 1, "loss": "logistic"}, r"y\[1\] is 2"),
    "coef too long": ({"coef": np.zeros(4)}, r"coef has shape \(4,\).*it must be \(3,\)"),
    "coef a row": ({"coef": np.zeros((1, 3))}, r"coef\.ravel\(\)"),
    "coef of softmax": ({"coef": np.zeros(3), "loss": "softmax"}, r"softmax needs \(k, 3\)"),
    "coef not finite": ({"coef": [0, np.nan, 0]}, "coef holds NaN"),
    "intercept of two": ({"intercept": [1.0, 2.0]}, "intercept has shape .*one number"),
    "intercept not finite": ({"intercept": np.inf}, "intercept holds NaN or infinity"),
    "intercept of softmax": (
        {"coef": np.zeros((2, 3)), "intercept": 0.0, "loss": "softmax"},
        r"intercept has shape \(\), but coef has 2 rows",
    ),
    "sample_weight negative": (
        {"sample_weight": [1, 1, -0.5, 1]},
        r"sample_weight\[2\] is -0\.5.*not be negative",
    ),
    "sample_weight short": ({"sample_weight": [1.0]}, r"sample_weight has shape \(1,\)"),
    "loss unknown": ({"loss": "hinge"}, "loss is 'hinge'"),
    "loss of softmax labels": (
        {"coef": np.zeros((2, 3)), "loss": "softmax", "y": [0, 1, 2, 0]},
        r"y\[2\] is 2",
    ),
}


@pytest.mark.parametrize("case", GLM)
def test_glm_gradients(case):
    change, message = GLM[case]
    arguments = {"X": X, "y": Y, "coef": W, **change}
    with pytest.raises(errors.GradhessError, match=message):
        gh.glm_gradients(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: g.matvec(np.ones(4)),
            r"v has shape \(4,\), but the gradients have shape \(4, 3\).*\(3,\)",
        ),
        (lambda g: g.rmatvec(np.ones(3)), r"u has shape \(3,\).*\(4,\)"),
        (lambda g: g.matvec(np.ones((3, 2, 2))), "v has shape"),
        (lambda g: g.matvec([1, np.nan, 1]), "v holds NaN"),
        (lambda g: g.covariance(ddof=-1), "ddof is -1"),
        (lambda g: g.covariance(ddof=4), "more than 4 rows, and there are 4"),
        (lambda g: g.covariance(ddof=1.5), "ddof must be an integer"),
    ],
)
def test_methods_of_gradients(call, message):
    with pytest.raises(errors.GradhessError, match=message):
        call(gh.glm_gradients(X, Y, W))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gh.estimate_memory(0), "d is 0"),
        (lambda: gh.estimate_memory(2.5), "d must be an integer"),
        (lambda: gh.estimate_memory(3, "blocks"), "structure is 'blocks'"),
        (lambda: gh.estimate_memory(3, dtype=int), "dtype is"),
        (lambda: gh.set_num_threads(0), "n is 0"),
        (lambda: gh.set_num_threads(2.0), "n must be an integer"),
        (lambda: gh.use_backend("fortran"), "'cpu', 'numba', 'reference'"),
        (lambda: gh.StreamingCovariance().partial_fit(X, [-1, 0, 0, 0]), r"sample_weight\[0\] is -1"),
        (lambda: gh.StreamingCovariance().partial_fit(X, [1.0]), "sample_weight has shape"),
    ],
)
def test_everything_else(call, message):
    with pytest.raises(errors.GradhessError, match=message):
        call()


def test_errors_are_also_the_built_in_types():
    pairs = {
        errors.InputError: ValueError,
        errors.InputTypeError: TypeError,
        errors.NonFiniteError: ValueError,
        errors.NotFittedError: AttributeError,
        errors.ResultTooLargeError: MemoryError,
        errors.BackendError: RuntimeError,
        errors.StateFileError: ValueError,
    }
    for error, built_in in pairs.items():
        assert issubclass(error, errors.GradhessError)
        assert issubclass(error, built_in)


def test_an_error_with_a_row_survives_pickling():
    error = pickle.loads(pickle.dumps(errors.NonFiniteError(7, "row 7")))
    assert (error.row, str(error)) == (7, "row 7")


# ---- found by trying to break it ----


def test_rows_without_weight_do_not_touch_the_centre(backend):
    """Sentinels in rows of weight 0, here a whole slab and more of them, at the start."""
    rng = np.random.default_rng(0)
    for dtype, sentinel in ((np.float64, 1e10), (np.float32, 1e4)):
        X = rng.normal(size=(5000, 3)).astype(dtype)
        weights = np.ones(5000)
        X[:700], weights[:700] = sentinel, 0.0
        found = gh.StreamingCovariance().fit(X, weights).covariance_
        np.testing.assert_allclose(found, np.cov(X[700:].T.astype(float), ddof=0), rtol=1e-4, atol=1e-5)
        assert gh.StreamingCovariance().fit(X[:700], np.ones(700)).covariance_.max() == 0.0


def test_products_with_no_vectors(backend):
    g = gh.as_gradients(np.ones((10, 3)))
    assert g.rmatvec(np.empty((10, 0))).shape == (3, 0)
    assert g.matvec(np.empty((3, 0))).shape == (10, 0)
    assert g.gram_matvec(np.empty((3, 0))).shape == (3, 0)


@pytest.mark.parametrize("label", [5e9, -1.0, np.nan])
def test_labels_changed_behind_its_back_are_found(backend, label):
    y = np.zeros(500)
    g = gh.glm_gradients(np.ones((500, 3)), y, np.ones((2, 3)), "softmax")
    y[:] = label
    if backend == "reference":
        pytest.skip("NumPy checks its own indices")
    with pytest.raises(gh.errors.NonFiniteError):
        g.sum()


def test_two_threads_on_one_stream(backend):
    X = np.random.default_rng(0).normal(size=(999, 20))
    cov = gh.StreamingCovariance()
    threads = [threading.Thread(target=lambda: [cov.partial_fit(X) for _ in range(20)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cov.n_samples_seen_ == 40 * 999
    np.testing.assert_allclose(cov.covariance_, np.cov(X.T, ddof=0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("d", [5, 1100])
def test_out_may_overlap_the_data(d):
    A = np.random.default_rng(0).normal(size=(d, d))
    A += A.T
    expected = A + A.T @ A
    found = A.copy()
    gh.weighted_gram(found, out=found)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-7 * d)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_custom_loss_that_raises_gives_no_numbers(backend):
    numba = pytest.importorskip("numba")

    @numba.njit
    def broken(eta, y):
        if eta > 0.5:
            raise ValueError("no")
        return eta

    g = gh.glm_gradients(np.ones((600, 1)), np.ones(600), [1.0], gh.losses.custom(broken))
    with pytest.raises(ValueError):  # noqa: PT011 - the function's own on one backend, NonFiniteError on another
        g.sum()


def test_weights_that_float32_cannot_hold():
    X = np.eye(3, dtype=np.float32)
    for weight in (1e39, 1e-46):
        with pytest.raises(gh.errors.InputError, match="weights of float32 rows must be 0 or of a size"):
            gh.weighted_gram(X, [weight] * 3)
        with pytest.raises(gh.errors.InputError, match="sample_weight of float32 rows"):
            gh.StreamingCovariance().partial_fit(X, [weight] * 3)
    np.testing.assert_allclose(gh.weighted_gram(X.astype(float), [1e39] * 3), np.eye(3) * 1e39)


def test_huge_weights_cancel_in_a_covariance(backend):
    X = np.random.default_rng(0).normal(size=(9000, 2))
    found = gh.StreamingCovariance().fit(X, np.full(9000, 1e152)).covariance_
    np.testing.assert_allclose(found, np.cov(X.T, ddof=0), rtol=1e-10, atol=1e-12)


def test_distances_and_arrays_name_rows_that_are_not_finite(backend):
    X = np.random.default_rng(0).normal(size=(50, 2))
    cov = gh.StreamingCovariance().fit(X)
    X[7, 1] = np.nan
    for call in (lambda: cov.mahalanobis(X), lambda: gh.as_gradients(X).toarray()):
        with pytest.raises(gh.errors.NonFiniteError, match="7"):
            call()


def test_skipping_every_row_leaves_no_width(backend):
    cov = gh.StreamingCovariance(on_nonfinite="skip").partial_fit(np.full((5, 3), np.nan))
    assert (cov.n_samples_seen_, cov.n_samples_skipped_) == (0, 5)
    assert cov.partial_fit(np.ones((4, 2))).covariance_.shape == (2, 2)


def test_absurd_numbers_of_threads():
    for n in (0, 1025, 2**31):
        with pytest.raises(gh.errors.InputError, match="at most 1024"):
            gh.set_num_threads(n)
