"""Custom losses compiled by Numba: scalar functions for the Numba kernels, C functions over vectors for the C++ ones.

A compiled function lives as long as the process, since C++ code holds its bare address.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from gradhess._backends.protocol import LossSpec, ScalarFunction
from gradhess.errors import BackendError, InputError

_MARKS: Final = (
    "Untyped global name",
    "Unknown attribute",
    "No implementation of function",
    "NameError",
    "Invalid use of",
)
NO_SECOND: Final = "this custom loss has no second derivative; give losses.custom(..., second=...)"


class VectorFunctions(NamedTuple):
    """Numba C functions ``void f(const double *eta, const double *y, double *out, int64_t n)``.

    ``value`` is None if it was not given. A ``second`` that was not given fills ``out`` with NaN: C++ code cannot raise
    Python's errors, but it names a row that is not finite.
    """

    value: Any
    first: Any
    second: Any

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Where they are in memory; 0 for a value that was not given."""
        value = 0 if self.value is None else int(self.value.address)
        return value, int(self.first.address), int(self.second.address)


def scalar_functions(spec: LossSpec) -> tuple[ScalarFunction, ScalarFunction, ScalarFunction]:
    """``(value, derivative, second)`` of ``(eta, y)``, compiled, callable from Python and from Numba code.

    A value that was not given is 0. A second derivative that was not given raises InputError when it is called from
    Python; Numba code cannot call it, so a kernel that needs it asks ``require_second`` first.

    Raises
    ------
    InputError
        Numba cannot compile one of them; the message names it and gives Numba's reason.
    """
    value, derivative, second = _functions(spec)
    return (
        _scalar(_zero if value is None else value, "value"),
        _scalar(derivative, "derivative"),
        _refuse_second if second is None else _scalar(second, "second"),
    )


def vector_cfuncs(spec: LossSpec) -> VectorFunctions:
    """The loss as C functions over vectors.

    Raises
    ------
    InputError
        Numba cannot compile one of them; the message names it and gives Numba's reason.
    """
    value, derivative, second = _functions(spec)
    return VectorFunctions(
        None if value is None else _vector(value, "value"),
        _vector(derivative, "derivative"),
        _vector(_unknown if second is None else second, "second"),
    )


def require_second(spec: LossSpec) -> None:
    """InputError where a custom loss was given without its second derivative."""
    if spec.functions is not None and spec.functions[2] is None:
        raise InputError(NO_SECOND)


def _functions(spec: LossSpec) -> tuple[ScalarFunction | None, ScalarFunction, ScalarFunction | None]:
    if spec.functions is None:
        raise BackendError(f"loss {spec.name!r} has no functions to compile")
    return spec.functions


def _zero(eta: float, y: float) -> float:
    return 0.0


def _unknown(eta: float, y: float) -> float:
    return np.nan


def _refuse_second(eta: float, y: float) -> float:
    raise InputError(NO_SECOND)


@functools.cache
def _scalar(function: ScalarFunction, role: str) -> Any:
    from numba import float64, njit, types

    # A function that its author compiled keeps the options that its author chose.
    compiled: Any = function if hasattr(function, "py_func") else njit(error_model="numpy")(function)
    try:
        result = compiled.get_call_template((float64, float64), {})[0].cases[0].return_type
    except Exception as error:  # Numba lets errors of any type through, AttributeError for one
        raise InputError(f"{_name(function, role)} cannot be compiled by Numba: {_reason(error)}") from error
    if not isinstance(result, (types.Float, types.Integer, types.Boolean)):
        raise InputError(f"{_name(function, role)} must return a number, but returns {result} for two floats")
    return compiled


@functools.cache
def _vector(function: ScalarFunction, role: str) -> Any:
    from numba import carray, cfunc, types  # type: ignore[attr-defined]  # Numba does not mark it as exported

    scalar = _scalar(function, role)
    pointer: Any = types.CPointer(types.float64)  # type: ignore[no-untyped-call]  # nor give it types

    def apply(eta: Any, y: Any, out: Any, n: Any) -> None:
        etas = carray(eta, (n,))
        ys = carray(y, (n,))
        outs = carray(out, (n,))
        outs[:] = np.nan  # what stays behind where the function raises
        for i in range(n):
            outs[i] = scalar(etas[i], ys[i])

    signature = types.void(pointer, pointer, pointer, types.int64)
    compile_it: Callable[[Any], Any] = cfunc(signature, error_model="numpy")
    return compile_it(apply)


def _name(function: ScalarFunction, role: str) -> str:
    return f"{role}={getattr(function, '__name__', repr(function))} of the custom loss"


def _reason(error: Exception) -> str:
    """The one line of Numba's long message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    for mark in _MARKS:
        for line in lines:
            if mark in line:
                return line.removesuffix(" found for signature:")
    return next((line for line in lines if line and not line.startswith("Failed in")), type(error).__name__)
