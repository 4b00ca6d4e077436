"""Arrays on a GPU: in without a copy, results back as the type that came in, on the caller's device and stream.

CuPy arrays pass as they are. CUDA tensors of PyTorch, and everything else that speaks DLPack or version 3 of
``__cuda_array_interface__`` on a GPU, become views of CuPy's. Work for tensors of PyTorch is queued in PyTorch's
current stream of their device, all other work in CuPy's.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final

import numpy as np

from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, device_errors
from gradhess.errors import BackendError, InputError, InputTypeError

CUDA: Final = 2
"""kDLCUDA of the DLPack standard."""
CUPY: Final = "cupy"
TORCH: Final = "torch"
_ON_HOST: Final = (np.ndarray, list, tuple, int, float, type(None))


def on_device(value: Any) -> bool:
    """Whether ``value`` is an array on a GPU. NumPy arrays are answered at once."""
    if isinstance(value, _ON_HOST):
        return False
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return bool(value.is_cuda)
    if hasattr(value, "__dlpack_device__"):
        return bool(value.__dlpack_device__()[0] == CUDA)
    return hasattr(value, "__cuda_array_interface__")


class Place:
    """A device, and whose current stream on it is used; a context manager, entered around all work. Errors of CuPy and
    of the driver leave it as gradhess's."""

    __slots__ = ("_stack", "device", "library")

    def __init__(self, device: int, library: str) -> None:
        self.device, self.library = device, library
        self._stack: list[ExitStack] = []

    @property
    def name(self) -> str:
        return f"cuda:{self.device}"

    def __enter__(self) -> Place:
        stack = ExitStack()
        stack.enter_context(device_errors("a call"))
        stack.enter_context(cupy().cuda.Device(self.device))
        torch = sys.modules.get("torch")
        if self.library == TORCH and torch is not None:
            stack.enter_context(external_stream(int(torch.cuda.current_stream(self.device).cuda_stream)))
        self._stack.append(stack)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.pop().__exit__(kind, error, trace)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and (self.device, self.library) == (other.device, other.library)

    def __hash__(self) -> int:
        return hash((self.device, self.library))

    def __repr__(self) -> str:
        return f"<{self.name}, stream of {self.library}>"


class _Stream:
    """An address as an object of the CUDA stream protocol."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


def external_stream(address: int) -> Any:
    """The stream at an address as one of CuPy's."""
    streams = cupy().cuda
    if address == 0:
        return streams.Stream.null
    if hasattr(streams.Stream, "from_external"):  # CuPy 14
        return streams.Stream.from_external(_Stream(address))
    return streams.ExternalStream(address)


def place_of(value: Any, name: str = "an array") -> Place:
    """Where an array on a GPU lies, and to which library its stream belongs; BackendError without CuPy."""
    try:
        cupy()
    except BackendError as error:
        raise BackendError(f"{name} is on a GPU, and {error}") from None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return Place(int(value.device.index), TORCH)
    if isinstance(value, cupy().ndarray):
        return Place(int(value.device.id), CUPY)
    if hasattr(value, "__dlpack_device__"):
        return Place(int(value.__dlpack_device__()[1]), CUPY)
    return Place(int(cupy().cuda.get_device_id()), CUPY)


def place_named(device: str) -> Place:
    """``"cuda"`` is the current device, ``"cuda:1"`` the second."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise InputError(f"device is {device!r}; it must be 'cpu', 'cuda' or 'cuda:0', 'cuda:1', ...")
    try:
        count = int(cupy().cuda.runtime.getDeviceCount())
    except Exception as error:
        raise BackendError(f"device is {device!r}, but no CUDA device can be used: {error}") from error
    index = int(number) if number else int(cupy().cuda.get_device_id())
    if index >= count:
        raise InputError(f"device is {device!r}, but there are {count} CUDA devices")
    return Place(index, CUPY)


def as_device(value: Any, name: str, place: Place, other: str = "X") -> tuple[DeviceArray, bool]:
    """``value`` as a CuPy array on the device of ``place``, without a copy, and whether its bits are bfloat16.

    Call it inside of ``place``: a tensor of another stream is waited for there, by the device and not by the host.

    Raises
    ------
    InputError
        It lies on the host, or on another device.
    InputTypeError
        Its dtype or its type is one that gradhess does not compute with.
    """
    if not on_device(value):
        raise InputError(
            f"{name} is on the host, and {other} on {place.name}: pass {name} as an array on that device "
            "(nothing is copied to a GPU in silence)"
        )
    where = place_of(value)
    if where.device != place.device:
        raise InputError(f"{name} is on {where.name}, and {other} on {place.name}: bring them to one device")
    array, bfloat16 = _as_cupy(value, name)
    if not bfloat16 and not (
        (array.dtype.kind == "f" and array.dtype.itemsize <= 8) or array.dtype.kind in "iub"
    ):
        raise InputTypeError(f"{name} has dtype {array.dtype}; it must hold real numbers")
    return array, bfloat16


def _as_cupy(value: Any, name: str) -> tuple[DeviceArray, bool]:
    xp = cupy()
    if isinstance(value, xp.ndarray):
        return (value.view(np.uint16), True) if value.dtype.name == "bfloat16" else (value, False)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.requires_grad:
            raise InputTypeError(f"{name} is a tensor that requires grad; pass {name}.detach()")
        if str(value.layout) != "torch.strided":
            raise InputTypeError(f"{name} is a tensor of layout {value.layout}; pass {name}.to_dense()")
        if value.dtype == torch.bfloat16:
            return xp.from_dlpack(value.view(torch.int16)).view(np.uint16), True
    try:
        if hasattr(value, "__dlpack__"):
            return xp.from_dlpack(value), False
        return _from_interface(value.__cuda_array_interface__, value), False
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputTypeError(f"{name} ({type(value).__name__}) cannot be read: {error}") from error


def _from_interface(interface: dict[str, Any], owner: Any) -> DeviceArray:
    """A view of ``__cuda_array_interface__``; its stream is waited for by ours, on the device."""
    streams, xp = cupy().cuda, cupy()
    stream = interface.get("stream")
    if stream is not None:
        event = streams.Event(disable_timing=True)
        event.record(streams.Stream.null if stream == 1 else external_stream(int(stream)))
        streams.get_current_stream().wait_event(event)
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    span = dtype.itemsize
    for length, stride in zip(shape, strides or (), strict=False):
        span += max(length - 1, 0) * abs(stride)
    size = max(span, dtype.itemsize * int(np.prod(shape)))
    memory = streams.UnownedMemory(interface["data"][0], size, owner)
    return xp.ndarray(shape, dtype, streams.MemoryPointer(memory, 0), strides)


def give_back(result: DeviceArray, library: str) -> Any:
    """``result`` as a tensor of PyTorch on the same memory, or the CuPy array that it is; on the host as NumPy's."""
    if library == TORCH:
        torch = sys.modules.get("torch")
        if torch is not None:
            return torch.from_dlpack(result)
    if library == "numpy":
        return result.get()
    return result
