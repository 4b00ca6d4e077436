"""The GPU: what was compiled, which devices are there, and the one operation that runs on them so far.

Compiled and checked without a device; **not yet run on hardware**. It serves CuPy arrays through ``weighted_gram``
below and no call on NumPy arrays, so the registry lists it with a reason and never chooses it.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NoReturn

from gradhess.errors import BackendError, InputError, InputTypeError

NO_DRIVER = 35
"""cudaErrorInsufficientDriver: what the runtime answers where there is no driver, or one that is too old."""


def _module() -> ModuleType:
    try:
        return importlib.import_module("gradhess._cuda")
    except ImportError as error:
        raise BackendError(
            "the CUDA module was not compiled; install with nvcc on PATH, and GRADHESS_CUDA=on to insist"
        ) from error


def _version(code: int) -> str:
    return f"{code // 1000}.{code % 1000 // 10}"


def describe() -> dict[str, str]:
    """What ``show_config`` says: whether compiled, for what, and the devices or the reason for none."""
    try:
        module = _module()
    except BackendError as error:
        return {"compiled": "no", "reason": str(error)}
    facts = {"compiled": f"CUDA {_version(module.RUNTIME_VERSION)} for {module.ARCHITECTURES}"}
    count, error_code, text = module.device_count()
    if error_code == NO_DRIVER:
        facts["reason"] = f"no CUDA driver (error {error_code}: {text})"
    elif error_code:
        facts["reason"] = f"error {error_code}: {text}"
    elif count == 0:
        facts["reason"] = "no CUDA device"
    else:
        facts["devices"] = ", ".join(module.device_name(device) for device in range(count))
    return facts


def load() -> NoReturn:
    """Always BackendError: no device can serve the table of operations yet. The message says what was found."""
    facts = describe()
    if facts["compiled"] == "no":
        raise BackendError(facts["reason"])
    found = (
        facts.get("reason")
        or f"devices: {facts['devices']}; so far only weighted_gram of CuPy arrays runs there"
    )
    raise BackendError(f"compiled ({facts['compiled']}); {found}")


def weighted_gram(X: Any, weights: Any = None, *, out: Any = None) -> Any:
    """``X^T diag(weights) X`` of CuPy arrays, on their device and in CuPy's current stream.

    Parameters
    ----------
    X : cupy.ndarray of shape (n, d)
        float32 or float64. Copied where its rows are not contiguous.
    weights : cupy.ndarray of shape (n,), optional
        Of any sign; widened to float64.
    out : cupy.ndarray of shape (d, d), optional
        C-contiguous float64, to which the result is added.

    Returns
    -------
    cupy.ndarray of shape (d, d), float64: ``out``, or a new array. float32 rows are summed in float32 over slabs of
    256 rows, and slabs in float64. Same bits in every run.

    Raises
    ------
    BackendError
        No compiled module, no CuPy, or an error of the device.
    InputError, InputTypeError
        Wrong shapes or dtypes.
    """
    module = _module()
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise BackendError(
            "CuPy is not installed: pip install 'gradhess[cuda13]' or 'gradhess[cuda12]'"
        ) from error
    if X.ndim != 2 or X.shape[1] == 0:
        raise InputError(f"X must have shape (n, d) with d >= 1, not {X.shape}")
    if X.dtype not in (cupy.float32, cupy.float64):
        raise InputTypeError(f"X has dtype {X.dtype}; on the GPU it must be float32 or float64")
    n, d = X.shape
    if weights is not None and weights.shape != (n,):
        raise InputError(f"weights has shape {weights.shape}; X of shape {X.shape} needs {(n,)}")
    if out is not None and (out.shape != (d, d) or out.dtype != cupy.float64 or not out.flags.c_contiguous):
        raise InputError(
            f"out must be C-contiguous float64 of shape {(d, d)}, not {out.dtype} of shape {out.shape}"
        )

    with X.device:
        rows = X
        if X.strides[1] != X.itemsize or X.strides[0] < d * X.itemsize:
            rows = cupy.ascontiguousarray(X)
        factors = None if weights is None else cupy.ascontiguousarray(weights, dtype=cupy.float64)
        gram = cupy.zeros((d, d)) if out is None else out
        module.weighted_gram(
            data=rows.data.ptr,
            dtype=rows.dtype.name,
            samples=n,
            features=d,
            row_stride=rows.strides[0] // rows.itemsize,
            weights=0 if factors is None else factors.data.ptr,
            gram=gram.data.ptr,
            stream=cupy.cuda.get_current_stream().ptr,
        )
    # CuPy's pool reuses a freed copy only in the order of the same stream, so `rows` and `factors` may go now.
    return gram
