"""Checks of the arguments that only this package has: symmetric matrices, spectra, windows."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError, InputTypeError

ASYMMETRY: Final = 1e-5
"""Largest ``|A - A^T|`` over ``max |A|`` that passes for rounding: matrices computed in float32 have 1e-6 or so."""

MODERATE: Final = 1e75
"""A matrix with a largest entry of up to this, or from its inverse on, is squared as it is."""

TILE: Final = 128


def symmetric(value: Any, name: str) -> Float64Array:
    """(p, p) float64, finite, made symmetric to the bit.

    Raises InputError if it is not square, not finite, or further from symmetric than rounding would take it.
    """
    array = check.matrix(value, name)
    if array.shape[0] != array.shape[1]:
        raise InputError(f"{name} has shape {array.shape}; it must be square and symmetric")
    matrix = check.finite(np.asarray(array, np.float64), name)
    if _exactly_symmetric(matrix):
        return matrix
    gap = float(np.abs(matrix - matrix.T).max())
    size = float(np.abs(matrix).max())
    if gap > ASYMMETRY * size:
        raise InputError(
            f"{name} is not symmetric: {name} and its transpose differ by {gap:.3g}, with entries up to {size:.3g}; "
            f"if that is meant, pass ({name} + {name}.T) / 2"
        )
    return (matrix + matrix.T) / 2


def _exactly_symmetric(matrix: Float64Array) -> bool:
    """By tiles, as a large matrix against its transpose misses the cache at every entry."""
    starts = range(0, len(matrix), TILE)
    return all(
        (matrix[i : i + TILE, j : j + TILE] == matrix[j : j + TILE, i : i + TILE].T).all()
        for i in starts
        for j in starts[: i // TILE + 1]
    )


def symmetric_pair(first: Any, second: Any, names: tuple[str, str]) -> tuple[Float64Array, Float64Array]:
    """Two symmetric matrices of one shape."""
    left, right = symmetric(first, names[0]), symmetric(second, names[1])
    if left.shape != right.shape:
        raise InputError(
            f"{names[0]} has shape {left.shape}, but {names[1]} has shape {right.shape}: they must agree"
        )
    return left, right


def of_moderate_size(array: Float64Array) -> Float64Array:
    """Itself, or times the power of two that keeps squares of its entries, and their sums, within float64.

    For measures that do not depend on scale, which this changes by no bit.
    """
    size = float(np.abs(array).max(initial=0.0))
    if size == 0 or 1 / MODERATE < size < MODERATE:
        return array
    return np.asarray(np.ldexp(array, -math.frexp(size)[1]))


def vector(value: Any, name: str) -> Float64Array:
    """(N,) float64, finite, with at least one entry."""
    array = as_numpy(value, name)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{name} has shape {array.shape}; it must be one-dimensional and not empty")
    return check.finite(np.asarray(array, np.float64), name)


def batch_size(value: Any) -> int:
    return check.count(value, "batch_size", 1)


def number(value: Any, name: str, *, minimum: float = -math.inf) -> float:
    """A finite real number, at least ``minimum``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputTypeError(f"{name} must be a number, not {type(value).__name__}")
    if not (math.isfinite(value) and value >= minimum):
        least = "" if minimum == -math.inf else f", and at least {minimum:g}"
        raise InputError(f"{name} is {value}; it must be finite{least}")
    return float(value)


def fraction(value: Any, name: str) -> float:
    """A number in (0, 1]."""
    share = number(value, name, minimum=0.0)
    if not 0 < share <= 1:
        raise InputError(f"{name} is {share:g}; it must be in (0, 1]")
    return share


def window(value: Any, p: int) -> tuple[int, int]:
    """(i0, i1) with 0 <= i0 < i1 <= p, as a half-open range of eigenvectors; all of them for None."""
    if value is None:
        return 0, p
    try:
        first, last = value
    except (TypeError, ValueError):
        raise InputError(
            f"window is {value!r}; it must be (i0, i1), a half-open range of eigenvectors"
        ) from None
    i0, i1 = check.count(first, "window[0]", 0), check.count(last, "window[1]", 1)
    if not i0 < i1 <= p:
        raise InputError(
            f"window is ({i0}, {i1}), but there are {p} eigenvectors: 0 <= i0 < i1 <= {p} must hold"
        )
    return i0, i1


def generator(value: Any) -> np.random.Generator:
    """A generator from itself, or from a seed."""
    return value if isinstance(value, np.random.Generator) else np.random.default_rng(check.seed(value))
