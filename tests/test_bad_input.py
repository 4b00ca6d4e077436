"""Every wrong argument: the type of the error, and a message that names the argument and says what to do."""

from __future__ import annotations

import pickle

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
