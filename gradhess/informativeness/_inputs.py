"""A distribution of the input on finitely many points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError, InputTypeError
from gradhess.informativeness import _checks
from gradhess.informativeness._collision import collision_entropy


class Inputs:
    """Points and their probabilities: an input distribution that can be enumerated.

    Parameters
    ----------
    points : array_like, shape (n_inputs,) or (n_inputs, d)
        Points that are equal are made one, with the sum of their weights: pairs of inputs are pairs of different
        points everywhere. Points of weight zero are left out.
    weights : array_like, shape (n_inputs,), optional
        Divided by their sum; equal by default.

    Attributes
    ----------
    points : ndarray, shape (n_inputs, d)
        Sorted by rows where some were equal, else in the order given.
    weights : ndarray, shape (n_inputs,)
        Positive, of sum one.

    Raises
    ------
    InputError
        There are no points, one is not finite, or a weight is negative.
    InputTypeError
        They are not numbers.
    """

    def __init__(self, points: Any, weights: Any = None) -> None:
        rows = _rows(points, "points")
        shares = _checks.probabilities(weights, "weights", len(rows))
        rows, shares = rows[shares > 0], shares[shares > 0]
        different, position = np.unique(rows, axis=0, return_inverse=True)
        if len(different) < len(rows):
            rows, shares = different, np.bincount(position.ravel(), shares).astype(np.float64)
        self.points: AnyArray = np.ascontiguousarray(rows)
        self.weights: Float64Array = shares / math.fsum(shares)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"<Inputs: {len(self):,} points of {self.points.shape[1]} coordinates>"

    @property
    def collision_entropy(self) -> float:
        """``-log sum weights^2``, in nats."""
        return collision_entropy(self.weights)

    def sample(self, n: int, rng: np.random.Generator) -> AnyArray:
        """(n, d): independent draws."""
        chosen: AnyArray = self.points[rng.choice(len(self.points), size=n, p=self.weights)]
        return chosen


def as_inputs(value: Any, name: str) -> Inputs:
    """Inputs from themselves, or the equal distribution on the rows of an array."""
    return value if isinstance(value, Inputs) else Inputs(_rows(value, name))


def _rows(points: Any, name: str) -> AnyArray:
    """(n_inputs, d), finite."""
    if points is None or isinstance(points, (str, bytes)):
        raise InputTypeError(
            f"{name} must be an array of points, (n_inputs,) or (n_inputs, d), not {type(points).__name__}"
        )
    given = as_numpy(points, name)
    if given.ndim not in (1, 2) or given.size == 0:
        raise InputError(
            f"{name} has shape {given.shape}; it must be (n_inputs,) or (n_inputs, d), not empty"
        )
    rows = given.reshape(len(given), -1)
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        bad = int(np.argmax(~np.isfinite(rows).all(axis=1)))
        raise InputError(f"{name} holds NaN or infinity, first in row {bad}")
    return rows
