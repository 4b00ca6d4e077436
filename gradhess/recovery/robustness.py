"""What an adversary who moves the inputs can do to a linear regression."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from gradhess import _validation as check
from gradhess.errors import InputError
from gradhess.recovery.arguments import symmetric, vector

_DUAL: Final = {1.0: np.inf, 2.0: 2.0, np.inf: 1.0}
"""The order of the dual norm."""


def adversarial_risk(
    coef: Any, hessian: Any, residual_variance: float, epsilon: float, norm: Any = 2
) -> float:
    """Expected squared error of ``x . coef`` if every input may be moved by at most epsilon in a norm.

    ``V + 2 eps |w|_* sqrt(2 V / pi) + eps^2 |w|_*^2`` for Gaussian inputs and noise, with the residual variance V and
    the dual norm ``|w|_*``: of 2 it is 2, of infinity 1, of 1 infinity. For "mahalanobis" (``delta^T Sigma^-1 delta <=
    eps^2``) it is ``sqrt(w^T Sigma w)``, for which a recovered Hessian is needed.

    Parameters
    ----------
    coef : array_like, shape (d,)
        w.
    hessian : HessianEstimate, array_like of shape (d, d), or None
        ``Sigma = E[x x^T]``; of an estimate its ``second_moment``, whatever the reduction, and not its ``hessian``. A
        matrix must be Sigma itself: the Hessian of "half_mean", but half that of "mean". Used by "mahalanobis" alone,
        checked for every norm.
    residual_variance : float
        V, the mean squared residual without an adversary: excess risk q plus noise variance.
    epsilon : float
        Of the ball, in the unit of the inputs; of "mahalanobis" in standard deviations.
    norm : {2, inf, 1, "mahalanobis"}

    Raises
    ------
    InputError
        An unknown norm, no Hessian where one is needed, one of another shape, or one in which ``w^T Sigma w`` is
        negative.
    """
    w = vector(coef, "coef")
    V = check.nonnegative(residual_variance, "residual_variance")
    eps = check.nonnegative(epsilon, "epsilon")
    Sigma = None
    if hessian is not None:
        Sigma = symmetric(getattr(hessian, "second_moment", hessian), "hessian", len(w))
    if isinstance(norm, str) and norm == "mahalanobis":
        if Sigma is None:
            raise InputError("norm='mahalanobis' needs the Hessian; pass recover_hessian(...) or a matrix")
        form = float(w @ Sigma @ w)
        if form < 0:
            raise InputError(f"w^T Sigma w is {form:.3g}: hessian is not positive semidefinite along coef")
        dual = math.sqrt(form)
    elif isinstance(norm, (int, float, np.integer, np.floating)) and norm in _DUAL and norm is not True:
        dual = float(np.linalg.norm(w, _DUAL[float(norm)]))
    else:
        raise InputError(f"norm is {norm!r}; it must be 2, numpy.inf, 1 or 'mahalanobis'")
    return V + 2 * eps * dual * math.sqrt(2 * V / math.pi) + eps**2 * dual**2
