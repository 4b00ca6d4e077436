"""Two classes that are known in closed form: parities, and waves of high frequency."""

from __future__ import annotations

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import AnyArray
from gradhess.errors import InputError
from gradhess.informativeness import lwe
from gradhess.informativeness._targets import TargetClass


def parities(n: int) -> TargetClass:
    """All ``2^n`` parities ``(-1)^(S . x)`` of points in {0, 1}^n.

    The labels are ``S . x mod 2`` with the values 1 and -1. With the squared loss ``(p - y)^2 / 2`` and all points
    equally likely, the variance of the gradient is ``E|g|^2 / 2^n - |g(0)|^2 / 4^n`` with ``g`` the gradient of the
    prediction: at the point 0 all parities are 1.

    The domain is {0, 1}^n: ``S . x mod 2`` of a point with entries -1 and 1 would be another function than the product
    of the entries in S. Such points come into it as ``(1 - x) / 2``.

    Raises
    ------
    InputError
        ``n`` is below 1, or above 20; on evaluation, a point has an entry that is neither 0 nor 1.
    """
    count = check.count(n, "n", 1)
    if count > 20:
        raise InputError(f"n is {count}; all 2^n parities are enumerated, which ends at n = 20")
    return TargetClass(
        f"parities of {count} bits",
        _parity,
        members=lwe.secrets(count, 2, kind="binary"),
        q=2,
        values=(1.0, -1.0),
    )


def _parity(points: AnyArray, members: AnyArray) -> AnyArray:
    outside = (points != 0) & (points != 1)
    if outside.any():
        row, column = np.unravel_index(int(np.argmax(outside)), points.shape)
        raise InputError(
            f"points[{row}, {column}] is {points[row, column]}; parities are functions on {{0, 1}}^n: "
            "map -1 and 1 there with (1 - x) / 2"
        )
    return lwe.labels(points, members, 2).T


def high_frequency(A: int, kind: str = "sawtooth") -> TargetClass:
    """Periodic functions on [0, 1] of the integer frequencies a in [1, A), all equally likely.

    Parameters
    ----------
    A : int
        At least 2; there are A - 1 functions.
    kind : {"sawtooth", "cosine"}
        ``"sawtooth"``: the fractional part ``{a x}``, of mean 1/2 and with
        ``<{ax} - 1/2, {bx} - 1/2> = gcd(a, b)^2 / (12 a b)``. ``"cosine"``: ``cos(2 pi a x)``, which are orthogonal.

    Returns
    -------
    TargetClass
        With real values, so it has no pairwise dependence. The functions are close to orthogonal, and the variance of
        the gradient falls like 1 / A.
    """
    top = check.count(A, "A", 2)
    check.one_of(kind, ("sawtooth", "cosine"), "kind")
    wave = _sawtooth if kind == "sawtooth" else _cosine
    return TargetClass(f"{kind} waves of frequency below {top}", wave, members=np.arange(1, top))


def _one_coordinate(points: AnyArray) -> AnyArray:
    if points.shape[1] != 1:
        raise InputError(f"waves are functions of one number; the points have {points.shape[1]} coordinates")
    return np.asarray(points, np.float64)


def _sawtooth(points: AnyArray, frequencies: AnyArray) -> AnyArray:
    return np.asarray(np.mod(_one_coordinate(points) * frequencies, 1.0))


def _cosine(points: AnyArray, frequencies: AnyArray) -> AnyArray:
    return np.asarray(np.cos(2 * np.pi * _one_coordinate(points) * frequencies))
