"""Checks of arguments that only this package has; everything else is in ``gradhess._validation``."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError, InputTypeError

MAX_LABELS: Final = 256
"""Labels are kept as bytes."""


def real_vector(value: Any, name: str, length: int | None = None) -> Float64Array:
    """(n,) contiguous float64, finite, of that length if one is given, else of any length but 0."""
    array = as_numpy(value, name)
    if array.ndim != 1 or (array.size == 0 if length is None else array.shape != (length,)):
        expected = "(n,), n at least 1" if length is None else f"({length},)"
        raise InputError(f"{name} has shape {array.shape}; it must be {expected}")
    return check.finite(np.require(array, np.float64, ["C", "A"]), name)


def probabilities(value: Any, name: str, length: int | None = None) -> Float64Array:
    """Weights of any positive total, divided by it; equal ones where ``value`` is None and the length is known."""
    if value is None and length is not None:
        return np.full(length, 1.0 / length)
    weights = real_vector(value, name, length)
    if (weights < 0).any():
        at = int(np.argmax(weights < 0))
        raise InputError(f"{name}[{at}] is {weights[at]:g}; weights must not be negative")
    largest = float(weights.max())
    if largest == 0:
        raise InputError(f"{name} are all zero; at least one must be positive")
    weights = weights / largest  # so that the total neither overflows nor vanishes
    return weights / math.fsum(weights)


def label_matrix(value: Any, q: int, name: str = "labels") -> npt.NDArray[np.uint8]:
    """(n_targets, n_inputs) bytes in 0..q-1, C-contiguous."""
    array = as_numpy(value, name)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"{name} has shape {array.shape}; it must be (n_targets, n_inputs), both at least 1: "
            "row i is what target i answers at each input"
        )
    if array.dtype.kind not in "iub":
        raise InputTypeError(f"{name} has dtype {array.dtype}; labels are integers from 0 to q - 1")
    outside = (array < 0) | (array >= q)
    if outside.any():
        row, column = np.unravel_index(int(np.argmax(outside)), array.shape)
        raise InputError(
            f"{name}[{row}, {column}] is {array[row, column]}; labels must be in 0..{q - 1} for q = {q}"
        )
    return np.ascontiguousarray(array, np.uint8)


def label_count(value: Any) -> int:
    """q, from 2 to 256."""
    q = check.count(value, "q", 2)
    if q > MAX_LABELS:
        raise InputError(f"q is {q}; at most {MAX_LABELS} labels are supported")
    return q


def real_matrix(value: Any, name: str, meaning: str) -> AnyArray:
    """A finite two-dimensional array of floats, neither side of which is 0."""
    array = as_numpy(value, name)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name} has shape {array.shape}; it must be {meaning}, both at least 1")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        bad = int(np.argmax(~np.isfinite(array).all(axis=1)))
        raise InputError(f"{name} holds NaN or infinity, first in row {bad}")
    return array


def generator(value: Any) -> np.random.Generator:
    """A generator from itself, or from a seed."""
    if isinstance(value, np.random.Generator):
        return value
    return np.random.default_rng(check.seed(value))
