"""``cupy.ndarray`` of the stand-in: a NumPy array in guarded memory that refuses to become one by accident."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy import cuda
from cupy._memory import Allocation, MemoryPointer


def _unwrap(value: Any) -> Any:
    if isinstance(value, ndarray):
        if value.device.id != cuda.get_device_id():
            raise ValueError(
                f"Array device must be same as the current device: array device = {value.device.id} "
                f"while current = {cuda.get_device_id()}"
            )
        return value._host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, (tuple, list)):
        return type(value)(_unwrap(item) for item in value)
    return value


def wrap(host: Any) -> ndarray:
    """A new device array with these numbers."""
    host = np.asarray(host)
    order = "F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C"
    new = ndarray(host.shape, host.dtype, order=order)
    with np.errstate(all="ignore"):
        new._host[...] = host
    return new


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    __array_priority__ = 100

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"
    ):
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        dtype = np.dtype(dtype)
        if dtype.kind not in "biufc":
            raise TypeError(f"Unsupported type {dtype}")
        if memptr is None:
            memptr = cuda.get_allocator()(int(np.prod(shape)) * dtype.itemsize)
            self._allocation = memptr.mem
            self._host = np.ndarray(shape, dtype, memptr.mem.bytes, order=order)
        else:
            self._allocation = memptr.mem
            offset = memptr.ptr - memptr.mem.ptr
            self._host = np.ndarray(shape, dtype, memptr.mem.bytes, offset, strides, order)

    @classmethod
    def _view(cls, host: np.ndarray, allocation: Allocation) -> ndarray:
        new = cls.__new__(cls)
        new._host, new._allocation = host, allocation
        return new

    # what it is
    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: cuda.Device(self._allocation.device))

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._allocation, self._host.ctypes.data - self._allocation.ptr)

    @property
    def T(self) -> ndarray:
        return self._view(self._host.T, self._allocation)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "strides": None if self.flags.c_contiguous else self.strides,
            "version": 3,
            "stream": cuda.get_current_stream().ptr or 1,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._allocation.device

    def __dlpack__(self, *, stream: Any = None, **rest: Any) -> ndarray:
        return self

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return f"standin{self._host!r}"

    # across the border
    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        cuda.get_current_stream()
        if blocking:
            cuda.synchronized()
        cuda.counts["to_host"] += 1
        if out is not None:
            out[...] = self._host
            return out
        return self._host.copy(order=order)

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError("dtype and shape must be those of the target")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        cuda.counts["to_device"] += 1
        target, source = self._host, arr

        def copy() -> None:
            target[...] = source

        if stream is None or stream is cuda.get_current_stream():
            copy()
        else:
            stream._queue.append(copy)

    def item(self, *index: Any) -> Any:
        return self.get().item(*index)

    def tolist(self) -> Any:
        return self.get().tolist()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __index__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    # views and copies
    def __getitem__(self, index: Any) -> ndarray:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, ndarray) and part.dtype == bool for part in parts):
            cuda.synchronized()  # the number of rows is not known before
        plain = tuple(part._host if isinstance(part, ndarray) else part for part in parts)
        got = self._host[plain]
        if isinstance(got, np.ndarray) and got.base is not None and np.shares_memory(got, self._host):
            return self._view(got, self._allocation)
        if not isinstance(got, np.ndarray):  # one element: still a view of the device
            got = self._host[(*plain, ...)] if Ellipsis not in plain else np.asarray(got)
            return self._view(got, self._allocation)
        return wrap(got)

    def __setitem__(self, index: Any, value: Any) -> None:
        cuda.get_current_stream()
        parts = index if isinstance(index, tuple) else (index,)
        plain = tuple(part._host if isinstance(part, ndarray) else part for part in parts)
        self._host[plain] = _unwrap(value)

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        got = self._host.reshape(*shape, order=order)
        shared = np.shares_memory(got, self._host) or not got.size
        return self._view(got, self._allocation) if shared else wrap(got)

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def view(self, dtype: Any) -> ndarray:
        return self._view(self._host.view(dtype), self._allocation)

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._host.transpose(*axes), self._allocation)

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True):
        if not copy and self.dtype == dtype:
            return self
        return wrap(self._host.astype(dtype, order=order))

    def copy(self, order: str = "C") -> ndarray:
        new = ndarray(self.shape, self.dtype, order="F" if order == "F" else "C")
        new._host[...] = _unwrap(self)
        return new

    def fill(self, value: Any) -> None:
        self._host.fill(value)

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return _result(np.sum(_unwrap(self), axis=axis, dtype=dtype, keepdims=keepdims), out)

    def max(self, axis: Any = None) -> ndarray:
        return wrap(_unwrap(self).max(axis=axis))

    def all(self, axis: Any = None) -> ndarray:
        return wrap(_unwrap(self).all(axis=axis))

    def any(self, axis: Any = None) -> ndarray:
        return wrap(_unwrap(self).any(axis=axis))

    # arithmetic
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        cuda.counts["launches"] += 1
        cuda.get_current_stream()
        with np.errstate(all="ignore"):
            result = ufunc(*(_unwrap(value) for value in inputs), **kwargs)
        if isinstance(result, tuple):
            return tuple(wrap(part) for part in result)
        return _result(result, out[0] if isinstance(out, tuple) else out)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        import cupy

        twin = cupy
        for part in (function.__module__ or "numpy").split(".")[1:]:
            twin = getattr(twin, part, twin)
        own = getattr(twin, function.__name__, None)
        if own is None:
            raise TypeError(f"no implementation of {function} for the stand-in")
        return own(*args, **kwargs)


def _result(result: Any, out: Any) -> ndarray:
    if out is None:
        return wrap(result)
    out._host[...] = result
    return out
