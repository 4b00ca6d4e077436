"""How far an estimate is from its target, in units that no scaling of the features changes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError
from gradhess.recovery.arguments import symmetric


def whitened_error(estimate: Any, target: Any) -> float:
    """``|T^(-1/2) E T^(-1/2) - I|_2``: the largest relative error of a quadratic form ``v^T E v`` against ``v^T T v``.

    Parameters
    ----------
    estimate : HessianEstimate or array_like, shape (d, d)
        E, symmetric; it may be singular or indefinite. Of an estimate its ``hessian``, in the scale of its loss.
    target : array_like, shape (d, d)
        T, symmetric and positive definite, in the same scale: for an estimate the Hessian of its ``reduction``, as
        ``LinearRegressionOracle.hessian()`` gives it (of "mean" ``2 E[x x^T]``). Where E[x x^T] is what you have, pass
        ``est.second_moment`` as the estimate.

    Raises
    ------
    InputError
        Shapes that do not agree, or a target that is not positive definite.
    """
    values = _relative_eigenvalues(estimate, target)
    return float(max(abs(values[0] - 1), abs(values[-1] - 1)))


def best_scale_error(estimate: Any, target: Any) -> float:
    """The whitened error of the best multiple of the estimate: what is left if only the shape counts.

    ``(hi - lo) / (hi + lo)`` with the extreme eigenvalues of ``T^(-1/2) E T^(-1/2)``, at the scale ``2 / (hi + lo)``;
    1 where the estimate is singular or indefinite, as then no scale is better than 0. Arguments and errors as of
    ``whitened_error``.
    """
    values = _relative_eigenvalues(estimate, target)
    low, high = float(values[0]), float(values[-1])
    return (high - low) / (high + low) if low > 0 else 1.0


def sampling_error(n_params: int, n_gradients: int, batch_size: int | None = None) -> float:
    """``2 sqrt((1 + 2 / n) d / m) + (1 + 4 / n) d / m``: the whitened error of a Hessian from m noised gradients.

    Parameters
    ----------
    n_params, n_gradients : int
        d and m.
    batch_size : int, optional
        n, of Gaussian features. None for gradients that are Gaussian themselves, as of one batch with fresh noise or
        of large n: ``2 sqrt(d / m) + d / m``, the upper edge of the Marchenko-Pastur law.

    Notes
    -----
    Given its noise, the gradient ``sum_i xi_i x_i`` of n Gaussian rows is Gaussian with covariance ``t Sigma``, where t
    is a chi-square of n degrees over n: ``E t^2 = 1 + 2 / n`` and ``E t^3 = (1 + 2 / n) (1 + 4 / n)``. The edge of
    ``mean(t z z^T)`` is the minimum over w of ``1 / w + E[t / (1 - t w d / m)]``, here to second order in sqrt(d / m).
    Heavy-tailed features have a larger error, which gradients do not tell: at n = 10 with entries of Student's t with
    3 degrees of freedom, d = 10 and m = 4000 it is about 1.7 times the prediction.
    """
    ratio = check.count(n_params, "n_params", 1) / check.count(n_gradients, "n_gradients", 1)
    inverse = 0.0 if batch_size is None else 1 / check.count(batch_size, "batch_size", 1)
    return 2 * math.sqrt((1 + 2 * inverse) * ratio) + (1 + 4 * inverse) * ratio


def _relative_eigenvalues(estimate: Any, target: Any) -> Float64Array:
    """Eigenvalues of ``T^(-1/2) E T^(-1/2)``, ascending."""
    wanted = symmetric(target, "target")
    found = symmetric(estimate, "estimate", len(wanted))
    try:
        values = scipy.linalg.eigh(found, wanted, eigvals_only=True)
    except np.linalg.LinAlgError:
        raise InputError(
            "target is not positive definite, so nothing can be measured in its units; leave out the columns that "
            "depend on the others"
        ) from None
    return np.asarray(values)
