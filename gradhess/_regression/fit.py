"""The fit from end to end."""

from __future__ import annotations

import numpy as np

from gradhess import _validation as check
from gradhess._backends.protocol import Float64Array
from gradhess._regression import solve
from gradhess._regression.design import INTERCEPT, Design, scan
from gradhess._regression.inference import sandwich
from gradhess._regression.pieces import Progress, Reader, Source
from gradhess._regression.result import Regression
from gradhess._streaming import StreamingCovariance
from gradhess.losses import Loss


def fit(
    source: Source,
    loss: Loss | str = "squared",
    *,
    intercept: bool = True,
    gradients: StreamingCovariance | None = None,
    progress: Progress | None = None,
) -> Regression:
    """Minimise ``sum_i l(x_i . w + b, y_i)`` over the rows of a source, and estimate the error of the minimum.

    Parameters
    ----------
    source : Source
        Re-iterable chunks ``(X, y)``. Results have the same bits for any chunking.
    loss : str or Loss
        Any of ``gradhess.losses`` with a second derivative.
    intercept : bool
        Whether there is a b.
    gradients : StreamingCovariance, optional
        Collects the per-sample gradients at the solution, in the units of the data; parameters are the features that
        were kept, then the intercept (softmax: for every class, class 0 included).
    progress : Progress, optional
        Is told about every pass.

    Returns
    -------
    Regression

    Raises
    ------
    InputError
        No rows, fewer rows than parameters, a target outside the domain of the loss, no feature that varies, or a
        source that can be read only once.
    ResultTooLargeError
        The moments would not fit in memory.
    """
    resolved = check.resolve_loss(loss)
    reader = Reader(source, progress)
    design = scan(reader, resolved, intercept=intercept)
    squared = resolved.name == "squared"
    solution = solve.least_squares(design) if squared else solve.newton(reader, design, resolved)
    errors = sandwich(reader, design, resolved, solution, gradients)
    return Regression(
        loss=resolved.name,
        target_name=design.target_name,
        feature_names=design.feature_names,
        aliased=design.aliased,
        parameter_names=_parameter_names(design, solution),
        coefficients=(solution.theta @ design.jacobian().T).ravel(),
        classical_covariance=errors.classical,
        hc0_covariance=errors.hc0,
        n_rows=design.n_rows,
        summed_loss=errors.loss,
        r_squared=_r_squared(design, errors.loss) if squared else None,
        n_iterations=solution.n_iterations,
        converged=solution.converged,
        separated=solution.separated,
        warning=solution.warning,
        passes=tuple(reader.passes),
        covariance_eigenvalues=_eigenvalues(design.covariance),
        correlation_eigenvalues=_eigenvalues(_correlation(design.covariance)),
        gradient_eigenvalues=_eigenvalues(_correlation(errors.gradient_covariance)),
    )


def _r_squared(design: Design, loss: float) -> float | None:
    """None where the target is constant, so that there is nothing to explain."""
    return 1 - 2 * loss / design.target_square if design.target_square > 0 else None


def _parameter_names(design: Design, solution: solve.Solution) -> tuple[str, ...]:
    one = (*design.feature_names, INTERCEPT) if design.intercept else design.feature_names
    n_predictors = solution.theta.shape[0]
    if n_predictors == 1:
        return one
    return tuple(f"{number}: {name}" for number in range(1, n_predictors + 1) for name in one)


def _correlation(covariance: Float64Array) -> Float64Array:
    """Entries without variance (a constant column beside no intercept) stay zero."""
    variances = np.diag(covariance)
    inverse_scale = np.zeros_like(variances)
    np.divide(1.0, np.sqrt(variances), out=inverse_scale, where=variances > 0)
    return covariance * inverse_scale * inverse_scale[:, np.newaxis]


def _eigenvalues(matrix: Float64Array) -> Float64Array:
    """Descending; those that rounding made negative are zero."""
    return np.asarray(np.maximum(np.linalg.eigvalsh(matrix)[::-1], 0.0))
