"""Arrays of other libraries: in without a copy, results back as the type that came in.

NumPy arrays pass as they are. PyTorch tensors, JAX arrays and everything else that speaks DLPack on the CPU become
views; data frames hand over their own NumPy array. No library is imported here: if one of its arrays came in, it is
loaded already.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gradhess._backends.protocol import AnyArray
from gradhess.errors import BackendError, InputError, InputTypeError

NUMPY: Final = "numpy"


def _bfloat16() -> np.dtype[Any]:
    """NumPy's type of that name; without ml_dtypes no array is of it, and this is a type that none is of either."""
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype([("no ml_dtypes", "V2")])
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


BFLOAT16: Final[np.dtype[Any]] = _bfloat16()
DEVICE_TYPES_ON_HOST: Final = (
    1,
    3,
)  # kDLCPU and kDLCUDAHost of the DLPack standard: memory that the CPU can read
MAX_FLOAT_BYTES: Final = 8


def as_numpy(value: Any, name: str) -> AnyArray:
    """``value`` as a NumPy array of real numbers, without a copy where there is one to be had.

    Raises
    ------
    InputTypeError
        Its dtype or its type is one that gradhess does not compute with.
    BackendError
        It lives on a GPU.
    """
    array = value if type(value) is np.ndarray else _convert(value, name)
    dtype = array.dtype
    if dtype.kind == "f" and dtype.itemsize <= MAX_FLOAT_BYTES and dtype.isnative:
        return array
    if dtype.kind in "iub" and dtype.isnative:
        return array
    if dtype == BFLOAT16:
        return array
    raise InputTypeError(_why_not_dtype(dtype, value, name))


def first_false(mask: npt.NDArray[np.bool_]) -> int:
    """Flat index of the first entry that is False, or -1: ``mask.all()`` with the place, and without its overhead."""
    if not mask.size:
        return -1
    index = int(mask.argmin())
    return -1 if mask.item(index) else index


def library_of(value: Any) -> str:
    """``"torch"``, ``"jax"``, or ``"numpy"`` for everything else: what results should come back as."""
    if type(value) is np.ndarray:
        return NUMPY
    root = type(value).__module__.partition(".")[0]
    if root in ("jax", "jaxlib"):
        return "jax"
    return "torch" if _is_torch(value) else NUMPY


def give_back(result: AnyArray, library: str) -> Any:
    """``result`` as an array of ``library``, sharing its memory with the NumPy array where the library can.

    JAX rounds float64 to float32 unless ``jax_enable_x64`` is on; where it would, the NumPy array is returned, so
    that nothing loses digits in silence.
    """
    if library == NUMPY:
        return result
    module = sys.modules.get(library)
    if module is None:  # a state unpickled where the library was never imported
        return result
    if library == "torch":
        return module.from_numpy(result)
    converted = module.numpy.asarray(result)
    return converted if converted.dtype == result.dtype else result


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _convert(value: Any, name: str) -> AnyArray:
    if isinstance(value, np.ma.MaskedArray):
        raise InputTypeError(
            f"{name} is a masked array; fill or drop the masked entries first: {name}.filled(...)"
        )
    if hasattr(value, "tocsr"):
        raise InputTypeError(f"{name} is sparse ({type(value).__name__}); pass {name}.toarray()")
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if _is_torch(value):
        _check_tensor(value, name)
        if str(value.dtype) == "torch.bfloat16":  # NumPy's DLPack does not know the type; its bits it does
            bits = value.view(sys.modules["torch"].int16)
            return np.asarray(_from_dlpack(bits, name).view(BFLOAT16))
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value, name)
    if hasattr(value, "__cuda_array_interface__"):
        raise BackendError(_no_gpu(name))
    try:
        return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} cannot become an array: {error}") from None


def _check_tensor(value: Any, name: str) -> None:
    """Say what to do about tensors that DLPack would refuse with a message of its own."""
    if value.requires_grad:
        raise InputTypeError(f"{name} is a tensor that requires grad; pass {name}.detach()")
    if value.device.type != "cpu":
        raise BackendError(
            f"{name} is on the device {value.device}, and here arrays of the CPU only can be used; copy it to the host"
        )
    if str(value.layout) != "torch.strided":
        raise InputTypeError(f"{name} is a tensor of layout {value.layout}; pass {name}.to_dense()")


def _from_dlpack(value: Any, name: str) -> AnyArray:
    if value.__dlpack_device__()[0] not in DEVICE_TYPES_ON_HOST:
        raise BackendError(_no_gpu(name))
    dtype = str(getattr(value, "dtype", ""))
    if "bfloat16" in dtype:  # JAX, whose arrays are NumPy's by another way, without a copy
        return np.asarray(value)
    if "float8" in dtype:
        raise InputTypeError(f"{name} is {dtype}, which this release does not read; convert it to float32")
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputTypeError(f"{name} ({type(value).__name__}, {dtype}) cannot be read: {error}") from error


def _no_gpu(name: str) -> str:
    return f"{name} is on a GPU, and what it goes with is on the host: bring them to one device"


def _why_not_dtype(dtype: np.dtype[Any], value: Any, name: str) -> str:
    if not dtype.isnative:
        return f"{name} has the foreign byte order {dtype.str}; pass {name}.astype({name}.dtype.newbyteorder('='))"
    if dtype.kind == "f":
        return f"{name} is {dtype}; gradhess computes in float64 at most: {name}.astype('float64')"
    columns = getattr(value, "columns", None)
    kinds = getattr(value, "dtypes", None)
    if columns is not None and kinds is not None:  # a data frame: name the columns
        bad = [
            f"{column!r} ({kind})"
            for column, kind in zip(columns, kinds, strict=True)
            if not str(kind).lower().startswith(("float", "int", "uint", "bool"))
        ]
        if bad:
            return f"{name} has columns that are not numeric: {', '.join(bad[:8])}; drop them or encode them"
    return f"{name} has dtype {dtype}; it must hold real numbers (float, integer or boolean)"
