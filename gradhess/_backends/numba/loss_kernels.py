"""Losses over vectors of predictions: the built-in ones, cached on disk, and custom ones.

A loss function here is called as ``f(second, eta, y, c, value, slope)``: predictions eta (n, k), labels y and loss
weights c (n,). It writes value (n,) and slope (n, k), the first derivative or, if ``second``, the second; both times c.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
from numba import njit

from gradhess._backends.custom_loss import require_second, scalar_functions
from gradhess._backends.loss_formulas import SCALAR_LOSSES
from gradhess._backends.numba import vector_math
from gradhess._backends.protocol import LossSpec

LossFunction: TypeAlias = Callable[[bool, Any, Any, Any, Any, Any], None]

SQUARED, LOGISTIC, POISSON, HUBER = range(4)
_CODES: Final = {"squared": SQUARED, "logistic": LOGISTIC, "poisson": POISSON, "huber": HUBER}

GIVEN: Final = -1
"""Stands for a loss that is evaluated elsewhere."""
NONE: Final = -2
"""Stands for no loss."""

_scalar = njit(forceinline=True, error_model="numpy", fastmath={"contract"})
_kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


# The formulas of ``loss_formulas``, where those call exp.


@_scalar
def _logistic_value(eta: float, y: float, p: float) -> float:
    margin = (1.0 - 2.0 * y) * eta
    hinge = 0.0 if margin < 0.0 else margin
    return hinge + vector_math.log1p_of_unit(vector_math.exp(-abs(margin)))


@_scalar
def _logistic_first(eta: float, y: float, p: float) -> float:
    sign = 1.0 - 2.0 * y
    margin = sign * eta
    tail = vector_math.exp(-abs(margin))
    return sign * (tail if margin < 0.0 else 1.0) / (1.0 + tail)


@_scalar
def _logistic_second(eta: float, y: float, p: float) -> float:
    # With the sign of y, though it makes no difference: the exponential is that of the value then, computed once.
    tail = vector_math.exp(-abs((1.0 - 2.0 * y) * eta))
    return tail / ((1.0 + tail) * (1.0 + tail))


@_scalar
def _poisson_value(eta: float, y: float, p: float) -> float:
    return vector_math.exp(eta) - y * eta


@_scalar
def _poisson_first(eta: float, y: float, p: float) -> float:
    return vector_math.exp(eta) - y


@_scalar
def _poisson_second(eta: float, y: float, p: float) -> float:
    return vector_math.exp(eta)


def _loop(value_of: Any, slope_of: Any) -> Any:
    """Of one loss, with no choice in its body, so that it becomes vector code."""

    @_scalar
    def evaluate(p: float, eta: Any, y: Any, c: Any, value: Any, slope: Any) -> None:
        for i in range(eta.size):
            value[i] = c[i] * value_of(eta[i], y[i], p)
            slope[i] = c[i] * slope_of(eta[i], y[i], p)

    return evaluate


_squared_value, _squared_slope, _squared_curvature = map(_scalar, SCALAR_LOSSES["squared"])
_huber_value, _huber_slope, _huber_curvature = map(_scalar, SCALAR_LOSSES["huber"])

_squared, _squared_curved = _loop(_squared_value, _squared_slope), _loop(_squared_value, _squared_curvature)
_logistic, _logistic_curved = (
    _loop(_logistic_value, _logistic_first),
    _loop(_logistic_value, _logistic_second),
)
_poisson, _poisson_curved = _loop(_poisson_value, _poisson_first), _loop(_poisson_value, _poisson_second)
_huber, _huber_curved = _loop(_huber_value, _huber_slope), _loop(_huber_value, _huber_curvature)


@_kernel
def built_in(code: int, p: float, second: bool, e: Any, y: Any, c: Any, value: Any, s: Any) -> None:
    """Of predictions ``e`` (n,); the derivative goes to ``s`` (n,)."""
    if code == SQUARED:
        if second:
            _squared_curved(p, e, y, c, value, s)
        else:
            _squared(p, e, y, c, value, s)
    elif code == LOGISTIC:
        if second:
            _logistic_curved(p, e, y, c, value, s)
        else:
            _logistic(p, e, y, c, value, s)
    elif code == POISSON:
        if second:
            _poisson_curved(p, e, y, c, value, s)
        else:
            _poisson(p, e, y, c, value, s)
    elif second:
        _huber_curved(p, e, y, c, value, s)
    else:
        _huber(p, e, y, c, value, s)


def _evaluate_built_in(
    code: int, parameter: float, second: bool, eta: Any, y: Any, c: Any, value: Any, slope: Any
) -> None:
    built_in(code, parameter, second, eta.reshape(-1), y, c, value, slope.reshape(-1))


@_kernel
def _softmax(second: bool, eta: Any, y: Any, c: Any, value: Any, slope: Any) -> None:
    n, k = eta.shape
    for i in range(n):
        if not 0 <= y[i] < k:  # the caller changed y after it was checked
            value[i] = np.nan
            slope[i, :] = np.nan
            continue
        label = int(y[i])
        top = eta[i].max()
        total = 0.0
        for q in range(k):
            slope[i, q] = np.exp(eta[i, q] - top)
            total += slope[i, q]
        value[i] = c[i] * (np.log(total) + (top - eta[i, label]))
        # P_label - 1 is minus the probability of all other classes, which loses no digits where P_label is near 1.
        others = 0.0
        for q in range(k):
            slope[i, q] /= total
            if q != label:
                others += slope[i, q]
        slope[i, label] = -others
        for q in range(k):
            slope[i, q] *= c[i]


@functools.cache
def _custom(value_of: Any, slope_of: Any) -> Callable[..., None]:
    @njit(nogil=True, error_model="numpy")
    def custom(second: bool, eta: Any, y: Any, c: Any, value: Any, slope: Any) -> None:
        for i in range(eta.shape[0]):
            value[i] = c[i] * value_of(eta[i, 0], y[i])
            slope[i, 0] = c[i] * slope_of(eta[i, 0], y[i])

    return custom


def loss_code(spec: LossSpec) -> int:
    """That of ``built_in``, or ``GIVEN``."""
    return _CODES.get(spec.name, GIVEN)


def loss_function(spec: LossSpec, second: bool) -> LossFunction:
    """The compiled loss. InputError where a custom one cannot be compiled or lacks its second derivative."""
    if spec.name == "softmax":
        return _softmax
    if spec.name == "custom":
        if second:
            require_second(spec)
        value_of, first_of, second_of = scalar_functions(spec)
        return _custom(value_of, second_of if second else first_of)
    return functools.partial(_evaluate_built_in, _CODES[spec.name], spec.parameter)
