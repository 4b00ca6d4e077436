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
from gradhess._backends.protocol import LossSpec

LossFunction: TypeAlias = Callable[[bool, Any, Any, Any, Any, Any], None]

_SQUARED, _LOGISTIC, _POISSON, _HUBER = range(4)
_CODES: Final = {"squared": _SQUARED, "logistic": _LOGISTIC, "poisson": _POISSON, "huber": _HUBER}

_scalar = njit(error_model="numpy", fastmath={"contract"})
_squared_value, _squared_first, _squared_second = map(_scalar, SCALAR_LOSSES["squared"])
_logistic_value, _logistic_first, _logistic_second = map(_scalar, SCALAR_LOSSES["logistic"])
_poisson_value, _poisson_first, _poisson_second = map(_scalar, SCALAR_LOSSES["poisson"])
_huber_value, _huber_first, _huber_second = map(_scalar, SCALAR_LOSSES["huber"])

_kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@_scalar
def _terms(code: int, e: float, y: float, p: float, second: bool) -> tuple[float, float]:
    if code == _SQUARED:
        return _squared_value(e, y, p), _squared_second(e, y, p) if second else _squared_first(e, y, p)
    if code == _LOGISTIC:
        return _logistic_value(e, y, p), _logistic_second(e, y, p) if second else _logistic_first(e, y, p)
    if code == _POISSON:
        return _poisson_value(e, y, p), _poisson_second(e, y, p) if second else _poisson_first(e, y, p)
    return _huber_value(e, y, p), _huber_second(e, y, p) if second else _huber_first(e, y, p)


@_kernel
def _built_in(
    code: int, parameter: float, second: bool, eta: Any, y: Any, c: Any, value: Any, slope: Any
) -> None:
    for i in range(eta.shape[0]):
        loss, derivative = _terms(code, eta[i, 0], y[i], parameter, second)
        value[i] = c[i] * loss
        slope[i, 0] = c[i] * derivative


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


def loss_function(spec: LossSpec, second: bool) -> LossFunction:
    """The compiled loss. InputError where a custom one cannot be compiled or lacks its second derivative."""
    if spec.name == "softmax":
        return _softmax
    if spec.name == "custom":
        if second:
            require_second(spec)
        value_of, first_of, second_of = scalar_functions(spec)
        return _custom(value_of, second_of if second else first_of)
    return functools.partial(_built_in, _CODES[spec.name], spec.parameter)
