"""Newton-like steps with a recovered Hessian."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator

from gradhess import _validation as check
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError
from gradhess.recovery.arguments import symmetric, vector
from gradhess.recovery.receiver import HessianReceiver


class Preconditioner(LinearOperator):  # type: ignore[misc]  # SciPy has no types
    """``(H + ridge I)^-1`` as a SciPy ``LinearOperator`` of shape (d, d): ``M=`` of its solvers, or ``P @ g``.

    Attributes
    ----------
    matrix : (d, d)
        ``H + ridge I``.
    ridge : float
    """

    def __init__(self, matrix: Float64Array, ridge: float) -> None:
        self.matrix = matrix
        self.ridge = ridge
        self._factor = cho_factor(matrix, lower=True)
        super().__init__(np.dtype(np.float64), matrix.shape)

    def step(self, grad: Any) -> Float64Array:
        """``(H + ridge I)^-1 grad`` (d,): subtract it from the parameters, times a step size (1 if H is calibrated)."""
        return np.asarray(cho_solve(self._factor, vector(grad, "grad", len(self.matrix))))

    def _matvec(self, x: AnyArray) -> Float64Array:
        return np.asarray(cho_solve(self._factor, x))

    _matmat = _rmatvec = _rmatmat = _matvec


def preconditioner(est_or_matrix: Any, ridge: float | str = "auto") -> Preconditioner:
    """The inverse of a Hessian plus a ridge, ready to multiply gradients.

    Parameters
    ----------
    est_or_matrix : HessianEstimate, HessianReceiver or array_like, shape (d, d)
        H, symmetric; of a receiver ``hessian_``.
    ridge : float or "auto"
        Added to the diagonal. "auto" is 0, unless H is an estimate from m of at most d + 1 gradients (pairs, of
        antithetic) or singular to rounding: then it is ``trace(H) / m``, about the size of the sampling error of an
        eigenvalue. An estimate without sampling error (orthogonal) gets one where it is singular only. A plain matrix
        does not say m; if it is singular to rounding, the ridge is ``sqrt(eps) trace(H) / d``, with which a rounding
        error of size eps in the gradient moves a step by sqrt(eps) at most, relative to the mean eigenvalue.

    Returns
    -------
    Preconditioner

    Raises
    ------
    InputError
        ``H + ridge I`` is not positive definite (to rounding); the message says what to do.

    Examples
    --------
    >>> P = preconditioner(est)
    >>> w -= P.step(gradient(w))
    """
    m: int | None
    exact = False
    if isinstance(est_or_matrix, HessianReceiver):
        matrix = symmetric(est_or_matrix.hessian_, "est_or_matrix")
        m = est_or_matrix.n_gradients_ - len(est_or_matrix.workers_) + 1  # one mean is as if from one worker
    else:
        matrix = symmetric(est_or_matrix, "est_or_matrix")
        m = getattr(est_or_matrix, "n_vectors", None)
        exact = getattr(est_or_matrix, "sampling_error", math.inf) == 0
    d = len(matrix)
    values = np.linalg.eigvalsh(matrix)
    zero = d * np.finfo(np.float64).eps * float(np.abs(values).max())
    if isinstance(ridge, str):
        if ridge != "auto":
            raise InputError(f"ridge is {ridge!r}; it must be a number or 'auto'")
        trace = max(float(np.trace(matrix)), 0.0)
        added = 0.0
        if m is not None:
            added = trace / m if (m <= d + 1 and not exact) or values[0] <= zero else 0.0
        elif abs(values[0]) <= zero:
            added = math.sqrt(np.finfo(np.float64).eps) * trace / d
    else:
        added = check.nonnegative(ridge, "ridge")
    if values[0] + added <= zero:
        if values[0] < -zero:
            raise InputError(
                f"the Hessian is indefinite (smallest eigenvalue {values[0]:.3g}); use method='antithetic', or pass a "
                f"ridge above {-values[0]:.3g}"
            )
        raise InputError(
            f"the Hessian is singular (eigenvalues {values[0]:.3g} to {values[-1]:.3g}); use more than d + 1 = {d + 1} "
            "gradients, leave out columns that depend on others, or pass a ridge"
        )
    return Preconditioner(matrix + added * np.eye(d), added)
