"""A stand-in for CuPy on a machine without a GPU: what gradhess uses of it, with CuPy's signatures, and strict.

Arrays do not become NumPy arrays by accident, mixed devices are errors, memory has guards and begins as NaN, copies
from the host run late, and waits of the host are counted. CUDA sources are compiled for the host and really run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy import cuda
from cupy._array import _unwrap, ndarray, wrap
from cupy._raw import RawKernel, RawModule

__version__ = "14.2.0"
STANDIN = True
float32, float64, float16, int64, bool_ = np.float32, np.float64, np.float16, np.int64, np.bool_
newaxis = None
__all__ = ["RawKernel", "RawModule", "cuda", "ndarray"]


def is_available() -> bool:
    return cuda.is_available()


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def full(shape: Any, value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    new = ndarray(shape, np.asarray(value).dtype if dtype is None else dtype, order=order)
    new._host[...] = value
    return new


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def empty_like(a: ndarray, dtype: Any = None) -> ndarray:
    return ndarray(a.shape, dtype or a.dtype)


def zeros_like(a: ndarray, dtype: Any = None) -> ndarray:
    return zeros(a.shape, dtype or a.dtype)


def arange(*args: Any, dtype: Any = None) -> ndarray:
    return wrap(np.arange(*args, dtype=dtype))


def asarray(a: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    cuda.counts["to_device"] += 1
    return wrap(np.asarray(a, dtype, order=order))


array = asarray


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    if not isinstance(a, ndarray):
        raise TypeError("ascontiguousarray of the stand-in takes device arrays")
    if a.flags.c_contiguous and (dtype is None or a.dtype == dtype):
        return a
    new = ndarray(a.shape, dtype or a.dtype)
    new._host[...] = _unwrap(a)
    return new


def asfortranarray(a: ndarray) -> ndarray:
    new = ndarray(a.shape, a.dtype, order="F")
    new._host[...] = _unwrap(a)
    return new


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a)


def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    kind, number = array.__dlpack_device__()
    assert kind == 2
    assert number == cuda.get_device_id(), "DLPack on another device than the current one"
    got = array.__dlpack__(stream=cuda.get_current_stream().ptr or 1)
    return ndarray._view(got._host, got._allocation)


def _function(name: str) -> Any:
    original: Any = np
    for part in name.split("."):
        original = getattr(original, part)

    def apply(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        cuda.counts["launches"] += 1
        with np.errstate(all="ignore"):
            result = original(*(_unwrap(value) for value in args), **kwargs)
        if out is not None:
            out._host[...] = result
            return out
        return type(result)(*map(wrap, result)) if isinstance(result, tuple) else wrap(result)

    return apply


# fmt: off
for _name in [
    "abs", "add", "concatenate", "einsum", "exp", "isfinite", "log", "logaddexp", "matmul",
    "maximum", "minimum", "multiply", "sqrt", "square", "subtract", "sum", "tanh", "cosh", "sinh",
    "sin", "cos", "tril", "where", "diag", "diagonal", "outer", "argsort", "eye", "expand_dims",
    "sign", "arctan", "log1p", "expm1",
]:
    # fmt: on
    globals()[_name] = _function(_name)


class linalg:
    norm = staticmethod(_function("linalg.norm"))

    @staticmethod
    def eigh(a: ndarray) -> tuple[ndarray, ndarray]:
        cuda.synchronized()  # cuSOLVER's status is read
        values, vectors = np.linalg.eigh(_unwrap(a))
        return wrap(values), wrap(vectors)
