"""A loss of your own, compiled and run in the same kernels: log-cosh regression on data with outliers."""

from __future__ import annotations

import math

import numpy as np

import gradhess as gh


def value(eta: float, y: float) -> float:
    size = abs(eta - y)  # log cosh, written so that it does not overflow
    return size + math.log1p(math.exp(-2.0 * size)) - math.log(2.0)


def derivative(eta: float, y: float) -> float:
    return math.tanh(eta - y)


def second(eta: float, y: float) -> float:
    return 1.0 - math.tanh(eta - y) ** 2


def main() -> None:
    log_cosh = gh.losses.custom(derivative, value=value, second=second)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 3))
    truth = np.array([1.0, -2.0, 0.5])
    y = X @ truth + 0.3 * rng.normal(size=20_000)
    outlier = rng.uniform(size=20_000) < 0.05
    y[outlier] += 50.0 * X[outlier, 0]

    least_squares = np.linalg.lstsq(X, y)[0]
    coef = least_squares
    bound = gh.weighted_gram(X)  # the second derivative is at most 1, so every such step lowers the loss
    for _ in range(40):
        g = gh.glm_gradients(X, y, coef, log_cosh)
        coef = coef - np.linalg.solve(bound, g.sum())
    g = gh.glm_gradients(X, y, coef, log_cosh)
    bread = np.linalg.inv(g.hessian())
    errors = np.sqrt(np.diag(bread @ g.gram() @ bread))
    print("truth:        ", truth)
    print("least squares:", np.round(least_squares, 3))
    print("log-cosh:     ", np.round(coef, 3), "robust s.e.", np.round(errors, 4))
    print(f"mean loss {g.loss() / len(y):.6f}, largest mean gradient {np.abs(g.mean()).max():.1e}")


if __name__ == "__main__":
    main()
