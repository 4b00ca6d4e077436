"""The losses of generalised linear models: value, derivatives and domain of each.

All are **per sample**, with no division by n. With ``eta = x @ coef + intercept``:

================  =====================================================  =======================
name              ``l(eta, y)``                                          labels
================  =====================================================  =======================
``squared``       ``(eta - y)^2 / 2``                                    any real
``logistic``      ``log(1 + e^eta) - y eta``                             0 or 1
``poisson``       ``e^eta - y eta`` (log link; ``log y!`` left out)      ``y >= 0``
``huber``         ``e^2 / 2`` for ``|e| <= delta``, else                 any real
                  ``delta (|e| - delta / 2)``, with ``e = eta - y``
``softmax``       ``log sum_q e^(eta_q) - eta_y``                        0, 1, ..., k - 1
``custom(...)``   your own functions of ``(eta, y)``                     any real
================  =====================================================  =======================

Every function that takes a ``loss`` takes one of these objects or its name; ``"huber"`` means ``huber()``.
Sources: McCullagh and Nelder, *Generalized Linear Models* (1989), for logistic, poisson and softmax; Huber, *Robust
estimation of a location parameter* (1964), for huber.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gradhess._arrays import first_false
from gradhess._backends.loss_formulas import SCALAR_LOSSES
from gradhess._backends.protocol import Float64Array, LossSpec, ScalarFunction
from gradhess.errors import InputError, InputTypeError

__all__ = ["Loss", "custom", "huber", "logistic", "poisson", "softmax", "squared"]


Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Loss:
    """A per-sample loss ``l(eta, y)``.

    Attributes
    ----------
    name : str
        As in the table above.
    formula : str
        The formula, for people.
    labels : str
        The domain of ``y``, for people.
    spec : LossSpec
        The loss as the backends know it.
    """

    name: str
    formula: str
    labels: str
    spec: LossSpec

    @property
    def has_value(self) -> bool:
        """Whether ``value`` is known; False only for a custom loss made without one."""
        return self.spec.functions is None or self.spec.functions[0] is not None

    @property
    def has_second_derivative(self) -> bool:
        """Whether ``second_derivative`` is known; False only for a custom loss made without one."""
        return self.spec.functions is None or self.spec.functions[2] is not None

    def value(self, eta: npt.ArrayLike, y: npt.ArrayLike) -> Float64Array:
        """``l(eta, y)``, elementwise; for softmax ``eta`` is (..., k) and ``y`` (...,)."""
        return self._evaluate(0, "value", eta, y)

    def derivative(self, eta: npt.ArrayLike, y: npt.ArrayLike) -> Float64Array:
        """``l'(eta, y)``, elementwise; for softmax ``P - onehot(y)``, of the shape of ``eta``."""
        return self._evaluate(1, "derivative", eta, y)

    def second_derivative(self, eta: npt.ArrayLike, y: npt.ArrayLike) -> Float64Array:
        """``l''(eta, y)``, elementwise; for softmax ``diag(P) - P P^T``, of shape (..., k, k)."""
        return self._evaluate(2, "second", eta, y)

    def check_labels(self, y: npt.ArrayLike, n_outputs: int = 1) -> None:
        """Raise InputError, naming the first label outside the domain and its row.

        NaN and infinity pass where the domain is a range of reals: what to do about a row that is not finite is
        decided where the rows are summed.
        """
        labels = np.asarray(y)
        inside = _labels_inside(self.name, labels, n_outputs)
        row = -1 if inside is None else first_false(inside)
        # A class is an index; where the domain is one of reals, NaN and infinity pass.
        if inside is not None and row >= 0 and self.name != "softmax":
            row = first_false(inside | ~np.isfinite(labels))
        if row >= 0:
            domain = f"0, 1, ..., {n_outputs - 1}" if self.name == "softmax" else self.labels
            hint = " (for labels -1 and 1, pass (y + 1) / 2)" if self.name == "logistic" else ""
            raise InputError(
                f"y[{row}] is {labels[row]:g}, but the labels of the {self.name} loss are {domain}{hint}"
            )

    def _evaluate(self, order: int, which: str, eta: npt.ArrayLike, y: npt.ArrayLike) -> Float64Array:
        predictor = np.asarray(eta, np.float64)
        labels = np.asarray(y, np.float64)
        if self.spec.functions is not None:
            function = self.spec.functions[order]
            if function is None:
                raise InputError(f"this custom loss has no {which}; pass {which}= to gradhess.losses.custom")
            python = getattr(
                function, "py_func", function
            )  # a function that Numba has compiled keeps its source
            return np.asarray(np.vectorize(python, otypes=[np.float64])(predictor, labels))
        if self.name == "softmax":
            return _SOFTMAX[order](predictor, labels.astype(np.intp))
        return np.asarray(SCALAR_LOSSES[self.name][order](predictor, labels, self.spec.parameter))


def _labels_inside(name: str, y: npt.NDArray[Any], n_outputs: int) -> Mask | None:
    """Where the labels are inside the domain; None where every real number is a label."""
    if name == "logistic":
        return np.asarray(y * y == y)  # 0 and 1, and infinity, which passes as well
    if name == "poisson":
        return np.asarray(y >= 0)
    if name == "softmax":
        return np.asarray((y >= 0) & (y < n_outputs) & (y == np.floor(y)))
    return None


def _softmax_value(eta: Float64Array, y: npt.NDArray[np.intp]) -> Float64Array:
    top = eta.max(axis=-1)
    own = np.take_along_axis(eta, y[..., None], axis=-1)[..., 0]
    return np.asarray(np.log(np.exp(eta - top[..., None]).sum(axis=-1)) + (top - own))


def softmax_probabilities(eta: Float64Array) -> Float64Array:
    """``P_q = e^(eta_q) / sum_r e^(eta_r)`` along the last axis."""
    powers = np.exp(eta - eta.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _softmax_derivative(eta: Float64Array, y: npt.NDArray[np.intp]) -> Float64Array:
    return np.asarray(softmax_probabilities(eta) - (np.arange(eta.shape[-1]) == y[..., None]))


def _softmax_second(eta: Float64Array, y: npt.NDArray[np.intp]) -> Float64Array:
    p = softmax_probabilities(eta)
    return np.asarray(p[..., :, None] * (np.eye(eta.shape[-1]) - p[..., None, :]))


_SOFTMAX: Final[tuple[Callable[[Float64Array, npt.NDArray[np.intp]], Float64Array], ...]] = (
    _softmax_value,
    _softmax_derivative,
    _softmax_second,
)


def _builtin(name: str, formula: str, labels: str, parameter: float = 0.0) -> Loss:
    return Loss(name, formula, labels, LossSpec(name, parameter))


squared: Final = _builtin("squared", "(eta - y)^2 / 2", "any real")
logistic: Final = _builtin("logistic", "log(1 + e^eta) - y eta", "0 or 1")
poisson: Final = _builtin("poisson", "e^eta - y eta", "y >= 0")
softmax: Final = _builtin("softmax", "log sum_q e^(eta_q) - eta_y", "0, 1, ..., k - 1")


def huber(delta: float = 1.35) -> Loss:
    """The Huber loss: quadratic within ``delta`` of the label, linear beyond.

    Parameters
    ----------
    delta : float
        Where the loss turns linear, in the unit of ``y``. The default, 1.35 standard deviations, has 95% efficiency
        under normal errors (Huber 1964).

    Raises
    ------
    InputError
        ``delta`` is not positive and finite.
    """
    if not (math.isfinite(delta) and delta > 0):
        raise InputError(f"delta is {delta}; it must be positive and finite")
    formula = "e^2 / 2 for |e| <= delta, else delta (|e| - delta / 2), with e = eta - y"
    return _builtin("huber", formula, "any real", float(delta))


def custom(
    derivative: ScalarFunction, value: ScalarFunction | None = None, second: ScalarFunction | None = None
) -> Loss:
    """A loss from your own functions, which are compiled and run inside the same fused kernels.

    Parameters
    ----------
    derivative : callable
        ``l'(eta, y)`` of two floats, returning a float, and compilable by ``numba.njit`` (or compiled already).
    value : callable, optional
        ``l(eta, y)``; without it ``loss()`` is an error.
    second : callable, optional
        ``l''(eta, y)``; without it ``hessian()`` is an error.

    Returns
    -------
    Loss

    Raises
    ------
    InputTypeError
        An argument is not callable.

    Examples
    --------
    >>> import math
    >>> log_cosh = gradhess.losses.custom(lambda eta, y: math.tanh(eta - y))
    """
    for name, function in (("derivative", derivative), ("value", value), ("second", second)):
        if not callable(function) and not (function is None and name != "derivative"):
            raise InputTypeError(f"{name} must be a function of (eta, y), not {type(function).__name__}")
    spec = LossSpec("custom", functions=(value, derivative, second))
    return Loss("custom", "given by functions", "any real", spec)
