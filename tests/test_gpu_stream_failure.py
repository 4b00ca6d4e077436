"""Streams on a GPU when memory runs out or the device fails: nothing is added by half, and no result is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_streams import KINDS_OF_CALLS, OutOfMemory, bits, calls_that_fill_blocks, data, shorten_blocks

import gradhess as gh
from gradhess._backends.cupy import layout
from gradhess._streaming import host_feed
from gradhess.errors import DeviceError, DeviceMemoryError, NonFiniteError, NotFittedError


@pytest.mark.parametrize("kind", KINDS_OF_CALLS)
@pytest.mark.parametrize("copied", [True, False])
def test_memory_that_runs_out_anywhere_leaves_all_as_it_was(gpu, monkeypatch, copied, kind):
    """Every allocation of a call fails in turn, where a copy of the accumulators is kept, and where none is."""
    if not gpu.is_standin:
        pytest.skip("memory of a device does not run out on demand")
    d = 140
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", d if copied else d - 10)
    shorten_blocks(monkeypatch, 256)
    options, first, arguments = calls_that_fill_blocks(gpu, d)[kind]

    def make():
        return gh.StreamingCovariance(**options).partial_fit(first)

    memory = OutOfMemory(gpu, monkeypatch)
    failed, cov = memory.fails_at_each(make, lambda one: one.partial_fit(*arguments))
    assert failed > 4 or kind == "few rows"
    assert bits(cov) == bits(make().partial_fit(*arguments))


@pytest.mark.parametrize("copied", [True, False])
def test_memory_that_runs_out_in_a_merge_or_with_rows_of_the_host(gpu, monkeypatch, copied):
    if not gpu.is_standin:
        pytest.skip("memory of a device does not run out on demand")
    d = 140
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", d if copied else d - 10)
    monkeypatch.setattr(host_feed, "PIECE_BYTES", 170 * 8 * (d + 1))
    shorten_blocks(monkeypatch, 256)
    X = data(900, d)
    memory = OutOfMemory(gpu, monkeypatch)
    other = gh.StreamingCovariance(device="cuda").partial_fit(X[:300])

    def make():
        return gh.StreamingCovariance(device="cuda").partial_fit(X[:100])

    weights = np.random.default_rng(0).uniform(0.5, 2, 800)
    for call in (
        lambda one: one.merge(other),
        lambda one: one.partial_fit(X[100:]),
        lambda one: one.partial_fit(X[100:], weights),
    ):
        failed, cov = memory.fails_at_each(make, call)
        assert failed > 4
        like = make()
        call(like)
        assert bits(cov) == bits(like)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("kernel", ["correct", "fold_block"])
def test_a_device_that_fails_is_never_a_wrong_result(gpu, monkeypatch, kernel, copied):
    """The second block fails after its product was added: with a copy all is as before, without one it is an error."""
    if not gpu.is_standin:
        pytest.skip("a device does not fail on demand")
    from cupy._raw import RawKernel

    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 100 if copied else 10)
    shorten_blocks(monkeypatch, 256)
    X = data(900, 20)
    cov = gh.StreamingCovariance().partial_fit(gpu.array(X[:300]))
    before = bits(cov)
    launch, left = RawKernel.__call__, [1]

    def fail(self, *args, **rest):
        if self.name == kernel:
            left[0] -= 1
            if left[0] < 0:
                raise gpu.cupy.cuda.runtime.CUDARuntimeError(700)
        return launch(self, *args, **rest)

    monkeypatch.setattr(RawKernel, "__call__", fail)
    with pytest.raises(DeviceError, match="cudaError 700"):
        cov.partial_fit(gpu.array(X[300:]))
    monkeypatch.setattr(RawKernel, "__call__", launch)
    if copied:
        assert bits(cov) == before
        return
    for use in (
        bits,
        lambda one: one.covariance_,
        lambda one: one.partial_fit(gpu.array(X)),
        lambda one: one.copy(),
    ):
        with pytest.raises(DeviceError, match="left half of a block"):
            use(cov)
    cov.reset()
    assert bits(cov.partial_fit(gpu.array(X[:300]))) == before


def test_memory_that_runs_out_in_the_first_call(gpu, monkeypatch):
    if not gpu.is_standin:
        pytest.skip("memory of a device does not run out on demand")
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 10)
    shorten_blocks(monkeypatch, 256)
    X = gpu.array(data(600, 20))
    memory = OutOfMemory(gpu, monkeypatch)
    for failing in range(8):
        cov = gh.StreamingCovariance()
        memory.allowed = failing
        with pytest.raises(DeviceMemoryError):
            cov.partial_fit(X)
        memory.allowed = None
        with pytest.raises(NotFittedError):
            _ = cov.covariance_
        cov.partial_fit(X[:300])
        assert bits(cov) == bits(gh.StreamingCovariance().partial_fit(X[:300]))


def test_memory_that_runs_out_is_the_only_error_of_its_call(gpu, monkeypatch):
    """Its rows are not all finite, either: what did not take place left no word of them."""
    if not gpu.is_standin:
        pytest.skip("memory of a device does not run out on demand")
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 10)
    shorten_blocks(monkeypatch, 256)
    X = data(900, 20)
    X[500, 3] = np.nan
    memory = OutOfMemory(gpu, monkeypatch)
    rest = gpu.array(X[100:])
    failed, cov = 0, None
    while cov is None:
        one = gh.StreamingCovariance().partial_fit(gpu.array(X[:100]))
        before = bits(one)
        memory.allowed = failed
        try:
            one.partial_fit(rest)
        except DeviceMemoryError:
            failed += 1
        else:
            cov = one
        memory.allowed = None
        if cov is None:
            assert bits(one) == before
    assert failed > 4
    with pytest.raises(NonFiniteError, match="row 400 of call 2"):
        bits(cov)
    assert bits(cov) == before
