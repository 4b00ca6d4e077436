"""Custom losses in the compiled kernels: what is compiled at run time, that X is read once, and by real compilers."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulated_cuda import why_not
from test_cuda_backend import gpu as plain_gpu
from test_cuda_backend import module
from test_cuda_public import gpu

import gradhess as gh
from gradhess._backends.cuda import custom
from gradhess.errors import InputError, NonFiniteError

__all__ = ["gpu", "module", "plain_gpu"]

emulated = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
with_sources = pytest.mark.skipif(
    custom.source_folder() is None, reason="no sources of kernels: installed without the CUDA module"
)


def value(eta, y):
    return np.log1p((eta - y) ** 2)


def slope(eta, y):
    error = eta - y
    return 2 * error / (1 + error * error)


def curvature(eta, y):
    square = (eta - y) ** 2
    return 2 * (1 - square) / ((1 + square) * (1 + square))


CAUCHY = gh.losses.custom(slope, value=value, second=curvature)
# The logistic loss once more, for comparison with the one that is built in.


def logistic_value(eta, y):
    m = (1 - 2 * y) * eta
    return max(m, 0.0) + np.log1p(np.exp(-abs(m)))


def logistic_slope(eta, y):
    s = 1 - 2 * y
    m = s * eta
    t = np.exp(-abs(m))
    return s * (t / (1 + t) if m < 0 else 1 / (1 + t))


def logistic_curvature(eta, y):
    t = np.exp(-abs(eta))
    return t / (1 + t) / (1 + t)


LOGISTIC = gh.losses.custom(logistic_slope, value=logistic_value, second=logistic_curvature)


def problem(n, d, dtype):
    rng = np.random.default_rng(d)
    X = (rng.normal(size=(n, d)) / np.sqrt(d)).astype(dtype)
    return X, (rng.random(n) < 0.5) * 1.0, rng.normal(size=d), rng.uniform(0.5, 2, n)


def gradients(gpu, X, y, coef, c, loss):
    move = gpu.array if gpu is not None else np.asarray
    return gh.glm_gradients(move(X), move(y), move(coef), loss, intercept=0.25, sample_weight=move(c))


@emulated
@pytest.mark.parametrize(
    ("d", "dtype"), [(7, "float64"), (40, "float16"), (127, "float32"), (140, "float64"), (140, "float16")]
)
def test_like_the_loss_that_is_built_in(gpu, d, dtype):
    """The same numbers but for the rounding of a slope: the same kernels, the same order."""
    X, y, coef, c = problem(200, d, dtype)
    ours, built_in = (gradients(gpu, X, y, coef, c, loss) for loss in (LOGISTIC, "logistic"))
    eps = float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps)
    wide = np.hstack([X.astype(np.float64), np.ones((200, 1))])
    size = np.abs(wide).T @ ((4 * c * c)[:, None] * np.abs(wide))
    for name in ("gram", "hessian", "covariance"):
        difference = np.abs(getattr(ours, name)().get() - getattr(built_in, name)().get())
        assert (difference <= 8 * eps * size).all(), name
    assert abs(ours.loss() - built_in.loss()) <= 1e-13 * abs(built_in.loss())


@emulated
@pytest.mark.parametrize("d", [7, 140])
def test_against_the_host(gpu, d):
    X, y, coef, c = problem(150, d, np.float64)
    device, host = (gradients(at, X, y, coef, c, CAUCHY) for at in (gpu, None))
    for name in ("gram", "hessian", "diagonal", "sum", "slopes", "norms"):
        got, expected = getattr(device, name)().get(), getattr(host, name)()
        assert np.abs(got - expected).max() <= 200 * 2.0**-52 * (np.abs(expected).max() + 4 * c.sum()), name


@with_sources
@emulated
@pytest.mark.parametrize(("d", "kernel"), [(7, "narrow_update"), (140, "row_pass")])
def test_x_is_read_once(gpu, module, d, kernel):
    X, y, coef, c = problem(100, d, np.float32)
    given = gradients(gpu, X, y, coef, c, CAUCHY)
    given.gram()  # compiled
    module.calls.clear()
    if gpu.is_standin:
        del gpu.cupy.cuda.log[:]
    with gpu.silent():
        given.gram()
    assert kernel in module.calls
    assert "row_slopes" not in module.calls
    if gpu.is_standin:
        launched = [entry[0] for entry in gpu.cupy.cuda.log]
        assert launched.count("custom_rows") == 1
        assert not {"predictor", "custom"} & set(launched)


@with_sources
@emulated
def test_compiled_once_for_a_loss_and_a_kernel(gpu):
    X, y, coef, c = problem(60, 9, np.float32)
    custom.compiled.cache_clear()
    for _ in range(3):
        gradients(gpu, X, y, coef, c, CAUCHY).gram()
    assert custom.compiled.cache_info().misses == 1
    gradients(gpu, X, y, coef, c, CAUCHY).hessian()
    gradients(gpu, X, y, coef, c, LOGISTIC).gram()
    gradients(gpu, X.astype(np.float64), y, coef, c, CAUCHY).gram()
    assert custom.compiled.cache_info().misses == 4


@emulated
@pytest.mark.parametrize("d", [7, 140])
def test_the_order_of_threads_does_not_matter(gpu, d):
    if not gpu.is_standin:
        pytest.skip("a device has no other order to ask for")
    from cupy._raw import EmulatedModule

    given = gradients(gpu, *problem(300, d, np.float32), CAUCHY)
    first = given.gram().get()
    try:
        for seed in (1, 2):
            EmulatedModule.seed = seed
            np.testing.assert_array_equal(given.gram().get(), first)
    finally:
        EmulatedModule.seed = 0


@emulated
@pytest.mark.parametrize("d", [7, 140])
def test_rows_that_are_not_finite(gpu, d):
    X, y, coef, c = problem(100, d, np.float64)
    y[71] = np.nan
    bad = gradients(gpu, X, y, coef, c, CAUCHY)
    with pytest.raises(NonFiniteError) as raised:
        bad.loss()
    assert raised.value.row == 71
    assert np.isnan(bad.gram().get()).all()


@with_sources
@emulated
def test_a_kernel_that_cannot_be_launched_is_a_typed_error(gpu, monkeypatch):
    if not gpu.is_standin:
        pytest.skip("kernels of a device launch")
    from cupy._raw import EmulatedKernel

    from gradhess.errors import DeviceError

    def refuse(self, *args, **kwargs):
        raise gpu.cupy.cuda.compiler.CompileException("as asked for")

    monkeypatch.setattr(EmulatedKernel, "__call__", refuse)
    with pytest.raises(DeviceError, match="a kernel over a custom loss failed"):
        gradients(gpu, *problem(50, 5, np.float64), CAUCHY).gram()


@emulated
def test_without_sources_slopes_come_beforehand(gpu, module, monkeypatch):
    given = gradients(gpu, *problem(50, 5, np.float64), CAUCHY)
    expected = given.gram().get()
    monkeypatch.setattr(custom, "source_folder", lambda: None)
    found = gradients(gpu, *problem(50, 5, np.float64), CAUCHY).gram().get()
    assert np.abs(found - expected).max() <= 60 * 2.0**-52 * np.abs(expected).max()


@emulated
def test_the_module_asks_for_what_a_custom_loss_needs(gpu, module):
    one = gpu.cupy.ones((4, 3))
    fields = {"data": one.data.ptr, "dtype": "float64", "samples": 4, "features": 3, "row_stride": 3}
    fields |= {
        "column_stride": 1,
        "kind": "gradient",
        "loss": "custom",
        "y": one.data.ptr,
        "coef": one.data.ptr,
    }
    with pytest.raises(module.CudaError, match=r"custom loss needs kernels .* at .*row_slopes.cu:\d+"):
        module.row_slopes(fields, slopes=one.data.ptr, values=one.data.ptr, stream=0)
    with pytest.raises(ValueError, match="slopes are of rows with a loss"):
        module.row_slopes(fields | {"kind": "dense", "loss": "none"}, slopes=0, values=0, stream=0)
    with pytest.raises(InputError, match="second"):
        gh.glm_gradients(one, one[:, 0], one[0], gh.losses.custom(slope)).hessian()


KERNELS = [
    ("rowpass::pass_rows<float, float, true", "rowpass::Job", "256, 2"),
    ("rowpass::pass_rows<device::Half, float, false", "rowpass::Job", "256, 2"),
    ("narrow::update_rows<double, double, 16, 4", "narrow::Job", "256, 1"),
    ("narrow::update_rows<device::BFloat16, float, 8, 1", "narrow::Job", "256, 1"),
    ("slopes::write_slopes<float", "slopes::Job", "256, 2"),
]


def source_of(kernel):
    from gradhess._backends.cupy.custom import translated

    return custom.source(*translated(slope, value), *kernel)


@with_sources
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvcc_takes_them_without_a_warning_or_a_spill(architecture, tmp_path):
    for number, kernel in enumerate(KERNELS):
        path = tmp_path / f"{number}.cu"
        path.write_text(source_of(kernel))
        # fmt: off
        command = [
            "nvcc", "-std=c++17", "--fmad=false", f"-arch={architecture}", "-cubin", "-Werror", "all-warnings",
            "-diag-suppress=177",  # constants that are for the host
            "-Xptxas", "-v", "-o", str(tmp_path / "kernel.cubin"), str(path),
        ]
        # fmt: on
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (kernel_log,) = re.findall(r"Compiling entry function 'custom_rows'.*?Used", done.stderr, re.DOTALL)
        assert re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", kernel_log) == [("0", "0")]


def nvrtc():
    """The library that CuPy compiles with, of a wheel of NVIDIA's or of the toolkit; None without one."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    found = [path for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.*"))]
    found += sorted(Path("/usr/local").glob("cuda*/lib64/libnvrtc.so.*"))
    found = [path for path in found if "alt" not in path.name]
    if not found:
        return None
    for builtins in sorted(found[0].parent.glob("libnvrtc-builtins.so.*")):
        if "alt" not in builtins.name:
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(found[0]))


@with_sources
@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
def test_nvrtc_takes_them(architecture):
    """It has no standard headers and no functions of the host, so nvcc cannot stand for it. CuPy gives it -ftz=true,
    which must not reach the arithmetic of rows; the product that is left scales by powers of two for float16."""
    library = nvrtc()
    if library is None:
        pytest.skip("no libnvrtc: pip install nvidia-cuda-nvrtc")
    options = [b"--std=c++17", b"--fmad=false", f"-arch={architecture}".encode(), b"-ftz=true"]
    for kernel in KERNELS:
        program = ctypes.c_void_p()
        given = ctypes.byref(program), source_of(kernel).encode(), b"custom.cu", 0, None, None
        assert library.nvrtcCreateProgram(*given) == 0
        code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = text_of(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
        assert code == 0, log
        ptx = text_of(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program)
        library.nvrtcDestroyProgram(ctypes.byref(program))
        assert "mul.rn.f32" in ptx or "float" not in kernel[0] or "slopes" in kernel[0]
        assert not re.findall(r"\b(?:add|sub|fma|cvt)\S*\.ftz\S*", ptx)


def text_of(size_of, text, program):
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    made = ctypes.create_string_buffer(size.value)
    text(program, made)
    return made.value.decode()
