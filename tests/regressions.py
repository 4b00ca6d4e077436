"""Regression problems whose batches are drawn afresh from a distribution: no finite data set stands between theory and
gradients. ``batches`` are the features themselves, (count, n, d), and the noise that is in the targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
REDUCTIONS = {"half_mean": (1.0, 40.0), "mean": (2.0, 20.0), "half_sum": (40.0, 1.0), "sum": (80.0, 0.5)}
"""At n = 40: the Hessian over Sigma, and the variance that calibration needs."""


def spectrum(d: int, condition: float, seed: int = 0) -> Array:
    """A random symmetric matrix (d, d) with eigenvalues from 1 to 1 / condition, evenly spaced in their logarithm."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    return (basis * np.geomspace(1, 1 / condition, d)) @ basis.T


def delta_of_risk(Sigma: Array, q: float, seed: int = 1) -> Array:
    """A direction of random sign pattern with ``delta^T Sigma delta = q``."""
    delta = np.linalg.solve(root(Sigma), np.random.default_rng(seed).standard_normal(len(Sigma)))
    return delta * np.sqrt(q / (delta @ Sigma @ delta))


def root(Sigma: Array) -> Array:
    values, vectors = np.linalg.eigh(Sigma)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


@dataclass
class FreshOracle:
    """Least squares with x = R z, z of independent entries from ``draw(rng, shape)``."""

    Sigma: Array
    delta: Array
    batch_size: int
    noise: float = 0.0
    """Variance of the noise that is in the targets."""
    existing_noise: float = 0.0
    """What the oracle says of it."""
    reduction: str = "half_mean"
    seed: int = 0
    draw: Callable[[np.random.Generator, Any], Array] = field(
        default=lambda rng, shape: rng.standard_normal(shape)
    )
    draws: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([7, self.seed])
        self.root = root(self.Sigma)
        n = self.batch_size
        self.factor = {"half_mean": 1 / n, "mean": 2 / n, "half_sum": 1.0, "sum": 2.0}[self.reduction]

    @property
    def n_params(self) -> int:
        return len(self.Sigma)

    @property
    def hessian(self) -> Array:
        return self.factor * self.batch_size * self.Sigma

    def draw_batch(self) -> Array:
        return self.draw_batches(1)[0]

    def draw_batches(self, count: int) -> Array:
        self.draws += count
        d = self.n_params
        x = self.draw(self.rng, (count, self.batch_size, d)) @ self.root
        own = self.rng.standard_normal((count, self.batch_size, 1)) * np.sqrt(self.noise)
        return np.concatenate([x, own], axis=2)

    def gradient(self, batch: Array, target_noise: Array) -> Array:
        return self.gradients(batch[np.newaxis], target_noise[np.newaxis])[0]

    def gradients(self, batches: Array, target_noise: Array) -> Array:
        x, own = batches[..., :-1], batches[..., -1]
        residual = x @ self.delta - own - target_noise
        return self.factor * np.einsum("cn,cnd->cd", residual, x)


def off_centre(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """500 rows (X, y) that are not centred, and coefficients away from the optimum."""
    X = rng.standard_normal((500, 4)) @ np.diag([1.0, 0.5, 2.0, 0.1]) + np.array([0.0, 1.0, 0.0, 0.2])
    y = X @ np.array([1.0, -1.0, 0.5, 3.0]) + 0.5 * rng.standard_normal(500)
    return X, y, np.array([1.5, -1.0, 0.0, 2.0])


def finite_covariance(X: Array, r: Array, n: int, s2: float, *, replace: bool) -> Array:
    """The identity for rows drawn from a data set, which assumes nothing about it."""
    N = len(X)
    moment = X.T @ X / N
    rows = X * r[:, None]
    own = np.cov(rows, rowvar=False, ddof=0)
    return (s2 * moment + (1.0 if replace else (N - n) / (N - 1)) * own) / n
