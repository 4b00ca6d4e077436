"""What a fit returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess._regression.aliasing import Aliased
from gradhess._regression.pieces import Pass


@dataclass(frozen=True, slots=True)
class Regression:
    """A fitted model. Parameters: the kept features in order, then the intercept; for softmax class after class."""

    loss: str
    target_name: str
    feature_names: tuple[str, ...]
    """The features that were kept."""
    aliased: tuple[Aliased, ...]
    """The features that were left out, as constant or dependent on others."""
    parameter_names: tuple[str, ...]
    coefficients: Float64Array
    """(p,)"""
    classical_covariance: Float64Array
    """(p, p)"""
    hc0_covariance: Float64Array
    """(p, p): the sandwich."""
    n_rows: int
    summed_loss: float
    r_squared: float | None
    """Of least squares, about the mean if there is an intercept."""
    n_iterations: int
    """Newton steps; 0 for least squares."""
    converged: bool
    separated: bool
    """Whether the features separate the classes, so that there is no finite optimum and no standard errors."""
    warning: str | None
    passes: tuple[Pass, ...]
    covariance_eigenvalues: Float64Array
    """(d,): of the covariance of the kept features, in the units of the data, descending."""
    correlation_eigenvalues: Float64Array
    """(d,): of their correlation matrix."""
    gradient_eigenvalues: Float64Array
    """(p,): of the correlation matrix of the per-sample gradients at the solution, the features standardised."""

    @property
    def n_parameters(self) -> int:
        return self.coefficients.size

    @property
    def classical_errors(self) -> Float64Array:
        """(p,)"""
        return np.sqrt(np.diag(self.classical_covariance))

    @property
    def hc0_errors(self) -> Float64Array:
        """(p,)"""
        return np.sqrt(np.diag(self.hc0_covariance))

    @property
    def hc1_errors(self) -> Float64Array:
        """(p,): HC0 with the correction ``n / (n - p)`` of the variance."""
        return self.hc0_errors * float(np.sqrt(self.n_rows / (self.n_rows - self.n_parameters)))

    @property
    def z_values(self) -> Float64Array:
        """(p,): coefficients in units of their HC1 standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.coefficients / self.hc1_errors

    @property
    def seconds(self) -> float:
        """Of all passes."""
        return sum(item.seconds for item in self.passes)

    @property
    def condition_number(self) -> float:
        """Of the correlation matrix of the kept features."""
        return float(self.correlation_eigenvalues[0] / self.correlation_eigenvalues[-1])
