"""The coefficients: least squares from the moments of the first pass, other losses by damped Newton steps.

A Newton step (iteratively reweighted least squares) takes one pass over the rows, which brings loss, gradient and
Hessian of the trial point together. A step that does not lower the loss is halved. The fit ends when the Newton
decrement ``sqrt(g^T H^-1 g)``, which is the distance to the optimum in units of its own standard error, is negligible
(Boyd and Vandenberghe, *Convex Optimization*, 2004, section 9.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess._gradients import glm_gradients
from gradhess._gradients.glm import GlmGradients
from gradhess._regression.design import Design
from gradhess._regression.pieces import Reader
from gradhess.errors import InputError, NonFiniteError
from gradhess.losses import Loss

MAX_PASSES: Final = 100
DECREMENT_TOLERANCE: Final = 1e-8
"""In standard errors."""
SUFFICIENT_DECREASE: Final = 1e-4
ROUNDING_OF_LOSS: Final = 1e-11
"""Two losses closer than this, relatively, are not told apart."""
SMALLEST_STEP: Final = 2.0**-30
SEPARATION: Final = 1e-8
"""A direction in which the Hessian is this flat, beside the second moment of the features, has no finite optimum."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Coefficients in the standardised basis; for softmax one row for each class but the first, else one row."""

    theta: Float64Array
    """(m, p): m = 1, or k - 1 for softmax, whose class 0 has zero coefficients."""
    bread: Float64Array
    """(m p, m p): Hessian of the summed loss at theta."""
    n_iterations: int
    converged: bool
    warning: str | None
    separated: bool = False
    """Whether the features separate the classes, so that the loss has no finite optimum."""


def gradients_at(
    design: Design, loss: Loss, theta: Float64Array, z: Float64Array, y: Float64Array
) -> GlmGradients:
    """Gradients of the rows (z, y) in the standardised basis at ``theta`` (m, p)."""
    d = design.kept.size
    rows = np.vstack([np.zeros_like(theta[:1]), theta]) if loss.name == "softmax" else theta
    coef, offset = rows[:, :d], rows[:, d] if design.intercept else None
    if loss.name == "softmax":
        return glm_gradients(z, y, coef, loss, intercept=offset)
    return glm_gradients(z, y, coef[0], loss, intercept=None if offset is None else offset[0])


def least_squares(design: Design) -> Solution:
    """Solve the normal equations of the moments."""
    theta = np.asarray(np.linalg.solve(design.gram, design.target_moment), np.float64)
    return Solution(theta[np.newaxis], design.n_rows * design.gram, 0, True, None)


@dataclass(frozen=True, slots=True)
class _Point:
    """Loss, gradient (m p,) and Hessian (m p, m p) at theta (m, p)."""

    theta: Float64Array
    loss: float
    gradient: Float64Array
    hessian: Float64Array

    def newton_step(self) -> tuple[Float64Array, float]:
        """The step (m, p), and the squared Newton decrement. A flat Hessian is lifted until it can be factorised."""
        lift = 0.0
        size = float(np.trace(self.hessian)) / self.gradient.size
        while True:
            try:
                factor = np.linalg.cholesky(self.hessian + lift * size * np.eye(self.gradient.size))
            except np.linalg.LinAlgError:
                lift = max(10 * lift, 1e-10)
                if lift > 1 or size == 0:
                    raise InputError(
                        "the Hessian of the loss is not positive; the model cannot be fitted"
                    ) from None
                continue
            half = np.linalg.solve(factor, -self.gradient)
            step = np.linalg.solve(factor.T, half)
            return step.reshape(self.theta.shape), float(half @ half)


def newton(reader: Reader, design: Design, loss: Loss) -> Solution:
    """Minimise the summed loss; ``converged`` is False if ``MAX_PASSES`` were not enough."""
    point = _evaluate(reader, design, loss, _start(design, loss), "start")
    if point is None:
        raise InputError(f"the {loss.name} loss overflows at the start; scale the target")
    slack = ROUNDING_OF_LOSS * abs(point.loss)
    n_passes, n_iterations, stride = 1, 0, 1.0
    step, decrement = point.newton_step()
    while decrement > DECREMENT_TOLERANCE**2 and n_passes < MAX_PASSES and stride >= SMALLEST_STEP:
        n_passes += 1
        title = f"Newton {n_iterations + 1}" + (f" (step / {1 / stride:.0f})" if stride < 1 else "")
        trial = _evaluate(reader, design, loss, point.theta + stride * step, title)
        if trial is None or trial.loss > point.loss - SUFFICIENT_DECREASE * stride * decrement + slack:
            stride /= 2
            continue
        point, stride, n_iterations = trial, 1.0, n_iterations + 1
        step, decrement = point.newton_step()
    converged = decrement <= DECREMENT_TOLERANCE**2
    separated = loss.name in ("logistic", "softmax") and _separated(design, point)
    warning = None if converged else "the fit did not converge; do not trust the standard errors"
    if separated:
        warning = (
            "the features separate the classes (almost) perfectly, so the coefficients have no finite optimum"
        )
    return Solution(point.theta, point.hessian, n_iterations, converged, warning, separated)


def _start(design: Design, loss: Loss) -> Float64Array:
    """Where Newton begins: the mean of the target alone, and for huber the least-squares fit."""
    if loss.name == "huber":
        return least_squares(design).theta
    counts = design.target.class_counts
    theta = np.zeros((counts.size - 1 if counts is not None else 1, design.n_parameters))
    if design.intercept:
        mean = design.target_moment[-1]
        theta[:, -1] = np.log(mean) if counts is None else np.log(counts[1:] / counts[0])
    return theta


def _evaluate(reader: Reader, design: Design, loss: Loss, theta: Float64Array, title: str) -> _Point | None:
    """One pass at ``theta``; None if something overflows there."""
    skipped = design.n_parameters if loss.name == "softmax" else 0  # the coefficients of class 0 are fixed
    n_parameters = theta.size + skipped
    total = 0.0
    gradient, hessian = np.zeros(n_parameters), np.zeros((n_parameters, n_parameters))
    passes = reader.read(title, n_parameters)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            for piece in passes:
                g = gradients_at(design, loss, theta, design.standardise(piece), piece[:, -1])
                total += g.loss()
                gradient += g.sum()
                hessian += g.hessian()
    except NonFiniteError:
        return None
    if not (np.isfinite(total) and np.isfinite(hessian).all()):
        return None
    return _Point(theta, total, gradient[skipped:], hessian[skipped:, skipped:])


def _separated(design: Design, point: _Point) -> bool:
    # Beside n * gram, the Hessian of data that are not separated is of the order of the rarest class's share.
    root = np.linalg.inv(np.linalg.cholesky(design.gram))
    p = design.n_parameters
    flattest = min(
        float(np.linalg.eigvalsh(root @ point.hessian[i : i + p, i : i + p] @ root.T)[0])
        for i in range(0, point.gradient.size, p)
    )
    return flattest < SEPARATION * design.n_rows
