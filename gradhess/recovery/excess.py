"""Excess risk and noise of the targets, from gradients alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError
from gradhess.recovery.calibration import gradient_factor
from gradhess.recovery.estimate import HessianEstimate


@dataclass(frozen=True, slots=True)
class ExcessRisk:
    """In the unit of the targets, squared."""

    q: float
    """``delta^T Sigma delta``, the mean squared error beyond that of the best coefficients. Unbiased to leading order,
    so it may come out negative where it is small."""
    noise_variance: float
    """Of the targets about the best linear prediction, the injected noise left out."""
    n_pairs: int


def excess_risk(est: HessianEstimate) -> ExcessRisk:
    """How far from the optimum the gradients were taken, and how noisy the targets are, from antithetic pairs alone.

    With the M pair means c (of a loss half_mean), their covariance A, the inverse S of the recovered Sigma, shrunk by
    ``(M - d - 1) / M``, and ``tau = tr(S A)``: ``q = mean(c)^T S mean(c) - tau / M`` and ``noise_variance =
    n tau / d - q (1 + 1 / d)``; the last for Gaussian features.

    Parameters
    ----------
    est : HessianEstimate
        Of the method antithetic, with more than d + 1 pairs.

    Raises
    ------
    InputError
        Another method, or too few pairs.
    """
    check.instance(est, HessianEstimate, "est")
    if est.pair_means is None:
        raise InputError(f"est is of the method {est.method!r}; the excess risk needs 'antithetic'")
    M, d = est.n_gradients // 2, est.n_params
    if d + 1 >= M:
        raise InputError(f"{M} pairs are too few for {d} parameters: more than d + 1 = {d + 1} are needed")
    n = est.batch_size * est.n_targets
    scale = gradient_factor(est.reduction, n) * n
    mean = np.asarray(est.pair_means.location_) / scale
    A = np.asarray(est.pair_means.covariance_) / scale**2
    inverse = np.linalg.pinv(est.second_moment, hermitian=True) * ((M - d - 1) / M)
    tau = float(np.trace(inverse @ A))
    q = float(mean @ inverse @ mean) - tau / M
    return ExcessRisk(q, n * tau / d - q * (1 + 1 / d), M)


def bias_of_covariance(
    hessian: Float64Array, mean: Float64Array, total_noise: float, factor: float, n: int, m: int
) -> float:
    """``2 q / sigma^2`` for a Hessian that is the scaled covariance of m gradients of mean ``mean``.

    q is told from the same gradients. With the true Hessian H, ``mean^T H^-1 mean = a n q``; the covariance is larger
    along the mean by ``1 + 2 q / sigma^2``, which is divided out, and the mean and the inverse of a covariance of m
    vectors add ``d / m`` and a factor ``(m - d - 2) / (m - 1)``.
    """
    d = len(mean)
    if m <= d + 2:
        return math.inf
    values, vectors = np.linalg.eigh(hessian)
    if values[0] <= d * np.finfo(np.float64).eps * values[-1]:
        return math.inf
    along = vectors.T @ mean
    form = float(along @ (along / values)) * ((m - d - 2) / (m - 1))
    noise = total_noise * factor  # the covariance of the mean is noise * hessian / m
    t = max(form - noise * d / m, 0.0) / (factor * n)
    left = 1 - 2 * t / total_noise
    return 2 * t / total_noise / left if left > 0 else math.inf
