"""Checks of arguments that the functions of this package share."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError

BATCHES: Final = 1
NOISE: Final = 2
"""Batches and noise come from different streams of random numbers, also where both are given the same seed."""
SYMMETRY: Final = 1e-8
"""How far a matrix may be from symmetric, relative to its largest entry: rounding of a product in float32 and less."""


def random_stream(rng: Any, stream: int) -> np.random.Generator:
    """A generator from itself, from a seed, or of no seed. Of one seed, each ``stream`` has numbers of its own."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return np.random.default_rng()
    return np.random.default_rng([stream, check.seed(rng)])


def vector(value: Any, name: str, length: int | None = None) -> Float64Array:
    """(d,), finite."""
    array = as_numpy(value, name)
    if array.ndim != 1 or (length is not None and array.shape != (length,)):
        wanted = "(d,)" if length is None else f"({length},)"
        raise InputError(f"{name} has shape {array.shape}; it must be {wanted}")
    return check.finite(np.require(array, np.float64, ["C", "A"]), name)


def symmetric(value: Any, name: str, size: int | None = None) -> Float64Array:
    """(d, d), finite and symmetric up to rounding; its symmetric part. An estimate stands for its Hessian."""
    array = as_numpy(getattr(value, "hessian", value), name)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise InputError(f"{name} has shape {array.shape}; it must be (d, d)")
    if size is not None and array.shape[0] != size:
        raise InputError(f"{name} has shape {array.shape}; it must be ({size}, {size})")
    matrix = check.finite(np.require(array, np.float64, ["C", "A"]), name)
    if np.abs(matrix - matrix.T).max() > SYMMETRY * np.abs(matrix).max():
        raise InputError(f"{name} is not symmetric")
    return np.asarray((matrix + matrix.T) / 2)


def within_range(moments: Any, remedy: str = "divide the features by their size") -> Float64Array:
    """A covariance or second moment of gradients that are finite, whose squares need not be."""
    matrix = np.asarray(moments)
    if not np.isfinite(matrix).all():
        raise InputError(f"the covariance of the gradients overflows float64, though they do not; {remedy}")
    return matrix
