"""Streams of rows of every kind over the compiled engine: the same bits for any chunks, whether rows wait or not."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from emulated_cuda import why_not
from gpu_streams import KINDS_OF_CALLS, OutOfMemory, bits, calls_that_fill_blocks, shorten_blocks
from test_cuda_backend import gpu as plain_gpu
from test_cuda_backend import module
from test_cuda_public import gpu

import gradhess as gh
from gradhess._backends.cupy import layout

__all__ = ["gpu", "module", "plain_gpu"]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

N = 300
CUTS = ([], [1, 63, 140], [129])


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    shorten_blocks(monkeypatch, 128)


def same_bits(rows_of, weights=None, **options):
    """``rows_of(i)`` gives the rows with these numbers."""
    found = []
    for cuts in CUTS:
        cov = gh.StreamingCovariance(ddof=1, **options)
        for i in np.split(np.arange(N), cuts):
            cov.partial_fit(rows_of(i), None if weights is None else weights[i])
        found.append(bits(cov))
    assert len(set(map(str, found))) == 1


def features(d, dtype=np.float64):
    rng = np.random.default_rng(d)
    return (rng.normal(size=(N, d)) / np.sqrt(d)).astype(dtype)


def cauchy(eta, y):
    return np.log1p((eta - y) ** 2)


def cauchy_slope(eta, y):
    error = eta - y
    return 2 * error / (1 + error * error)


def slope_with_a_loop(eta, y):
    for _ in range(1):  # not translated
        error = eta - y
    return error


LOSSES = {
    "squared": "squared",
    "logistic": "logistic",
    "huber": gh.losses.huber(0.7),
    "custom": gh.losses.custom(cauchy_slope, value=cauchy),
    "vectorised": gh.losses.custom(slope_with_a_loop),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("d", "dtype"), [(20, "float32"), (127, "float16"), (140, "float64")])
def test_gradients(gpu, d, dtype, loss):
    """With the unit column 127 is the widest that is narrow; its rows wait as 128 columns of another type."""
    X, rng = features(d, dtype), np.random.default_rng(1)
    y = (X[:, 0] > 0) * 1.0
    coef, c = gpu.array(rng.normal(size=d)), rng.uniform(0.5, 2, N)

    def rows(i):
        given = gpu.array(X[i]), gpu.array(y[i]), coef, LOSSES[loss]
        return gh.glm_gradients(*given, intercept=0.25, sample_weight=gpu.array(c[i]))

    same_bits(rows, gpu.array(rng.uniform(0.5, 2, N)))


@pytest.mark.parametrize(("centred", "weighted"), [(True, True), (False, False)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
@pytest.mark.parametrize("d", [20, 140])
def test_plain_rows(gpu, d, dtype, weighted, centred):
    X = (100 * features(d)).astype(dtype)
    weights = gpu.array(np.random.default_rng(2).uniform(0.5, 2, N)) if weighted else None
    same_bits(lambda i: gpu.array(X[i]), weights, assume_centered=not centred)


@pytest.mark.parametrize(("d", "k", "dtype"), [(5, 3, "float64"), (40, 4, "float16")])
def test_softmax(gpu, d, k, dtype):
    X, y = features(d, dtype), np.arange(N) % k
    coef = gpu.array(np.random.default_rng(1).normal(size=(k, d)))
    same_bits(lambda i: gh.glm_gradients(gpu.array(X[i]), gpu.array(y[i] * 1.0), coef, "softmax"))


def test_layers(gpu):
    A, D = features(20, np.float32), features(7, np.float32)
    same_bits(lambda i: gh.layer_gradients(gpu.array(A[i]), gpu.array(D[i])))


@pytest.mark.parametrize("dtype", ["float16", "int32"])
@pytest.mark.parametrize("d", [140, 600])
def test_diagonals(gpu, d, dtype):
    X = (100 * features(d)).astype(dtype)
    weights = gpu.array(np.random.default_rng(2).uniform(0.5, 2, N))
    same_bits(lambda i: gpu.array(X[i]), weights, structure="diagonal")


@pytest.mark.parametrize(("d", "dtype"), [(20, "float64"), (140, "float64"), (140, "float32")])
def test_kernels_go_to_the_stream_of_the_caller(gpu, module, monkeypatch, d, dtype):
    """The emulator has no streams, so the address is looked at; rehearsals get it, too."""
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 10)
    rng = np.random.default_rng(0)
    y, coef = gpu.array(rng.normal(size=N)), gpu.array(rng.normal(size=d))
    given = gh.glm_gradients(gpu.array(features(d, dtype)), y, coef, "squared")
    seen = []

    class Watching:
        def __getattr__(self, name):
            found = getattr(module, name)

            def call(*args, **options):
                seen.append((name, options["stream"]))
                return found(*args, **options)

            return found if name.endswith("_workspace") else call

    monkeypatch.setitem(sys.modules, "gradhess._cuda", Watching())
    stream = gpu.stream()
    with stream:
        cov = gh.StreamingCovariance().partial_fit(given)
        given.gram()
        given.slopes()
    assert {"row_slopes", "narrow_update" if d < 128 else "row_pass"} <= {name for name, _ in seen}
    assert {address for _, address in seen} == {stream.ptr}
    stream.synchronize()
    del cov


@pytest.mark.parametrize("kind", KINDS_OF_CALLS)
def test_memory_that_runs_out_anywhere(gpu, monkeypatch, kind):
    """Where no copy of the accumulators is kept; where one is, tests/test_gpu_stream.py shows it for both engines."""
    if not gpu.is_standin:
        pytest.skip("memory of a device does not run out on demand")
    d = 135
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 100)
    options, first, arguments = calls_that_fill_blocks(gpu, d, 330)[kind]

    def make():
        return gh.StreamingCovariance(**options).partial_fit(first)

    memory = OutOfMemory(gpu, monkeypatch)
    failed, cov = memory.fails_at_each(make, lambda one: one.partial_fit(*arguments))
    assert failed > 4 or kind == "few rows"
    assert bits(cov) == bits(make().partial_fit(*arguments))
