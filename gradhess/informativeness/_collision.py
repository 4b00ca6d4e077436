"""Collision entropy: how often two independent draws of the input are equal.

``E_c = -log sum_v p_v^2``, in nats (Renyi, *On measures of entropy and information*, 1961: the entropy of order 2).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from gradhess._arrays import as_numpy
from gradhess.errors import InputError
from gradhess.informativeness import _checks
from gradhess.informativeness._estimate import EntropyEstimate, counted

LOG_20: Final = math.log(20.0)
"""A Poisson count of mean log 20 is zero with probability 5%."""

FEW_COLLISIONS: Final = 20
"""Below this the standard error, about 1 / sqrt(collisions), is too large for the delta method to be trusted."""


def collision_entropy(p: Any) -> float:
    """``-log sum p^2`` of a distribution over finitely many values, in nats.

    Parameters
    ----------
    p : array_like, shape (n_values,)
        Weights of the values, divided here by their sum.

    Returns
    -------
    float
        From 0 (one value) to ``log n_values`` (all equally likely). It adds over independent coordinates.

    Raises
    ------
    InputError
        A weight is negative or not finite, or all are zero.
    """
    weights = _checks.probabilities(p, "p")
    return max(0.0, -math.log(math.fsum(weights * weights)))


def collision_entropy_from_samples(x: Any) -> EntropyEstimate:
    """Estimate the collision entropy of a distribution on discrete values from independent draws.

    Parameters
    ----------
    x : array_like, shape (n_samples,) or (n_samples, d)
        One draw a row. Two draws collide where all their entries are equal, so values of a density never do.

    Returns
    -------
    EntropyEstimate
        ``value`` is ``-log pi`` with ``pi = sum_v n_v (n_v - 1) / (N (N - 1))``, N the number of samples; ``pi`` is
        unbiased (the plug-in ``sum (n_v / N)^2`` is biased upwards by ``(1 - pi) / N``). Infinite where no two draws
        are equal: N must be well above ``exp(E_c / 2)`` for any to be seen.
        ``stderr`` is by the delta method, from the variance of a U-statistic (Hoeffding, 1948).

    Raises
    ------
    InputError
        There are fewer than two samples, or one is NaN.
    """
    samples = as_numpy(x, "x")
    if samples.ndim not in (1, 2) or samples.shape[0] < 2 or samples.size == 0:
        raise InputError(
            f"x has shape {samples.shape}; it must be (n_samples,) or (n_samples, d), two at least"
        )
    if samples.dtype.kind == "f" and np.isnan(samples).any():
        raise InputError("x holds NaN, which equals nothing; leave those samples out")
    counts = np.unique(samples, axis=0, return_counts=True)[1].astype(np.float64)
    n = float(samples.shape[0])
    pairs = n * (n - 1)
    pi = float((counts * (counts - 1)).sum()) / pairs
    collisions = round(pi * pairs / 2)
    if collisions == 0:
        bound = max(0.0, math.log(pairs / (2 * LOG_20)))
        note = (
            f"no two of {int(n):,} samples are equal, so the entropy is at least {bound:.3g} nats (95%); "
            f"take N well above exp(E_c / 2), here above {math.exp(bound / 2):,.0f}"
        )
        return EntropyEstimate(math.inf, math.nan, 0, int(n), bound, note)
    triples = float((counts * (counts - 1) * (counts - 2)).sum()) / (pairs * (n - 2)) if n > 2 else pi
    shared = max(0.0, triples - pi * pi)  # covariance of two pairs that have one sample in common
    variance = (4 * (n - 2) * shared + 2 * pi * (1 - pi)) / pairs
    note = (
        "" if collisions >= FEW_COLLISIONS else f"only {counted(collisions, 'collision')}: take more samples"
    )
    return EntropyEstimate(
        max(0.0, -math.log(pi)), math.sqrt(variance) / pi, collisions, int(n), math.nan, note
    )


def gaussian_collision_entropy(cov: Any) -> float:
    """Collision entropy ``-log integral rho^2`` of a Gaussian density, in nats.

    ``(d / 2) log 4 pi + (1/2) log det cov``. As of every density, it depends on the units, and may be negative.

    Parameters
    ----------
    cov : array_like, shape (d, d), or a number
        Covariance, symmetric and positive definite; a number is a variance, d = 1.

    Raises
    ------
    InputError
        ``cov`` is not square, not symmetric, not finite, or not positive definite: there is no density then.
    """
    array = as_numpy(cov, "cov")
    matrix = np.require(array.reshape(1, 1) if array.ndim == 0 else array, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise InputError(f"cov has shape {array.shape}; it must be (d, d), or a number for d = 1")
    if not np.isfinite(matrix).all():
        raise InputError("cov holds NaN or infinity")
    scale = float(np.abs(matrix).max())
    if (np.abs(matrix - matrix.T) > 1e3 * np.finfo(np.float64).eps * scale).any():
        raise InputError("cov is not symmetric")
    try:
        diagonal = np.diag(np.linalg.cholesky(matrix))
    except np.linalg.LinAlgError:
        raise InputError(
            "cov is not positive definite, so there is no density; drop the dependent columns"
        ) from None
    return float(0.5 * matrix.shape[0] * math.log(4 * math.pi) + np.log(diagonal).sum())
