"""The bound on the variance of the gradient, and what goes into it.

``Var_h <= M^2 |Gamma|_F sqrt((1 - pi) eps^2 + pi) <= M^2 |Gamma|_F (eps + e^(-E_c / 2))`` with ``pi = e^(-E_c)``
(Takhanov, arXiv 2505.22158). It grows with eps: 0 is perfect pairwise independence. It falls as E_c grows.

Why it holds: with the residuals ``r_h(x) = L'(p(x), h(x)) - E_Y L'(p(x), Y)``, Y uniform on the labels, the variance is
at most ``E_x,x' (g(x) . g(x')) K(x, x')``, ``K = E_h r_h(x) r_h(x')``. As the r of an input sum to zero over labels,
``|K(x, x')| <= M^2 eps(x, x')`` for x != x', and ``K(x, x) <= M^2``; then Cauchy-Schwarz over pairs, which have the
weight ``1 - pi`` for x != x' and ``pi`` for x = x'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradhess import _validation as check
from gradhess import losses
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError
from gradhess.informativeness import _checks
from gradhess.informativeness._estimate import EntropyEstimate
from gradhess.losses import Loss


@dataclass(frozen=True, slots=True)
class Bound:
    """An upper bound on the variance of the gradient over targets.

    Attributes
    ----------
    value : float
        ``M^2 |Gamma|_F (eps + e^(-E_c / 2))``.
    tight : float
        ``M^2 |Gamma|_F sqrt((1 - pi) eps^2 + pi)``, never above ``value``.
    terms : dict
        ``"M"``, ``"gamma"`` (the Frobenius norm), ``"epsilon"``, ``"collision"`` (``e^(-E_c / 2)``): the factors and
        the two terms of the sum.
    """

    value: float
    tight: float
    terms: dict[str, float]

    def __float__(self) -> float:
        return self.value


def bound(
    M: float, gradient_second_moment: Any, epsilon: float, collision_entropy: float | EntropyEstimate
) -> Bound:
    """The bound, from its four ingredients.

    Parameters
    ----------
    M : float
        ``sup |L'(p(w, x), y) - E_Y L'(p(w, x), Y)|`` over inputs and labels, Y uniform on the labels
        (``largest_residual``). For the squared loss ``(p - y)^2 / 2`` and labels 0..q-1 it is ``(q - 1) / 2``.
    gradient_second_moment : float, or array_like of shape (p, p)
        ``Gamma = E[g g^T]`` of the gradients g of the prediction, not centred, or its Frobenius norm
        (``second_moment_norm``).
    epsilon : float
        ``pairwise_dependence``, weighted by the input distribution.
    collision_entropy : float or EntropyEstimate
        Of the input distribution, in nats; infinite is allowed (a density: inputs never collide), but not as an
        ``EntropyEstimate``, which is infinite because no collision was seen.

    Raises
    ------
    InputError
        A number is negative or NaN, Gamma is not square, or the entropy is an estimate that saw no collision.
    InputTypeError
        What should be a number is none.
    """
    largest = check.nonnegative(M, "M")
    dependence = check.nonnegative(epsilon, "epsilon")
    estimate = collision_entropy if isinstance(collision_entropy, EntropyEstimate) else None
    entropy = check.number(collision_entropy, "collision_entropy") if estimate is None else estimate.value
    if math.isnan(entropy) or entropy < 0:
        raise InputError(f"collision_entropy is {entropy}; it must be from 0 to infinity")
    if estimate is not None and math.isinf(entropy):
        raise InputError(
            f"collision_entropy was estimated from {estimate.n_samples:,} samples, no two of them equal: that "
            "does not make it infinite, and the bound would be too low. Take more samples, or pass its lower_bound "
            f"({estimate.lower_bound:.3g} nats at 95%), or float('inf') if the inputs have a density"
        )
    gamma = _frobenius(gradient_second_moment)
    pi = math.exp(-entropy)
    scale = largest * largest * gamma
    collision = math.exp(-entropy / 2)
    return Bound(
        scale * (dependence + collision),
        scale * math.sqrt((1 - pi) * dependence * dependence + pi),
        {"M": largest, "gamma": gamma, "epsilon": dependence, "collision": collision},
    )


def _frobenius(value: Any) -> float:
    array = as_numpy(value, "gradient_second_moment")
    if array.ndim == 0:
        return check.nonnegative(float(array), "gradient_second_moment")
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not np.isfinite(array).all():
        raise InputError(
            f"gradient_second_moment has shape {array.shape}; it must be a finite (p, p) matrix or its norm"
        )
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def largest_residual(predictions: Any, label_values: Any, loss: Loss | str = losses.squared) -> float:
    """M of the bound: ``max |L'(p, y) - mean_Y L'(p, Y)|`` over the given predictions and label values.

    Parameters
    ----------
    predictions : array_like, shape (n_inputs,)
    label_values : array_like, shape (q,)
        What the model learns for each label.
    loss : Loss or str
        Of one prediction (not softmax).
    """
    outputs = _checks.real_vector(predictions, "predictions")
    values = _checks.real_vector(label_values, "label_values")
    slopes = derivatives(loss, outputs, np.broadcast_to(values, (len(outputs), len(values))))
    return float(np.abs(slopes - slopes.mean(axis=1, keepdims=True)).max())


def derivatives(loss: Loss | str, predictions: Float64Array, targets: Float64Array) -> Float64Array:
    """(n_inputs, n_targets): ``L'(p(x), h(x))``."""
    chosen = check.resolve_loss(loss)
    if chosen.name == "softmax":
        raise InputError("loss is softmax, which has several predictions; use a loss of one prediction")
    chosen.check_labels(targets.ravel())
    found = chosen.derivative(predictions[:, np.newaxis], targets)
    if not np.isfinite(found).all():
        raise InputError(f"the derivative of the {chosen.name} loss is not finite at some predictions")
    return found
