"""Gradients of arrays on a GPU: every method against those of the same arrays on the host."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gradhess as gh
from gradhess.errors import BackendError, InputError, InputTypeError, NonFiniteError, ResultTooLargeError

N, D = 700, 6
LOSSES = ["squared", "logistic", "poisson", "huber", "softmax", "custom"]


def shifted(eta, y):
    scale = 2.0
    if eta > y:
        return math.tanh((eta - y) / scale)
    return -math.tanh((y - eta) / scale)


def shifted_value(eta, y):
    return 2.0 * math.log(math.cosh((eta - y) / 2))


def shifted_second(eta, y):
    return 0.5 * (1.0 - math.tanh((eta - y) / 2) ** 2)


def problem(loss, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D)).astype(dtype)
    k = 3 if loss == "softmax" else 1
    y = {"logistic": rng.integers(0, 2, N), "poisson": rng.poisson(1.0, N), "softmax": rng.integers(0, 3, N)}
    coef = rng.normal(size=(k, D)) / 3
    b = rng.normal(size=k)
    of = gh.losses.custom(shifted, shifted_value, shifted_second) if loss == "custom" else loss
    labels = np.asarray(y.get(loss, rng.normal(size=N)), np.float64)
    return X, labels, (coef if loss == "softmax" else coef[0]), of, (b if loss == "softmax" else float(b[0]))


def pair(gpu, loss, dtype=np.float64):
    """The same gradients on the host and on the GPU."""
    X, y, coef, of, b = problem(loss, dtype)
    c = np.random.default_rng(9).uniform(0.5, 2, N)
    there = b if np.ndim(b) == 0 else gpu.array(b)
    with gpu.no_waiting:
        on_device = gh.glm_gradients(
            gpu.array(X), gpu.array(y), gpu.array(coef), of, intercept=there, sample_weight=gpu.array(c)
        )
    return gh.glm_gradients(X, y, coef, of, intercept=b, sample_weight=c), on_device


def close(got, expected, size, u=2.0**-53):
    """``size`` bounds the sum of magnitudes; chains of at most 2048 products, and a few roundings more."""
    got = got.get() if hasattr(got, "get") else got
    assert np.shape(got) == np.shape(expected)
    assert (np.abs(got - expected) <= 2 * (2048 + 64) * u * size).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_method_of_a_generalised_linear_model(gpu, loss, dtype):
    host, device = pair(gpu, loss, dtype)
    u = float(np.finfo(dtype).eps) / 2
    G = host.toarray().astype(np.float64)
    A = np.abs(G) + np.abs(G).max() * 8 * 2.0**-52
    rng = np.random.default_rng(1)
    v, U = rng.normal(size=host.n_parameters), rng.normal(size=(N, 2))
    with gpu.no_waiting:
        results = {
            "sum": device.sum(),
            "mean": device.mean(),
            "gram": device.gram(),
            "covariance": device.covariance(1),
            "diagonal": device.diagonal(),
            "norms": device.norms(),
            "matvec": device.matvec(gpu.array(v)),
            "rmatvec": device.rmatvec(gpu.array(U)),
            "gram_matvec": device.gram_matvec(gpu.array(v)),
            "cogram": device.cogram(),
            "toarray": device.toarray(),
            "slopes": device.slopes(),
            "hessian": device.hessian(),
        }
    assert all(type(result) is gpu.cupy.ndarray for result in results.values())
    close(results["sum"], host.sum(), A.sum(axis=0), u)
    close(results["mean"], host.mean(), A.mean(axis=0), u)
    close(results["gram"], host.gram(), A.T @ A, u)
    close(results["covariance"], host.covariance(1), (A.T @ A) / (N - 1) * 4, u)
    close(results["diagonal"], host.diagonal(), (A * A).sum(axis=0), u)
    close(results["norms"], host.norms(), np.linalg.norm(A, axis=1), u)
    close(results["matvec"], host.matvec(v), A @ abs(v), u)
    close(results["rmatvec"], host.rmatvec(U), A.T @ abs(U), u)
    close(results["gram_matvec"], host.gram_matvec(v), A.T @ (A @ abs(v)), u)
    close(results["cogram"], host.cogram(), A @ A.T, u)
    close(results["toarray"], host.toarray(), A, u)
    slopes = host.slopes()
    close(results["slopes"], slopes, 1 + np.abs(slopes))
    X1 = np.hstack([np.abs(problem(loss, dtype)[0]), np.ones((N, 1))])
    curved = np.tile(2 * X1.T @ X1, (3, 3)) if loss == "softmax" else X1.T @ X1 * (1 + host.hessian().max())
    close(results["hessian"], host.hessian(), curved, u)
    assert abs(device.loss() - host.loss()) <= 1e4 * 2.0**-53 * max(abs(host.loss()), N)
    for matrix in (results["gram"], results["covariance"], results["cogram"], results["hessian"]):
        assert (matrix.get() == matrix.get().T).all()


@pytest.mark.parametrize("kind", ["gaussian", "rademacher", "sjlt"])
def test_projections_use_the_same_random_matrix(gpu, kind):
    host, device = pair(gpu, "logistic")
    sketch = getattr(gh.sketches, kind)(8, 3)
    R = np.abs(sketch.toarray(host.n_parameters))
    close(device.project(sketch), host.project(sketch), np.abs(host.toarray()) @ R)


@pytest.mark.parametrize(("steps", "masked"), [(1, False), (4, False), (4, True)])
def test_layers(gpu, steps, masked):
    rng = np.random.default_rng(steps)
    shape = (60,) if steps == 1 else (60, steps)
    A, E = rng.normal(size=(*shape, 5)), rng.normal(size=(*shape, 3))
    mask = rng.uniform(size=shape) < 0.7 if masked else None
    if mask is not None:
        A[~mask] = np.nan  # what such steps hold is never looked at
    host = gh.layer_gradients(A, E, bias=True, mask=mask)
    moved = None if mask is None else gpu.array(mask)
    device = gh.layer_gradients(gpu.array(A), gpu.array(E), bias=True, mask=moved)
    assert device.shape == host.shape
    G = np.abs(host.toarray())
    close(device.toarray(), host.toarray(), steps * G.max())
    close(device.gram(), host.gram(), steps * (G.T @ G + G.max()))
    close(device.norms(), host.norms(), steps * np.linalg.norm(G, axis=1))
    close(device.diagonal(), host.diagonal(), steps * ((G * G).sum(axis=0) + 1))


def test_groups(gpu):
    host, device = pair(gpu, "squared")
    groups = np.random.default_rng(1).integers(0, N, (40, 12))
    xi = np.random.default_rng(2).normal(size=(40, 12))
    mine = gh.grouped(device, groups, shifts=-xi, scale=1 / 12)
    theirs = gh.grouped(host, groups, shifts=-xi, scale=1 / 12)
    G = np.abs(theirs.toarray()) + 1
    close(mine.toarray(), theirs.toarray(), 12 * G)
    close(mine.covariance(1), theirs.covariance(1), 12 * G.T @ G)
    close(gh.grouped(device, group_size=7).sum(), host.sum(), np.abs(host.toarray()).sum(axis=0))
    with pytest.raises(InputError, match="groups are checked on the host"):
        gh.grouped(device, gpu.array(groups))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_weighted_gram(gpu, dtype):
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(900, 33)).astype(dtype), rng.normal(size=900)
    out = gpu.cupy.ones((33, 33))
    there, weights = gpu.array(X), gpu.array(w)
    with gpu.silent() if gpu_is_warm(gpu) else gpu.no_waiting:
        got = gh.weighted_gram(there, weights)
        assert gh.weighted_gram(there, weights, out=out) is out
    wide = np.abs(X.astype(np.float64))
    u = float(np.finfo(np.float32 if dtype != np.float64 else dtype).eps) / 2
    close(got, gh.weighted_gram(X, w), wide.T @ (np.abs(w)[:, None] * wide), u)
    assert (out.get() == got.get() + 1).all()


def gpu_is_warm(gpu):
    """The self-test of the first call waits; make it here."""
    gh.weighted_gram(gpu.cupy.ones((2, 2)))
    return True


def test_arrays_on_other_devices_are_refused(gpu):
    X = gpu.cupy.ones((10, 3))
    for call, name in (
        (lambda: gh.weighted_gram(X, np.ones(10)), "weights is on the host"),
        (lambda: gh.glm_gradients(X, gpu.cupy.ones(10), np.ones(3)), "coef is on the host"),
        (lambda: gh.glm_gradients(X, [1.0] * 10, gpu.cupy.ones(3)), "y is on the host"),
        (lambda: gh.as_gradients(X).matvec(np.ones(3)), "v is on the host"),
    ):
        with pytest.raises(InputError, match=name):
            call()
    if gpu.cupy.cuda.runtime.getDeviceCount() > 1:
        with gpu.cupy.cuda.Device(1):
            elsewhere = gpu.cupy.ones(10)
        with pytest.raises(InputError, match="weights is on cuda:1, and X on cuda:0"):
            gh.weighted_gram(X, elsewhere)
        with gpu.cupy.cuda.Device(1):
            Y = gpu.cupy.ones((4, 2))
        assert gh.weighted_gram(Y).device.id == 1  # where the array is, not where CuPy is


def test_wrong_arguments(gpu):
    X = gpu.cupy.ones((10, 3))
    one = gpu.cupy.ones
    for error, call, text in (
        (InputError, lambda: gh.as_gradients(one(3)), r"G has shape \(3,\)"),
        (InputError, lambda: gh.glm_gradients(X, one(9), one(3)), r"y has shape \(9,\)"),
        (InputError, lambda: gh.glm_gradients(X, one(10), one(4)), r"coef has shape \(4,\)"),
        (InputError, lambda: gh.weighted_gram(X, out=one((2, 2))), "out is float64 of shape"),
        (InputTypeError, lambda: gh.as_gradients(X).gram(dtype="float32"), "pass float32 data"),
        (InputTypeError, lambda: gh.as_gradients(X.astype("complex128")), "complex128"),
        (InputError, lambda: gh.as_gradients(X).loss(), "no loss"),
        (InputError, lambda: gh.use_backend("cupy", accuracy="best"), "accuracy is 'best'"),
        (InputError, lambda: gh.use_backend("cpu", accuracy="tf32"), "accuracy is for the backends of GPUs"),
    ):
        with pytest.raises(error, match=text):
            call()


def test_a_row_that_is_not_finite_is_nan_and_raises_when_somebody_asks(gpu):
    X = np.ones((100, 3))
    X[41, 1] = np.inf
    there, out = gpu.array(X), gpu.cupy.full((3, 3), 5.0)
    gpu_is_warm(gpu)
    gh.synchronize()
    with gpu.silent():
        grads = gh.as_gradients(there)
        results = [grads.gram(), grads.sum(), grads.diagonal(), gh.weighted_gram(there)]
        gh.weighted_gram(there, out=out)
    for result in results:
        assert np.isnan(result.get()).all()
    assert (out.get() == 5.0).all()
    for _ in range(5):
        with pytest.raises(NonFiniteError, match="row 41 of"):
            gh.synchronize()
    gh.synchronize()


@pytest.mark.parametrize(
    ("loss", "label"),
    [("logistic", 0.5), ("poisson", -1.0), ("softmax", 3.0), ("softmax", -1.0), ("softmax", 0.5)],
)
def test_labels_outside_of_the_domain_are_rows_that_are_not_finite(gpu, loss, label):
    X, y, coef, of, _ = problem(loss)
    y[17] = label
    grads = gh.glm_gradients(gpu.array(X), gpu.array(y), gpu.array(coef), of)
    with pytest.raises(NonFiniteError) as raised:
        grads.loss()
    assert raised.value.row == 17


def test_custom_losses_that_do_not_translate(gpu):
    X, y, coef, _, _ = problem("custom")

    def by_numpy(eta, y):
        total = 0.0
        for power in (1, 3):  # no loops in C
            total = total + np.tanh(eta - y) ** power
        return total

    def neither(eta, y):
        return float(eta) if [eta] else 0.0

    grads = gh.glm_gradients(gpu.array(X), gpu.array(y), gpu.array(coef), gh.losses.custom(by_numpy))
    eta = X @ coef
    np.testing.assert_allclose(grads.slopes().get(), by_numpy(eta, y), rtol=1e-12)
    wrong = gh.glm_gradients(gpu.array(X), gpu.array(y), gpu.array(coef), gh.losses.custom(neither))
    with pytest.raises(InputError, match=r"cannot run on a GPU: it does not translate to C \(it"):
        wrong.sum()
    as_lambda = gh.losses.custom(lambda eta, y: math.tanh(eta - y) if eta > 0 else 2 * (eta - y))
    got = gh.glm_gradients(gpu.array(X), gpu.array(y), gpu.array(coef), as_lambda).slopes().get()
    np.testing.assert_allclose(got, np.where(eta > 0, np.tanh(eta - y), 2 * (eta - y)), rtol=1e-12)


def test_memory_is_asked_for_before_it_is_taken(gpu):
    d = 2_000_000
    rows = gpu.cupy.zeros((1, d), np.float32)
    with pytest.raises(ResultTooLargeError, match=r"needs 3\d,\d{3},\d{3},\d{3},\d{3} bytes .* on the GPU"):
        gh.weighted_gram(rows)
    with gpu.memory_limit(1 << 16), pytest.raises(MemoryError) as raised:
        gh.as_gradients(gpu_array_of(gpu)).gram()
    assert isinstance(raised.value, BackendError)
    assert "bytes" in str(raised.value)


def gpu_array_of(gpu):
    if not gpu.is_standin:
        pytest.skip("only the stand-in runs out of memory on demand")
    with gpu.memory_limit(None):
        array = gpu.cupy.ones((100, 200))
    from cupy import _memory

    _memory.Allocation.limit = 1 << 16
    return array


def test_accuracy_sets_the_mode_of_cublas_and_puts_it_back(gpu):
    if not gpu.is_standin:
        pytest.skip("what cuBLAS was told is only known of the stand-in")
    cuda = gpu.cupy.cuda
    X = gpu.cupy.ones((50, 4), np.float32)
    gpu_is_warm(gpu)
    cuda.cublas.setMathMode(77, 3)  # somebody has turned TF32 on
    try:
        for accuracy, mode in (("float32", 0), ("fp16x3", 0), ("tf32", 3)):
            cuda.reset()
            with gh.use_backend("cupy", accuracy=accuracy):
                gh.weighted_gram(X)
            assert {entry[-1] for entry in cuda.log if entry[0].startswith("gemm")} == {mode}
            assert cuda.cublas.getMathMode(77) == 3
    finally:
        cuda.cublas.setMathMode(77, 0)
