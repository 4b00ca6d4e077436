"""The CUDA module as far as it can be checked without a device.

Where it was not compiled, the reason must say so. `nox -s strict_build` compiles the kernels with warnings as errors
and reads ptxas for spills; test_cuda_rowpass.py and its neighbours run them in an emulator.
"""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest

from gradhess._backends import cuda, registry
from gradhess.errors import BackendError, DeviceError

compiled = pytest.mark.skipif(
    importlib.util.find_spec("gradhess._cuda") is None, reason="the CUDA module was not compiled"
)


def device_count():
    if importlib.util.find_spec("gradhess._cuda") is None:
        return 0
    from gradhess import _cuda

    return _cuda.device_count()[0]


def test_what_is_absent_has_a_reason():
    facts = cuda.describe()
    assert facts["compiled"]
    if device_count() == 0:
        assert facts["reason"]
        with pytest.raises(BackendError, match=re.escape(facts["reason"])):
            cuda.load()


def test_not_compiled_is_a_reason_that_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradhess._cuda", None)
    assert cuda.describe()["compiled"] == "no"
    with pytest.raises(BackendError, match=r"not compiled; install with nvcc"):
        cuda.load()


@pytest.mark.skipif(device_count() > 0, reason="there is a CUDA device")
def test_the_registry_lists_the_reason_and_never_chooses_the_gpu(capsys):
    assert registry.active().name != "cuda"
    registry.show_config()
    assert re.search(r"^\s*cuda\s+not usable: \S", capsys.readouterr().out, re.MULTILINE)


@compiled
@pytest.mark.skipif(device_count() > 0, reason="there is a CUDA device")
def test_without_a_device_the_module_imports_and_gives_an_error_code():
    from gradhess import _cuda

    count, code, reason = _cuda.device_count()
    assert count == 0
    assert code != 0
    assert reason
    if code == cuda.NO_DRIVER:
        assert f"no CUDA driver (error {code}" in cuda.describe()["reason"]
    with pytest.raises(_cuda.CudaError, match=rf"self_test: CUDA error {code} .* at .*runtime\.cu:\d+"):
        _cuda.self_test(result=0, stream=0)
    assert issubclass(_cuda.CudaError, DeviceError)
