"""Where batch gradients come from: an interface of four names, and least squares on arrays."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess._gradients import glm_gradients, grouped
from gradhess.errors import InputError, InputTypeError
from gradhess.recovery.arguments import BATCHES, random_stream
from gradhess.recovery.calibration import gradient_factor


class GradientOracle(Protocol):
    """What ``recover_hessian`` asks: gradients of a squared loss on batches whose targets are shifted by given noise.

    Further names are used where they are there: ``existing_noise`` (variance known to be in the targets, 0 by
    default), ``reduction`` ("half_mean" by default), ``n_targets`` (targets of one sample, 1 by default; else the noise
    of a batch has shape (batch_size, n_targets)), and to save time ``draw_batches(count)``, an array with a batch in
    each row, with ``gradients(batches, target_noise)``, (count, n_params), for many batches in one call. It may
    write to the noise, and use the array that it returned again.
    """

    @property
    def batch_size(self) -> int:
        """n, samples in a batch."""

    @property
    def n_params(self) -> int:
        """d, the length of a gradient."""

    def draw_batch(self) -> Any:
        """A fresh batch, independent of all before."""

    def gradient(self, batch: Any, target_noise: Float64Array) -> Any:
        """(n_params,): the gradient on that batch with ``target_noise`` (batch_size,) added to its targets."""


class LinearRegressionOracle:
    """Batch gradients of least squares ``x . coef - y`` at fixed coefficients, on arrays in memory.

    Parameters
    ----------
    X : array_like, shape (N, d)
        Rows are samples. Copied once if it is not in C order, as batches read whole rows. What is recovered is
        ``E[x x^T]`` over these rows, not centred: for an intercept, append a column of ones.
    y : array_like, shape (N,)
        Real targets, to which noise can be added.
    coef : array_like, shape (d,)
        Where the gradients are taken.
    batch_size : int
        n.
    replace : bool
        Whether the rows of a batch are drawn with replacement. Batches are independent of each other in both cases.
    existing_noise : float
        Variance of the noise that is known to be in y.
    reduction : {"half_mean", "mean", "half_sum", "sum"}
        The loss of a batch; see ``gradhess.recovery.calibration``.
    rng : int, numpy.random.Generator or None
        Of the batches. The noise comes from ``recover_hessian``, whose stream differs also at the same seed.

    Raises
    ------
    InputError, InputTypeError
        Shapes that do not agree, values that are not finite, targets that are labels of two classes, or a batch larger
        than the data without replacement.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        coef: Any,
        *,
        batch_size: int,
        replace: bool = True,
        existing_noise: float = 0.0,
        reduction: str = "half_mean",
        rng: Any = None,
    ) -> None:
        data = np.ascontiguousarray(check.matrix(X, "X"))
        if not len(data):
            raise InputError(f"X has shape {data.shape}: there are no rows")
        check.finite(data, "X")
        targets = continuous_targets(y, data.shape)
        self.batch_size = check.count(batch_size, "batch_size", 1)
        check.flag(replace, "replace")
        if not replace and self.batch_size > len(data):
            raise InputError(
                f"batch_size is {self.batch_size}, but there are {len(data)} rows to draw without replacement"
            )
        self.replace = bool(replace)
        self.existing_noise = check.nonnegative(existing_noise, "existing_noise")
        self.reduction = reduction
        self._factor = gradient_factor(reduction, self.batch_size)
        self._gradients = glm_gradients(data, targets, coef)
        self._X = data
        self._residuals = np.asarray(self._gradients.slopes())
        self._rng = random_stream(rng, BATCHES)

    @property
    def n_params(self) -> int:
        """d."""
        return int(self._X.shape[1])

    @property
    def n_samples(self) -> int:
        """N."""
        return len(self._X)

    def hessian(self) -> Float64Array:
        """What the gradients are to tell: the Hessian ``a n X^T X / N`` of the expected loss, (d, d)."""
        return np.asarray(self._gradients.hessian()) * (self._factor * self.batch_size / len(self._X))

    def draw_batch(self) -> AnyArray:
        """(n,) numbers of rows."""
        return np.asarray(self.draw_batches(1)[0])

    def draw_batches(self, count: int) -> AnyArray:
        """(count, n) numbers of rows."""
        shape = (check.count(count, "count", 0), self.batch_size)
        if self.replace:
            return self._rng.integers(0, len(self._X), shape)
        return distinct_rows(self._rng, len(self._X), shape)

    def gradient(self, batch: Any, target_noise: Any) -> Float64Array:
        """(d,): ``a sum_i (r_i - noise_i) x_i`` over the rows of the batch."""
        rows = np.asarray(batch)
        noise = np.asarray(target_noise, np.float64)
        return np.asarray(self._factor * ((self._residuals[rows] - noise) @ self._X[rows]))

    def gradients(self, batches: Any, target_noise: Any) -> Float64Array:
        """(count, d) for (count, n) batches and noise, in one pass of the grouped kernel."""
        noise = -np.asarray(target_noise, np.float64)
        result = grouped(self._gradients, batches, shifts=noise, scale=self._factor).toarray()
        return np.asarray(result, np.float64)


def continuous_targets(y: Any, shape: tuple[int, ...]) -> Float64Array:
    """(N,) float64; refused where they are labels, on which noise is no noise of a measurement."""
    array = as_numpy(y, "y")
    if array.dtype == np.bool_:
        raise InputTypeError("y is boolean; noise can be added to real targets only, of a regression")
    targets = check.finite(check.per_row(array, "y", shape[0], shape), "y")
    refuse_labels(targets, "y")
    return targets


def refuse_labels(targets: Float64Array, name: str) -> None:
    """Of any shape, samples first: two values only, of more than two samples, are labels."""
    low, high = float(targets.min()), float(targets.max())
    if low < high and len(targets) > 2 and np.isin(targets, (low, high)).all():
        raise InputError(
            f"{name} holds two values only, {low:g} and {high:g}: labels of classes, not the targets of a regression"
        )


def distinct_rows(rng: np.random.Generator, n_rows: int, shape: tuple[int, int]) -> AnyArray:
    """(count, n) numbers below n_rows, all different within a row of the result: uniform over such sets."""
    count, n = shape
    if 2 * n > n_rows:
        return np.array([rng.permutation(n_rows)[:n] for _ in range(count)], np.int64).reshape(shape)
    # Draw one after the other and draw again what is there already: that is all of it, for a whole batch at a time.
    drawn = np.sort(rng.integers(0, n_rows, shape), axis=1)
    while True:
        again = np.zeros(shape, np.bool_)
        again[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        repeated = np.flatnonzero(again.any(axis=1))
        if not repeated.size:
            return drawn
        part = drawn[repeated]
        part[again[repeated]] = rng.integers(0, n_rows, int(again.sum()))
        drawn[repeated] = np.sort(part, axis=1)
