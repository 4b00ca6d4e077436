"""Tensors of PyTorch: read without a copy, and answered in kind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from states import assert_same_state

import gradhess as gh
from gradhess import _arrays

torch = pytest.importorskip("torch")


def data():
    return np.random.default_rng(1).normal(size=(300, 3))


def test_tensors_come_in_without_a_copy_and_results_are_tensors(backend):
    X = torch.from_numpy(data())
    assert np.shares_memory(_arrays.as_numpy(X, "X"), X.numpy())
    g = gh.glm_gradients(X, X[:, 0], torch.zeros(3, dtype=torch.float64), intercept=torch.tensor(0.0))
    plain = gh.glm_gradients(X.numpy(), X[:, 0].numpy(), np.zeros(3), intercept=0.0)
    for name in ("sum", "mean", "gram", "covariance", "diagonal", "norms", "hessian", "toarray"):
        result = getattr(g, name)()
        assert isinstance(result, torch.Tensor), name
        np.testing.assert_array_equal(result.numpy(), getattr(plain, name)())
    assert isinstance(g.loss(), float)
    assert isinstance(g.matvec(torch.ones(4)), torch.Tensor)
    assert g.rmatvec(torch.ones(300, 2)).shape == (4, 2)
    assert isinstance(gh.weighted_gram(X, torch.ones(300)), torch.Tensor)
    assert isinstance(g.as_linear_operator() @ np.ones(4), np.ndarray)
    out = torch.eye(3, dtype=torch.float64)
    assert gh.weighted_gram(X, out=out) is out
    np.testing.assert_array_equal(out.numpy(), np.eye(3) + gh.weighted_gram(X.numpy()))

    cov = gh.StreamingCovariance(ddof=1).partial_fit(X, torch.ones(300))
    np.testing.assert_allclose(cov.covariance_.numpy(), torch.cov(X.T).numpy(), rtol=1e-12)
    for result in (cov.location_, cov.second_moment_, cov.precision_, *cov.eigh(), cov.mahalanobis(X)):
        assert isinstance(result, torch.Tensor)
    assert isinstance(cov.copy().covariance_, torch.Tensor)
    assert isinstance(cov.partial_fit(X.numpy()).covariance_, np.ndarray)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_types_of_tensors(dtype):
    X = torch.ones((5, 2)).to(dtype)
    np.testing.assert_array_equal(gh.weighted_gram(X).numpy(), np.full((2, 2), 5))


def test_a_transposed_tensor():
    X = torch.from_numpy(data()).T.contiguous().T
    np.testing.assert_array_equal(gh.weighted_gram(X).numpy(), gh.weighted_gram(np.asfortranarray(data())))


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (torch.ones((2, 2), requires_grad=True), gh.errors.InputTypeError, r"X\.detach\(\)"),
        (torch.ones((2, 2), dtype=torch.float8_e5m2), gh.errors.InputTypeError, "float8.*float32"),
        (torch.ones((2, 2)).to_sparse(), gh.errors.InputTypeError, r"X\.to_dense\(\)"),
        (torch.ones((2, 2), device="meta"), gh.errors.BackendError, "of the CPU only"),
        (torch.ones((2, 2), dtype=torch.complex64), gh.errors.InputTypeError, "complex64"),
        (torch.ones((2, 2), dtype=torch.complex64).conj(), gh.errors.InputTypeError, "cannot be read"),
    ],
)
def test_tensors_that_cannot_be_read(tensor, error, message):
    with pytest.raises(error, match=message):
        gh.weighted_gram(tensor)


def test_a_torch_state_is_read_where_torch_was_never_imported(tmp_path):
    cov = gh.StreamingCovariance().partial_fit(torch.from_numpy(data()))
    path = tmp_path / "state.safetensors"
    cov.save(path)
    loaded = gh.StreamingCovariance.load(path)
    assert_same_state(loaded, cov)
    assert isinstance(loaded.covariance_, np.ndarray)
    (tmp_path / "state.pickle").write_bytes(__import__("pickle").dumps(cov))
    code = (
        "import pickle, sys; c = pickle.load(open(sys.argv[1], 'rb'));"
        "assert type(c.covariance_).__name__ == 'ndarray'; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "state.pickle")], check=True)
