"""Launches that a device refuses, on the compiled engine: they are found before the first accumulator is touched."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_cuda import why_not
from gpu_streams import IllegalLaunches, bits, calls_that_fill_blocks, data, shorten_blocks
from test_cuda_backend import gpu as plain_gpu
from test_cuda_backend import module
from test_cuda_custom import with_sources
from test_cuda_public import gpu

import gradhess as gh
from gradhess._backends.cupy import layout
from gradhess.errors import DeviceError, DeviceMemoryError

__all__ = ["gpu", "module", "plain_gpu"]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

D = 135


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch, gpu):
    if not gpu.is_standin:
        pytest.skip("a device does not refuse launches on demand")
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 100)
    shorten_blocks(monkeypatch, 128)


@pytest.mark.parametrize("dtype", ["float64", "float32", "fp16x3"])
@pytest.mark.parametrize(
    "kind", ["dense", "weights", "gradients", pytest.param("custom", marks=with_sources)]
)
def test_each_launch_of_a_call(gpu, module, kind, dtype):
    options, first, arguments = calls_that_fill_blocks(gpu, D, 310)[kind]
    if dtype != "float64":
        if kind in ("gradients", "custom"):
            pytest.skip("the rows of these calls are of float64")
        first, arguments = first.astype(np.float32), (arguments[0].astype(np.float32), *arguments[1:])
    with gh.use_backend("cuda", accuracy="fp16x3" if dtype == "fp16x3" else "float32"):
        found = IllegalLaunches(gpu, module).fails_at_each(
            lambda: gh.StreamingCovariance(**options).partial_fit(first),
            lambda one: one.partial_fit(*arguments),
        )
    assert sum(one[0] == "module" for one in found) >= (3 if kind != "custom" else 2)
    assert any(one[1][0] == "rowpass::Job" for one in found if one[0] == "standin") == (kind == "custom")


def test_each_launch_of_a_merge(gpu, module):
    X = gpu.array(data(160, D).astype(np.float32))
    other = gh.StreamingCovariance().partial_fit(
        X[:128]
    )  # none of its rows waits, so only the merge launches
    found = IllegalLaunches(gpu, module).fails_at_each(
        lambda: gh.StreamingCovariance().partial_fit(X[128:]), lambda one: one.merge(other), grids=False
    )
    assert sum(one[0] == "module" for one in found) >= 3


def test_each_launch_of_narrow_rows(gpu, module, monkeypatch):
    monkeypatch.setattr(layout, "SNAPSHOT_PARAMETERS", 10)
    X = gpu.array(data(300, 20))
    found = IllegalLaunches(gpu, module).fails_at_each(
        lambda: gh.StreamingCovariance().partial_fit(X[:100]), lambda one: one.partial_fit(X[100:])
    )
    assert sum(one[0] == "module" for one in found) >= 2


def test_what_is_validated_is_not_run_and_fails_alike(gpu, module):
    """The same error, from the same line, and no number of the result is written."""
    n, p = 40, 12
    rows, scatter = gpu.cupy.ones((n, p)), gpu.cupy.zeros((p, p))
    call = {
        "rows": rows.data.ptr, "dtype": "float64", "samples": n, "columns": p, "pitch": p, "row_weight": 0,
        "scatter": scatter.data.ptr, "scatter_is_float": False, "workspace": 0, "stream": 0,
    }  # fmt: skip
    module.emulated_launches()
    module.rank_update(**call, validate=True)
    assert module.emulated_launches() == []
    assert (scatter.get() == 0).all()
    module.rank_update(**call)
    assert (np.tril(scatter.get()) == np.tril(np.full((p, p), n))).all()
    ((kernel, threads, shared, _),) = module.emulated_launches()
    module.emulate_refusal(kernel, threads, shared)
    try:
        messages = []
        for validate in (True, False):
            with pytest.raises(
                DeviceError, match=r"rank_update: CUDA error .* at .*rank_update\.cu:\d+"
            ) as raised:
                module.rank_update(**call, validate=validate)
            messages.append(str(raised.value))
        assert messages[0] == messages[1]
    finally:
        module.emulate_refusal()
    assert issubclass(module.CudaMemoryError, DeviceMemoryError)


def test_a_tensor_map_that_does_not_encode(gpu, module):
    X = gpu.array(data(300, D).astype(np.float32))
    cov = gh.StreamingCovariance().partial_fit(X[:100])
    before = bits(cov)
    module.emulate_tensor_maps(False)
    try:
        with pytest.raises(DeviceError, match=r"tensor_update: .* at .*tensor_map\.cu:\d+"):
            cov.partial_fit(X[100:])
    finally:
        module.emulate_tensor_maps(True)
    assert bits(cov) == before
    assert bits(cov.partial_fit(X[100:])) == bits(gh.StreamingCovariance().partial_fit(X))
