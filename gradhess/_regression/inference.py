"""The last pass: outer products of the gradients at the solution, and standard errors from them.

=============  ===================================================================================================
classical      squared: ``s^2 H^-1``, ``s^2 = RSS / (n - p)``; logistic, poisson, softmax: ``H^-1``; huber:
               ``(sum psi^2 / (n - p)) / (mean psi')^2  (X~^T X~)^-1`` (Huber, *Robust regression*, 1973)
robust, HC0    ``H^-1 M H^-1``, ``M = sum g_i g_i^T`` (Huber 1967; White 1980)
robust, HC1    HC0 times ``n / (n - p)`` (MacKinnon and White 1985)
=============  ===================================================================================================

with the Hessian H of the summed loss and the gradients g_i of the rows, both at the solution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess._gradients import glm_gradients
from gradhess._regression.design import Design
from gradhess._regression.pieces import Reader
from gradhess._regression.solve import Solution, gradients_at
from gradhess._streaming import StreamingCovariance
from gradhess.losses import Loss


@dataclass(frozen=True, slots=True)
class Sandwich:
    """Covariances of the coefficients in the units of the data, (m p, m p), and what else the last pass found."""

    classical: Float64Array
    hc0: Float64Array
    gradient_covariance: Float64Array
    """(m p, m p): covariance of the gradients in the standardised basis, divided by n."""
    loss: float
    """Summed over the rows."""


def sandwich(
    reader: Reader,
    design: Design,
    loss: Loss,
    solution: Solution,
    gradients: StreamingCovariance | None = None,
) -> Sandwich:
    """Read the rows once more, at the solution.

    ``gradients``, if given, collects the gradients with respect to the coefficients in the units of the data (the
    kept features, then the intercept; for softmax for every class).
    """
    theta = solution.theta
    skipped = design.n_parameters if loss.name == "softmax" else 0
    in_basis = StreamingCovariance()
    total = psi_squares = psi_slopes = 0.0
    for piece in reader.read("gradient products", theta.size + skipped):
        z, y = design.standardise(piece), piece[:, -1]
        g = gradients_at(design, loss, theta, z, y)
        in_basis.partial_fit(g)
        total += g.loss()
        if loss.name == "huber":
            eta = z @ theta[0, : z.shape[1]] + (theta[0, -1] if design.intercept else 0.0)
            psi_squares += float(np.square(loss.derivative(eta, y)).sum())
            psi_slopes += float(loss.second_derivative(eta, y).sum())
        if gradients is not None:
            gradients.partial_fit(_in_units(design, loss, theta, piece))

    n, p = design.n_rows, theta.size
    inverse = np.linalg.inv(solution.bread)
    meat = n * np.asarray(in_basis.second_moment_)[skipped:, skipped:]
    if loss.name == "squared":
        classical = 2 * total / (n - p) * inverse
    elif loss.name == "huber":
        classical = psi_squares / (n - p) * (n / psi_slopes) ** 2 * np.linalg.inv(n * design.gram)
    else:
        classical = inverse
    to_units = np.kron(np.eye(theta.shape[0]), design.jacobian())
    return Sandwich(
        classical=to_units @ classical @ to_units.T,
        hc0=to_units @ inverse @ meat @ inverse @ to_units.T,
        gradient_covariance=np.asarray(in_basis.covariance_)[skipped:, skipped:],
        loss=total,
    )


def _in_units(design: Design, loss: Loss, theta: Float64Array, piece: Float64Array) -> object:
    """Gradients of a piece with respect to the coefficients in the units of the data."""
    d = design.kept.size
    rows = theta @ design.jacobian().T
    if loss.name == "softmax":
        rows = np.vstack([np.zeros_like(rows[:1]), rows])
    X = piece[:, :-1] if d == piece.shape[1] - 1 else piece[:, design.kept]
    offset = rows[:, d] if design.intercept else None
    if loss.name == "softmax":
        return glm_gradients(X, piece[:, -1], rows[:, :d], loss, intercept=offset)
    return glm_gradients(X, piece[:, -1], rows[0, :d], loss, intercept=None if offset is None else offset[0])
