"""Arrays of other libraries on a GPU: in without a copy, results as the type that came in, on the caller's stream."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
import pytest

import gradhess as gh
from gradhess import _device_arrays as arrays
from gradhess._backends import registry
from gradhess.errors import InputError, InputTypeError


def data():
    return np.random.default_rng(0).normal(size=(200, 4))


class OnDlpack:
    """Something on a GPU that speaks DLPack and nothing else."""

    def __init__(self, array):
        self.array, self.streams = array, []

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **options):
        self.streams.append(stream)
        return self.array.__dlpack__(stream=stream, **options)


class OnInterface:
    """Something on a GPU that has ``__cuda_array_interface__`` and nothing else."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def test_arrays_that_speak_dlpack_or_the_interface(gpu):
    X = gpu.array(data())
    expected = gh.weighted_gram(X).get()
    other = OnDlpack(X)
    stream = gpu.stream()
    with stream:
        assert (gh.weighted_gram(other).get() == expected).all()
    assert other.streams == [stream.ptr]  # its library can wait for ours
    if not gpu.is_standin:
        assert (gh.weighted_gram(OnInterface(X)).get() == expected).all()


@pytest.fixture
def torch(gpu, monkeypatch):
    """PyTorch with CUDA on a GPU; on the stand-in as much of it as is asked for."""
    if not gpu.is_standin:
        found = pytest.importorskip("torch")
        if not found.cuda.is_available():
            pytest.skip("PyTorch has no CUDA device")
        return found

    class Tensor:
        is_cuda, requires_grad, layout = True, False, "torch.strided"

        def __init__(self, array, dtype="float64"):
            self.array, self.dtype = array, dtype
            self.device = types.SimpleNamespace(index=array.device.id, type="cuda")

        def view(self, dtype):
            return Tensor(self.array.view(np.int16), dtype)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def cpu(self):
            return types.SimpleNamespace(numpy=self.array.get)

    module = types.ModuleType("torch")
    module.Tensor, module.bfloat16, module.int16 = Tensor, "bfloat16", "int16"
    module.from_dlpack = Tensor
    module.streams = {0: gpu.stream(), 1: gpu.stream()}
    module.cuda = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=module.streams[device].ptr)
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def test_tensors_of_pytorch(gpu, torch):
    X = data()
    there = torch.from_dlpack(gpu.array(X))
    if gpu.is_standin:
        gpu.cupy.cuda.reset()
    result = gh.as_gradients(there).gram()
    assert isinstance(result, torch.Tensor)
    np.testing.assert_allclose(result.cpu().numpy(), X.T @ X, atol=200 * 2.0**-52 * 40)
    if gpu.is_standin:  # all of it in PyTorch's stream, whatever CuPy's is
        assert {entry[1] for entry in gpu.cupy.cuda.log} == {torch.streams[0].ptr}
    cov = gh.StreamingCovariance().partial_fit(there)
    assert isinstance(cov.covariance_, torch.Tensor)
    assert isinstance(cov.location_, torch.Tensor)
    narrow = X.astype(np.float32).view(np.uint32) >> 16 << 16
    bits = gpu.array((narrow >> 16).astype(np.uint16))
    if gpu.is_standin:
        brain = torch.Tensor(bits, "bfloat16")
    else:
        brain = torch.from_dlpack(bits.view(np.int16)).view(torch.bfloat16)
    wide = narrow.view(np.float32).astype(np.float64)
    got = gh.as_gradients(brain).gram().cpu().numpy()
    assert np.abs(got - wide.T @ wide).max() <= 264 * 2.0**-24 * (wide * wide).sum(axis=0).max()
    with pytest.raises(InputError, match="y is on the host"):
        gh.glm_gradients(there, np.ones(200), there)


def test_a_tensor_that_requires_grad_is_refused(gpu, torch):
    there = torch.from_dlpack(gpu.array(data()))
    there.requires_grad = True
    with pytest.raises(InputTypeError, match=r"pass X\.detach\(\)"):
        gh.weighted_gram(there)


def test_numpy_arrays_are_served_by_the_host_as_ever(gpu, monkeypatch):
    with gh.use_backend("cupy"):
        assert isinstance(gh.weighted_gram(data()), np.ndarray)
        assert registry.active().name != "cupy"
    monkeypatch.setenv("GRADHESS_BACKEND", "cupy")
    assert isinstance(gh.weighted_gram(data()), np.ndarray)
    assert registry.active_device().name == "cupy"
    with pytest.raises(InputError, match="the host"):
        gh.glm_gradients(gpu.array(data()), np.ones(200), np.ones(4))
    assert not arrays.on_device(data())
    assert not arrays.on_device([1.0])


def test_an_array_of_a_gpu_beside_numpy_arrays(gpu):
    with pytest.raises(gh.errors.BackendError, match="y is on a GPU, and what it goes with is on the host"):
        gh.glm_gradients(data(), gpu.cupy.ones(200), np.ones(4))


def test_what_is_found_is_shown(gpu, capsys):
    gh.show_config()
    assert re.search(
        r"^\s*cupy\s+CuPy: \S+; CUDA runtime: \d+\.\d+; .*devices: \S", capsys.readouterr().out, re.MULTILINE
    )


def test_reasons_of_what_is_absent(gpu, monkeypatch, capsys):
    if not gpu.is_standin:
        pytest.skip("there is a device")
    registry._loaded.pop("cupy")
    monkeypatch.setattr(gpu.cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    try:
        with pytest.raises(gh.errors.BackendError, match="finds no CUDA device"):
            gh.use_backend("cupy")
        gh.show_config()
        assert re.search(r"cupy\s+not usable: CuPy 14.2.0 finds no CUDA device", capsys.readouterr().out)
    finally:
        registry._reasons.pop("cupy", None)


def test_a_self_test_that_fails_is_an_error_before_any_result(gpu, monkeypatch):
    from gradhess._backends.cupy import selftest
    from gradhess._backends.cupy.cublas_engine import CublasEngine

    monkeypatch.setattr(selftest, "_passed", set())
    monkeypatch.setattr(CublasEngine, "rank_update", lambda self, panel, scatter: None)
    with pytest.raises(
        gh.errors.DeviceError, match="the self-test of the cupy backend gives a wrong result on cuda:0"
    ):
        gh.weighted_gram(gpu.array(data()))
