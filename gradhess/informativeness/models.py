"""Models as this package sees them, and two in plain NumPy.

A model is any object with ``predict(x)`` (n,) and ``jacobian(x)`` (n, p), the gradients of the predictions in the
parameters. ``gradhess.torch.DifferentiableModel`` makes one from a torch module.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError, InputTypeError
from gradhess.informativeness import _checks

__all__ = ["LinearModel", "Model", "TanhNetwork"]


class Model(Protocol):
    """What ``analyze`` and ``estimate_informativeness`` ask of a model."""

    def predict(self, x: AnyArray) -> Any:
        """(n,): one prediction for each row of x."""

    def jacobian(self, x: AnyArray) -> Any:
        """(n, p): the gradient of each prediction in the parameters."""


class LinearModel:
    """``p(x) = x . coef + intercept``; the parameters are ``coef`` (d,), then the intercept."""

    def __init__(self, coef: Any, intercept: float = 0.0) -> None:
        self.coef = _checks.real_vector(coef, "coef")
        self.intercept = float(intercept)

    def __repr__(self) -> str:
        return f"<LinearModel: {len(self.coef)} features>"

    def predict(self, x: AnyArray) -> Float64Array:
        return np.asarray(_points(x, len(self.coef)) @ self.coef + self.intercept)

    def jacobian(self, x: AnyArray) -> Float64Array:
        return np.column_stack([_points(x, len(self.coef)), np.ones(len(x))])


class TanhNetwork:
    """One hidden layer: ``p(x) = output . tanh(W x + b) / sqrt(width) + offset``.

    The parameters are W (width, n_features) row by row, b (width,), output (width,), and the offset. All but the
    offset (0) are drawn from a normal distribution, W with the standard deviation ``scale / sqrt(n_features)``, the
    rest with 1.

    Parameters
    ----------
    n_features, width : int
    scale : float
        Of the first layer: the larger, the less linear the network is over its inputs.
    rng : int or numpy.random.Generator
    """

    def __init__(self, n_features: int, width: int, *, scale: float = 1.0, rng: Any = 0) -> None:
        d, k = check.count(n_features, "n_features", 1), check.count(width, "width", 1)
        spread = check.positive(scale, "scale") / np.sqrt(d)
        generator = _checks.generator(rng)
        self.weight = spread * generator.standard_normal((k, d))
        self.bias = generator.standard_normal(k)
        self.output = generator.standard_normal(k)
        self.offset = 0.0

    def __repr__(self) -> str:
        width, d = self.weight.shape
        return f"<TanhNetwork: {d} features, width {width}>"

    def predict(self, x: AnyArray) -> Float64Array:
        return np.asarray(self._hidden(x) @ self.output / np.sqrt(len(self.output)) + self.offset)

    def jacobian(self, x: AnyArray) -> Float64Array:
        hidden = self._hidden(x)
        n, k = hidden.shape
        root = np.sqrt(k)
        slopes = (1 - hidden**2) * self.output / root
        by_weight = slopes[:, :, np.newaxis] * _points(x, self.weight.shape[1])[:, np.newaxis, :]
        return np.concatenate([by_weight.reshape(n, -1), slopes, hidden / root, np.ones((n, 1))], axis=1)

    def _hidden(self, x: AnyArray) -> Float64Array:
        return np.asarray(np.tanh(_points(x, self.weight.shape[1]) @ self.weight.T + self.bias))


def _points(x: Any, n_features: int) -> Float64Array:
    array = as_numpy(x, "x")
    if array.ndim != 2 or array.shape[1] != n_features:
        raise InputError(f"x has shape {array.shape}; the model takes (n, {n_features})")
    return np.asarray(array, np.float64)


def check_model(model: Any) -> None:
    """Refuse what has no ``predict`` and ``jacobian``, and say what has."""
    missing = [name for name in ("predict", "jacobian") if not callable(getattr(model, name, None))]
    if isinstance(model, type):
        raise InputTypeError(f"model is the class {model.__name__}; pass an instance of it")
    if not missing:
        return
    torch = sys.modules.get("torch")  # whose modules exist only where it is loaded
    if torch is not None and isinstance(model, torch.nn.Module):
        raise InputTypeError(
            f"model is a torch module ({type(model).__name__}); pass gradhess.torch.DifferentiableModel(model)"
        )
    raise InputTypeError(
        f"model ({type(model).__name__}) has no {' and no '.join(missing)}; it must have predict(x), (n,), and "
        "jacobian(x), (n, p); for torch modules there is gradhess.torch.DifferentiableModel(module)"
    )


def predictions(model: Model, x: AnyArray) -> Float64Array:
    """(n,) finite predictions of the model, checked."""
    found = as_numpy(model.predict(x), "model.predict(x)")
    if found.shape == (len(x), 1):
        found = found[:, 0]
    if found.shape != (len(x),):
        raise InputError(
            f"model.predict gave shape {found.shape} for {len(x)} inputs; it must be ({len(x)},): "
            "one number is predicted for each input"
        )
    return check.finite(np.ascontiguousarray(found, np.float64), "model.predict(x)", whole=False)


def jacobian(model: Model, x: AnyArray) -> AnyArray:
    """(n, p) finite gradients of the predictions, checked."""
    found = _checks.real_matrix(model.jacobian(x), "model.jacobian(x)", "(n_inputs, p)")
    if len(found) != len(x):
        raise InputError(
            f"model.jacobian gave shape {found.shape} for {len(x)} inputs: one row for each input"
        )
    return found
