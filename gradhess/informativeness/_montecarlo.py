"""The variance of the gradient over targets, from draws of targets and of inputs.

With m targets and two independent halves of n inputs, which all targets share, let ``g_i^1`` and ``g_i^2`` be the
gradients of target i on either half. Then

    ``V = (1/m) sum_i g_i^1 . g_i^2 - (1/(m(m-1))) sum_{i != j} g_i^1 . g_j^2``

has the expectation ``Var_h[G_h]``: the noise of the halves is independent, so no square of it is left. It equals
``sum_i c_i / (m - 1)``, ``c_i = (g_i^1 - mean) . (g_i^2 - mean)``, which is how it is computed.

Standard error: V is (but for terms of 1/m) the mean of ``Y(x, x', i)`` over the n inputs of one half, the n of the
other and the m targets, three crossed random factors. The variance of such a mean is the sum of seven components; those
of one factor are measured by the spread of the means over the two others, and components of two and three factors,
which these spreads count two and three times, are taken off by inclusion and exclusion (Searle, Casella and McCulloch,
*Variance components*, 1992). Where little is seen, the component of all three factors is nearly all there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gradhess import _memory, losses
from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError, InputTypeError
from gradhess.informativeness import _checks
from gradhess.informativeness._bounds import derivatives
from gradhess.informativeness._estimate import InformativenessEstimate, above_rounding
from gradhess.informativeness._inputs import Inputs
from gradhess.informativeness._targets import TargetClass
from gradhess.informativeness.models import Model, check_model, jacobian, predictions
from gradhess.losses import Loss

BLOCK_ROWS: Final = 512
"""Inputs of the first half whose products with the second exist at a time."""


def estimate_informativeness(
    model: Model,
    target_class: TargetClass,
    input_distribution: Any,
    *,
    n_targets: int,
    n_inputs: int,
    rng: Any,
    loss: Loss | str = losses.squared,
) -> InformativenessEstimate:
    """Unbiased estimate of the variance of the gradient over targets, where the class or the inputs are not enumerated.

    Parameters
    ----------
    model : object with ``predict(x)`` (n,) and ``jacobian(x)`` (n, p)
        See ``models``; ``gradhess.torch.DifferentiableModel`` for torch modules.
    target_class : TargetClass
    input_distribution : Inputs, or callable
        A distribution on points, or ``f(n, rng)`` giving n independent draws (n, d).
    n_targets : int
        Targets drawn, at least 3: the variance over targets needs two, its standard error three.
    n_inputs : int
        Inputs drawn in all, even and at least 4; half of them for each of the two gradients.
    rng : int or numpy.random.Generator
    loss : Loss or str
        Of one prediction; ``(p - y)^2 / 2`` by default.

    Returns
    -------
    InformativenessEstimate
        ``value`` is unbiased, and so may be negative: it is not clipped. ``naive`` beside it is biased upwards.

    Raises
    ------
    InputError
        A count is too small, the model or the target class gives arrays of a wrong shape, or a number is not finite.
    InputTypeError
        ``model`` has no ``predict`` or no ``jacobian``, or another argument is of a wrong type.
    ResultTooLargeError
        The gradients of the predictions, (n_inputs, p), or the derivatives of the loss, (n_inputs, n_targets), would
        not fit in memory.
    """
    check_model(model)
    m = check.count(n_targets, "n_targets", 1)
    if m < 3:
        raise InputError(
            f"n_targets is {m}: the variance over targets is undefined for one, its standard error for two; take "
            "at least 3"
        )
    total = check.count(n_inputs, "n_inputs", 4)
    if total % 2:
        raise InputError(f"n_inputs is {total}; it must be even, as the inputs are halved")
    check.instance(target_class, TargetClass, "target_class")
    generator = _checks.generator(rng)
    draw = input_sampler(input_distribution)
    _memory.require(8 * 8 * (total // 2) * m, f"the derivatives of the loss, {(total, m)},")
    members = target_class.draw(m, generator)
    halves = [_Half(model, target_class, members, draw(total // 2, generator), loss) for _ in range(2)]
    return _estimate(halves[0], halves[1])


def input_sampler(distribution: Any) -> Callable[[int, np.random.Generator], AnyArray]:
    """``f(n, rng)`` of checked draws (n, d)."""
    if isinstance(distribution, Inputs):
        return distribution.sample
    if not callable(distribution):
        raise InputTypeError(
            f"input_distribution must be Inputs or a function f(n, rng), not {type(distribution).__name__}; "
            "Inputs(points) is the equal distribution on the rows of an array"
        )

    def draw(n: int, rng: np.random.Generator) -> AnyArray:
        points = as_numpy(distribution(n, rng), "the drawn inputs")
        if points.ndim == 0 or len(points) != n:
            raise InputError(f"the drawn inputs have shape {points.shape}; {n} were asked for, one a row")
        if points.dtype.kind == "f" and not np.isfinite(points).all():
            raise InputError("the drawn inputs hold NaN or infinity; look at input_distribution")
        return points.reshape(n, -1) if points.ndim == 1 else points

    return draw


class _Half:
    """One half of the inputs: J (n, p), the derivatives of the loss about their mean over targets, and that mean."""

    def __init__(
        self, model: Model, target_class: TargetClass, members: Any, points: AnyArray, loss: Loss | str
    ) -> None:
        slopes = derivatives(loss, predictions(model, points), target_class.targets(points, members))
        gradients = jacobian(model, points)
        _memory.require(3 * 8 * gradients.size, f"the gradients of the predictions, {gradients.shape},")
        self.J: Float64Array = np.asarray(gradients, np.float64)
        mean = slopes.mean(axis=1)
        self.R: Float64Array = slopes - mean[:, np.newaxis]
        self.mean_gradient: Float64Array = mean @ self.J / len(points)
        self.centred: Float64Array = self.R.T @ self.J / len(points)  # (m, p): gradients about their mean
        squares = np.einsum("xj,xj->x", self.J, self.J)
        self.second_moment = float(((slopes**2).mean(axis=1) * squares).mean())


def _estimate(one: _Half, two: _Half) -> InformativenessEstimate:
    n, m = one.R.shape
    products = np.einsum("ij,ij->i", one.centred, two.centred)  # c_i
    value = float(products.sum()) / (m - 1)
    whole = (one.centred + two.centred) / 2
    squared_norm = float(products.mean()) + float(
        one.mean_gradient @ two.mean_gradient
    )  # of one target's gradient
    second_moment = (one.second_moment + two.second_moment) / 2
    return InformativenessEstimate(
        value=value,
        stderr=math.sqrt(_variance(one, two)),
        naive=float(np.einsum("ij,ij->", whole, whole)) / (m - 1),
        noise=above_rounding(second_moment - squared_norm, second_moment, 2 * n),
        n_targets=m,
        n_inputs=2 * n,
    )


def _variance(one: _Half, two: _Half) -> float:
    """Of the estimate, by the components of three crossed factors: inputs of one half, of the other, targets."""
    n, m = one.R.shape
    scale = m / (m - 1)
    # Y = scale * (J1 J2^T)[x, x'] R1[x, i] R2[x', i]; its means over the other half, and over both halves.
    by_one = scale * one.R * (one.J @ two.centred.T)
    by_two = scale * two.R * (two.J @ one.centred.T)
    mean = float(by_one.mean())
    x_one, x_two = by_one.mean(axis=1) - mean, by_two.mean(axis=1) - mean
    target = by_one.mean(axis=0) - mean
    pairs, squares = 0.0, 0.0
    for start in range(0, n, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        kernel = scale * (one.J[rows] @ two.J.T)
        over_targets = kernel * (one.R[rows] @ two.R.T) / m
        rest = over_targets - mean - x_one[rows, np.newaxis] - x_two
        pairs += float((rest**2).sum())
        squares += float((kernel**2 * (one.R[rows] ** 2 @ (two.R**2).T)).sum())
    with_one = float(((by_one - mean - x_one[:, np.newaxis] - target) ** 2).sum())
    with_two = float(((by_two - mean - x_two[:, np.newaxis] - target) ** 2).sum())
    sums = [float((part**2).sum()) for part in (x_one, x_two, target)]
    triples = squares - n * n * m * mean**2 - n * m * (sums[0] + sums[1]) - n * n * sums[2]
    triples -= m * pairs + n * (with_one + with_two)

    less = n - 1
    single = [sums[0] / (n * less), sums[1] / (n * less), sums[2] / (m * (m - 1))]
    double = [
        pairs / (n * less) ** 2,
        with_one / (n * less * m * (m - 1)),
        with_two / (n * less * m * (m - 1)),
    ]
    triple = triples / ((n * less) ** 2 * m * (m - 1))
    estimate = sum(single) - sum(double) + triple
    # In expectation the variance is at least that of each factor, so at least their mean, and at most their sum; noise
    # may lead outside. The last factor is that of leaving one target out, of which the spread of products is short.
    return float(min(max(estimate, sum(single) / 3), sum(single)) * ((m - 1) / (m - 2)) ** 2)
