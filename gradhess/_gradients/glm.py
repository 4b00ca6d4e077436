"""Gradients of generalised linear models: rows ``c_i l'(eta_i, y_i) x~_i``, or ``c_i delta_i (x) x~_i`` for softmax."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from gradhess import _memory
from gradhess import _validation as check
from gradhess._arrays import give_back, library_of
from gradhess._backends import registry
from gradhess._backends.protocol import FLOAT64, Float64Array, Rows
from gradhess._device_arrays import on_device
from gradhess._gradients import outer_gram, passes, softmax
from gradhess._gradients.base import Gradients, scatter_of
from gradhess._gradients.device.make import device_glm_gradients
from gradhess.errors import InputError
from gradhess.losses import Loss


class GlmGradients(Gradients):
    """Per-sample gradients of a generalised linear model, made by ``gradhess.glm_gradients``."""

    def __init__(self, rows: Rows, library: str, loss: Loss) -> None:
        super().__init__(rows, library)
        self._loss_function = loss
        self._slopes: Float64Array | None = None

    def slopes(self) -> Any:
        """``c_i l'(eta_i, y_i)``, by which row ``x~_i`` is multiplied: (n,), or (n, k) for softmax; float64.

        For the squared loss the residuals ``x_i @ coef + intercept - y_i``, times the weights. Kept once computed.
        """
        slopes = self.slopes_by_output()
        shape = (self.n_samples,) if self._loss_function.name != "softmax" else slopes.shape
        return give_back(slopes.reshape(shape).copy(), self.library)

    def slopes_by_output(self) -> Float64Array:
        """The same as a C-contiguous (n, k) array of NumPy, not a copy."""
        if self._slopes is None:
            backend, threads = registry.active(), registry.num_threads()
            rows = self.rows
            slopes = np.empty((rows.n_samples, rows.n_outputs))
            # NaN where a row is not finite; that matters where the row is used.
            with np.errstate(all="ignore"):
                for start, stop in passes.spans(
                    rows.n_samples, passes.piece_rows(2 * rows.n_parameters, threads)
                ):
                    slopes[start:stop] = backend.errors(rows.slice(start, stop), threads=threads)
            self._slopes = slopes
        return self._slopes

    def gram(self, *, dtype: npt.DTypeLike = "float64") -> Any:
        rows = self.rows
        if self._loss_function.name != "softmax" or not outer_gram.pays(
            rows.n_outputs, rows.n_parameters // rows.n_outputs, fused=True
        ):
            return super().gram(dtype=dtype)
        return give_back(softmax.gram(rows, dtype), self.library)

    def loss(self) -> float:
        """``sum_i c_i l(eta_i, y_i)``: the summed loss, divided by nothing.

        Raises
        ------
        InputError
            A custom loss was made without its value.
        """
        if not self._loss_function.has_value:
            raise InputError("this custom loss has no value; pass value= to gradhess.losses.custom")
        self._summed()
        assert self._loss is not None
        return self._loss

    def hessian(self) -> Any:
        """The Hessian of the summed loss, (p, p), symmetric, float64. Divided by nothing.

        ``X~^T diag(c l'') X~``; for softmax block (q, r) is ``X~^T diag(c P_q (delta_qr - P_r)) X~``.

        Raises
        ------
        InputError
            A custom loss was made without its second derivative.
        ResultTooLargeError
            It would not fit in memory; nothing was allocated.
        """
        if not self._loss_function.has_second_derivative:
            raise InputError(
                "this custom loss has no second derivative; pass second= to gradhess.losses.custom"
            )
        if self.rows.n_outputs > 1 or self._loss_function.name == "softmax":
            return give_back(softmax.hessian(self.rows), self.library)
        _memory.require_matrix(self.n_parameters, "a Hessian", FLOAT64)
        state = passes.moments(replace(self.rows, kind="hessian"), "full", scale=1.0)
        return give_back(scatter_of(state), self.library)


def glm_gradients(
    X: Any,
    y: Any,
    coef: Any,
    loss: Loss | str = "squared",
    *,
    intercept: Any = None,
    sample_weight: Any = None,
) -> GlmGradients:
    """Per-sample gradients of a generalised linear model: structured, lazy, never formed.

    Row i is ``c_i l'(eta_i, y_i) x~_i`` with ``eta_i = x_i @ coef + intercept``, the loss weight ``c_i``, and
    ``x~_i = x_i``, or ``[x_i, 1]`` with an intercept. For softmax it is ``c_i (P_i - onehot(y_i)) (x) x~_i``.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Rows are samples. float32 and float64 in any memory order without a copy; integers and booleans.
    y : array_like, shape (n,)
        Labels in the domain of the loss: {0, 1} for logistic, ``>= 0`` for poisson, 0, ..., k - 1 for softmax.
    coef : array_like, shape (d,), or (k, d) for softmax
        Where the gradients are taken.
    loss : str or Loss
        ``"squared"``, ``"logistic"``, ``"poisson"``, ``"huber"``, ``"softmax"``, or an object from
        ``gradhess.losses``. Per sample, with no division by n.
    intercept : float, or array_like of shape (k,) for softmax, optional
        The current value of the intercept. It adds one parameter, **last** (for softmax last in the row of each
        class), without a copy of ``X``. None means that the model has none; 0.0 that it has one, now 0.
    sample_weight : array_like, shape (n,), optional
        Weights ``c_i >= 0`` of the *loss*: the row is multiplied by ``c_i``, so ``sum``, ``loss`` and ``hessian``
        carry ``c_i``, and ``gram`` carries ``c_i^2``. Not the ``sample_weight`` of
        ``StreamingCovariance.partial_fit``, which weights the *moment*: ``sum_i w_i g_i g_i^T``.

    Returns
    -------
    GlmGradients (of arrays on a GPU: DeviceGradients, with the same methods)
        Of shape (n, p): p = d, or d + 1 with an intercept; k times that for softmax, row-major over (k, d) or
        (k, d + 1).

    Raises
    ------
    InputError
        Shapes that do not agree, a label outside the domain (named with its row), a negative weight, coefficients
        that are not finite.
    InputTypeError
        Data that are not real numbers.
    """
    resolved = check.resolve_loss(loss)
    if type(X) is not np.ndarray and on_device(X):
        # The same methods: typed as what arrays on the host would give.
        return cast(
            GlmGradients,
            device_glm_gradients(X, y, coef, resolved, intercept=intercept, sample_weight=sample_weight),
        )
    rows = check.glm_rows(X, y, coef, resolved, intercept=intercept, sample_weight=sample_weight)
    return GlmGradients(rows, library_of(X), resolved)
