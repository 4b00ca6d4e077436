"""Launches that a device refuses, on the CuPy backend: they are found before the first accumulator is touched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from gpu_streams import KINDS_OF_CALLS, IllegalLaunches, bits, calls_that_fill_blocks, data, shorten_blocks

import gradhess as gh
from gradhess._backends.cupy import layout
from gradhess._streaming import host_feed
from gradhess.errors import DeviceError, DeviceMemoryError

D = 140


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch, gpu):
    if not gpu.is_standin:
        pytest.skip("a device does not refuse launches on demand")
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", D - 10)
    shorten_blocks(monkeypatch, 256)


@pytest.mark.parametrize("kind", KINDS_OF_CALLS)
@pytest.mark.parametrize("copied", [True, False])
def test_each_launch_of_a_call(gpu, monkeypatch, copied, kind):
    if copied:
        monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", D)
    options, first, arguments = calls_that_fill_blocks(gpu, D)[kind]
    found = IllegalLaunches(gpu).fails_at_each(
        lambda: gh.StreamingCovariance(**options).partial_fit(first),
        lambda one: one.partial_fit(*arguments),
        grids=not copied,
    )
    kernels = {one[1][0] for one in found if one[0] == "standin"}
    assert kernels >= (
        {"scale_rows"} if kind == "few rows" else {"scale_rows", "fold_block", "correct", "add_to"}
    )


@pytest.mark.parametrize("copied", [True, False])
def test_each_launch_of_a_merge_and_of_rows_of_the_host(gpu, monkeypatch, copied):
    if copied:
        monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", D)
    monkeypatch.setattr(host_feed, "PIECE_BYTES", 170 * 8 * (D + 1))
    X = data(900, D)
    other = gh.StreamingCovariance(device="cuda").partial_fit(X[:256])  # so that only the merge launches

    def make(rows=100):
        return gh.StreamingCovariance(device="cuda").partial_fit(X[:rows])

    illegal = IllegalLaunches(gpu)
    for start, call in (
        (make, lambda one: one.merge(other)),
        (lambda: make(256), lambda one: one.merge(other)),  # no row waits
        (make, lambda one: one.partial_fit(X[100:])),
    ):
        found = illegal.fails_at_each(start, call, grids=not copied)
        assert {one[1][0] for one in found if one[0] == "standin"} >= {"fold_block", "correct", "add_to"}


def test_each_launch_of_a_batch(gpu):
    """Nothing but ``out`` is the caller's, and it is written by one kernel at the end."""
    X = data(700, D)
    rng = np.random.default_rng(0)
    arrays = [
        gpu.array(a) for a in (X, rng.normal(size=700), rng.normal(size=D) / D, rng.uniform(0.5, 2, 700))
    ]
    given = gh.glm_gradients(*arrays[:3], "squared", sample_weight=arrays[3])
    out = gpu.array(np.eye(D))
    calls = [given.gram, given.hessian, given.covariance, given.diagonal]
    calls.append(lambda: gh.weighted_gram(arrays[0], arrays[3], out=out))
    illegal = IllegalLaunches(gpu)
    for call in calls:
        refused = illegal.of(call, grids=False)
        assert len(refused) > 4
        out[...] = gpu.array(np.eye(D))
        expected = call().get()
        for one in refused:
            out[...] = gpu.array(np.eye(D))
            with illegal.refused(one), pytest.raises(DeviceError, match=r"\.py:\d+"):
                call()
            assert (out.get() == np.eye(D)).all()
            np.testing.assert_array_equal(call().get(), expected)
    gh.synchronize()


@pytest.mark.parametrize("kind", KINDS_OF_CALLS)
def test_each_operation_of_cupy_itself(gpu, monkeypatch, kind):
    """Its own kernels are compiled on first use for each operation and type: there, too, nothing is added first."""
    from cupy import ndarray

    used, refused = Counter(), [None]

    def watched(name):
        original = getattr(ndarray, name)

        def method(self, *args, **options):
            other = next((value.dtype for value in args if isinstance(value, ndarray)), None)
            asked = next((np.dtype(value) for value in args if isinstance(value, (type, np.dtype))), None)
            ufunc = args[0].__name__ if name == "__array_ufunc__" else None
            operation = name, ufunc, self.dtype, other, asked
            used[operation] += 1
            if refused[0] == operation:
                raise gpu.cupy.cuda.driver.CUDADriverError(209)
            return original(self, *args, **options)

        monkeypatch.setattr(ndarray, name, method)

    for name in ("astype", "__setitem__", "sum", "fill", "__array_ufunc__"):
        watched(name)
    options, first, arguments = calls_that_fill_blocks(gpu, D)[kind]

    def make():
        return gh.StreamingCovariance(**options).partial_fit(first)

    whole = make()
    used.clear()
    whole.partial_fit(*arguments)
    for operation in list(used):
        cov = make()
        before = bits(cov), cov.n_samples_seen_, cov.n_samples_skipped_
        refused[0] = operation
        with pytest.raises(DeviceError, match=r"209.*\.py:\d+"):
            cov.partial_fit(*arguments)
        refused[0] = None
        assert (bits(cov), cov.n_samples_seen_, cov.n_samples_skipped_) == before, operation
        assert bits(cov.partial_fit(*arguments)) == bits(whole), operation


def test_a_handle_that_is_not_made_and_errors_of_before(gpu, monkeypatch):
    X = gpu.array(data(700, D))

    def make():
        return gh.StreamingCovariance().partial_fit(X[:100])

    cov = make()
    before = bits(cov)

    def no_handle():
        raise gpu.cupy.cuda.runtime.CUDARuntimeError(999)

    with monkeypatch.context() as patch:
        patch.setattr(gpu.cupy.cuda.device, "get_cublas_handle", no_handle)
        with pytest.raises(DeviceError, match=r"cudaError 999: .* at gradhess/.*cublas_engine\.py:\d+"):
            cov.partial_fit(X[100:])
    assert bits(cov) == before
    with monkeypatch.context() as patch:
        patch.setattr(gpu.cupy.cuda.runtime, "status", 700)
        with gpu.silent(), pytest.raises(DeviceError, match=r"queued earlier failed .*error 700.*\.py:\d+"):
            cov.partial_fit(X[100:])
    assert bits(cov) == before
    with monkeypatch.context() as patch:
        patch.setattr(gpu.cupy.cuda.runtime, "status", 600)  # work is queued
        cov.partial_fit(X[100:])
    assert bits(cov) == bits(make().partial_fit(X[100:]))


def test_memory_for_the_code_of_a_kernel_is_memory(gpu, monkeypatch):
    """A kernel is loaded where it is first asked for, and that may be what finds the device full."""
    cov = gh.StreamingCovariance().partial_fit(gpu.array(data(100, D)))
    before = bits(cov)

    def full(attribute, device):
        raise gpu.cupy.cuda.driver.CUDADriverError(2)

    with monkeypatch.context() as patch:
        patch.setattr(gpu.cupy.cuda.runtime, "deviceGetAttribute", full)
        with pytest.raises(DeviceMemoryError, match=r"out of memory in \w+: .*; at gradhess/\S+\.py:\d+"):
            cov.partial_fit(gpu.array(data(700, D)))
    assert bits(cov) == before
