"""The CUDA module as far as it can be checked without a device, and the checks that run where one is.

Where the module was not compiled, the reason must say so; where nvcc is, the kernels must compile without spills.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradhess._backends import cuda, registry
from gradhess.errors import BackendError, InputError, InputTypeError

CUDA_SOURCES = Path(__file__).parents[1] / "csrc" / "cuda"
SLAB_ROWS = 256

compiled = pytest.mark.skipif(
    importlib.util.find_spec("gradhess._cuda") is None, reason="the CUDA module was not compiled"
)


def device_count():
    if importlib.util.find_spec("gradhess._cuda") is None:
        return 0
    from gradhess import _cuda

    return _cuda.device_count()[0]


needs_gpu = pytest.mark.skipif(device_count() == 0, reason="no CUDA device")


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
    with pytest.raises(_cuda.CudaError, match=f"weighted_gram: CUDA error {code}"):
        _cuda.weighted_gram(
            data=0, dtype="float64", samples=1, features=1, row_stride=1, weights=0, gram=0, stream=0
        )
    assert issubclass(_cuda.CudaError, BackendError)


@compiled
@pytest.mark.parametrize(
    "wrong", [{"dtype": "float16"}, {"samples": -1}, {"features": 0}, {"features": 3, "row_stride": 2}]
)
def test_the_module_refuses_what_its_kernels_cannot_read(wrong):
    from gradhess import _cuda

    right = {"dtype": "float64", "samples": 1, "features": 1, "row_stride": 1}
    with pytest.raises(ValueError, match="must be"):
        _cuda.weighted_gram(data=0, weights=0, gram=0, stream=0, **{**right, **wrong})


@compiled
def test_tiles_are_numbered_without_gaps():
    from gradhess import _cuda

    expected = [(row, column) for row in range(200) for column in range(row + 1)]
    assert [_cuda.tile_position(number) for number in range(len(expected))] == expected


@compiled
@pytest.mark.parametrize("row", [10**5, 3 * 10**6, 10**8])
def test_tile_numbers_survive_the_rounding_of_the_square_root(row):
    from gradhess import _cuda

    first = row * (row + 1) // 2
    assert _cuda.tile_position(first - 1) == (row - 1, row - 1)
    assert _cuda.tile_position(first) == (row, 0)
    assert _cuda.tile_position(first + row) == (row, row)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_kernels_compile_without_warnings_and_spills(architecture, tmp_path):
    # fmt: off
    command = [
        "nvcc", "-std=c++17", "-O3", f"-arch={architecture}", "-cubin", "-Werror", "all-warnings", "-Xptxas", "-v",
        "-o", str(tmp_path / "kernel.cubin"), str(CUDA_SOURCES / "weighted_gram.cu"),
    ]
    # fmt: on
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert spills
    assert set(spills) == {("0", "0")}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (63, 17), (257, 64), (1000, 65), (16385, 129)])
def test_weighted_gram_on_the_device(n, d, weighted, dtype):
    cupy = pytest.importorskip("cupy")
    rng = np.random.default_rng(n + d)
    X = rng.standard_normal((n, d)).astype(dtype)
    weights = rng.standard_normal(n) if weighted else None
    on_device = None if weights is None else cupy.asarray(weights)

    result = cuda.weighted_gram(cupy.asarray(X), on_device)
    again = cuda.weighted_gram(cupy.asarray(X), on_device)
    assert (result == again).all()

    wide = X.astype(np.float64)
    factors = np.ones(n) if weights is None else weights
    expected = wide.T @ (factors[:, None] * wide)
    # A slab of 256 rows in the type of X, one rounding of s x, and slabs in float64.
    u = np.finfo(dtype).eps / 2
    magnitude = np.abs(wide).T @ (np.abs(factors)[:, None] * np.abs(wide))
    bound = ((min(n, SLAB_ROWS) + 4) * u + n * np.finfo(np.float64).eps) * magnitude
    got = cupy.asnumpy(result)
    assert (np.abs(got - expected) <= bound).all()
    assert (got == got.T).all()


@pytest.mark.gpu
@needs_gpu
def test_out_accumulates_and_strides_are_honoured_on_the_device():
    cupy = pytest.importorskip("cupy")
    X = cupy.asarray(np.random.default_rng(0).standard_normal((300, 40)))
    out = cuda.weighted_gram(X[:, :20])
    assert cuda.weighted_gram(X[:, :20], out=out) is out
    twice = 2 * cuda.weighted_gram(cupy.ascontiguousarray(X[:, :20]))
    assert (out == twice).all()
    assert (cuda.weighted_gram(cupy.asfortranarray(X)) == cuda.weighted_gram(X)).all()


@pytest.mark.gpu
@needs_gpu
def test_bad_arguments_on_the_device():
    cupy = pytest.importorskip("cupy")
    X = cupy.zeros((3, 2))
    with pytest.raises(InputError, match=r"weights has shape \(2,\)"):
        cuda.weighted_gram(X, cupy.zeros(2))
    with pytest.raises(InputTypeError, match="int64"):
        cuda.weighted_gram(X.astype("int64"))
    with pytest.raises(InputError, match="out must be"):
        cuda.weighted_gram(X, out=cupy.zeros((3, 3)))
