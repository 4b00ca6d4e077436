"""The covariance of noised batch gradients, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError
from gradhess.recovery.arguments import symmetric, vector
from gradhess.recovery.calibration import gradient_factor


def gradient_covariance_theory(
    Sigma: Any,
    delta: Any,
    *,
    batch_size: int,
    noise_variance: float,
    existing: float = 0.0,
    kurtosis: float = 3.0,
    population: int | None = None,
    reduction: str = "half_mean",
) -> Float64Array:
    """Covariance (d, d) of a batch gradient of least squares with noise on the targets; an identity, no approximation.

    For half_mean ``(s^2 / n) Sigma + f (existing Sigma + K) / n``, with ``R = Sigma^(1/2)``, ``a = R delta`` and
    ``K = R (|a|^2 I + a a^T + (k - 3) diag(a^2)) R``; for Gaussian features ``K = q Sigma + Sigma delta delta^T Sigma``
    with the excess risk ``q = delta^T Sigma delta``. ``f`` is 1, or ``(N - n) / (N - 1)`` without replacement.

    Parameters
    ----------
    Sigma : array_like, shape (d, d)
        ``E[x x^T]``; x = R z with independent entries of z, of mean 0.
    delta : array_like, shape (d,)
        w - w*: how far the parameters are from the optimum.
    batch_size : int
        n.
    noise_variance, existing : float
        s^2, the variance of the noise that is injected, fresh in every batch; and of that which the targets have.
    kurtosis : float
        k, of the entries of z: 3 of Gaussian ones, 1 of signs (Rademacher).
    population : int, optional
        N, where a batch is drawn without replacement from N rows; what belongs to the rows then varies less.
    reduction : {"half_mean", "mean", "half_sum", "sum"}
        The covariance is ``(a n)^2`` times that of half_mean, with ``a`` as in ``gradhess.recovery.calibration``.

    Raises
    ------
    InputError
        Shapes that do not agree, a negative variance, a kurtosis below 1 (there is none), a population below n.
    """
    matrix = symmetric(Sigma, "Sigma")
    w = vector(delta, "delta", len(matrix))
    n = check.count(batch_size, "batch_size", 1)
    injected = check.nonnegative(noise_variance, "noise_variance")
    inherent = check.nonnegative(existing, "existing")
    if check.positive(kurtosis, "kurtosis") < 1:
        raise InputError(f"kurtosis is {kurtosis}; it is at least 1 for any distribution")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -len(matrix) * np.finfo(np.float64).eps * abs(values[-1]):
        raise InputError(f"Sigma has the negative eigenvalue {values[0]:.3g}; a second moment has none")
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    a = root @ w
    middle = a @ a * np.eye(len(a)) + np.outer(a, a) + (kurtosis - 3) * np.diag(a * a)
    share = 1.0
    if population is not None:
        N = check.count(population, "population", max(n, 2))
        share = (N - n) / (N - 1)
    covariance = (injected * matrix + share * (inherent * matrix + root @ middle @ root)) / n
    return np.asarray((gradient_factor(reduction, n) * n) ** 2 * covariance)
