"""Value, first and second derivative of the built-in losses, each written once.

Functions of ``(eta, y, parameter)`` built from NumPy ufuncs alone, so the same definition serves arrays (the reference
backend and ``gradhess.losses``) and scalars under Numba. Per sample, with no division by n. The C++ kernels hold the
same formulas in csrc/cpu/losses.hpp; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np


class Formulas(NamedTuple):
    value: Callable[[Any, Any, float], Any]
    first: Callable[[Any, Any, float], Any]
    second: Callable[[Any, Any, float], Any]


# squared: (eta - y)^2 / 2
def squared_value(eta: Any, y: Any, parameter: float) -> Any:
    return 0.5 * (eta - y) * (eta - y)


def squared_first(eta: Any, y: Any, parameter: float) -> Any:
    return eta - y


def squared_second(eta: Any, y: Any, parameter: float) -> Any:
    return 1.0 + 0.0 * eta


# logistic, y in {0, 1}: log(1 + e^eta) - y eta, written with s = 1 - 2y so that nothing cancels in either tail
def logistic_value(eta: Any, y: Any, parameter: float) -> Any:
    return np.logaddexp(0.0, (1.0 - 2.0 * y) * eta)


def logistic_first(eta: Any, y: Any, parameter: float) -> Any:
    sign = 1.0 - 2.0 * y
    margin = sign * eta
    return sign * np.exp(np.minimum(margin, 0.0)) / (1.0 + np.exp(-np.abs(margin)))


def logistic_second(eta: Any, y: Any, parameter: float) -> Any:
    tail = np.exp(-np.abs(eta))
    return tail / ((1.0 + tail) * (1.0 + tail))


# poisson, log link, y >= 0: e^eta - y eta; log(y!) is left out
def poisson_value(eta: Any, y: Any, parameter: float) -> Any:
    return np.exp(eta) - y * eta


def poisson_first(eta: Any, y: Any, parameter: float) -> Any:
    return np.exp(eta) - y


def poisson_second(eta: Any, y: Any, parameter: float) -> Any:
    return np.exp(eta)


# huber with threshold delta: e^2 / 2 within it, delta (|e| - delta / 2) beyond
def huber_value(eta: Any, y: Any, delta: float) -> Any:
    size = np.abs(eta - y)
    inner = np.minimum(size, delta)
    return inner * (size - 0.5 * inner)


def huber_first(eta: Any, y: Any, delta: float) -> Any:
    return np.minimum(np.maximum(eta - y, -delta), delta)


def huber_second(eta: Any, y: Any, delta: float) -> Any:
    return 1.0 * (np.abs(eta - y) <= delta)


SCALAR_LOSSES: Final[dict[str, Formulas]] = {
    "squared": Formulas(squared_value, squared_first, squared_second),
    "logistic": Formulas(logistic_value, logistic_first, logistic_second),
    "poisson": Formulas(poisson_value, poisson_first, poisson_second),
    "huber": Formulas(huber_value, huber_first, huber_second),
}
"""The losses of one linear predictor, in the order of the codes in csrc/cpu/job.hpp."""
