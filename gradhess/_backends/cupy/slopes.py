"""What a loss makes of rows, on the device: the predictor, slopes ``c l'`` (or ``c l''``), and values ``c l``."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess._backends.cupy import custom
from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, empty, flat, launch
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.custom_loss import require_second
from gradhess._backends.protocol import FLOAT32, FLOAT64, Rows

_CODES: Final = {"squared": 0, "logistic": 1, "poisson": 2, "huber": 3, "softmax": 4}


def plain(rows: Rows) -> DeviceArray:
    """``rows.X`` in the compute type, of any strides: itself where it is of that type already."""
    X = rows.X
    if isinstance(rows, DeviceRows) and rows.bfloat16:
        return (X.astype(np.uint32) << np.uint32(16)).view(np.float32)  # the upper half of a float32
    return X if X.dtype == rows.compute_dtype else X.astype(rows.compute_dtype)


def strides(X: DeviceArray) -> tuple[int, int]:
    """Of rows and of columns, in elements."""
    return X.strides[0] // X.itemsize, X.strides[1] // X.itemsize


def predictor(rows: Rows, X: DeviceArray) -> DeviceArray:
    """eta (n, k) float64: the bits of a row depend on that row alone."""
    assert rows.coef is not None
    n, d = X.shape
    k = int(rows.coef.shape[0])
    eta = empty((n, k), FLOAT64, "the predictor")
    launch("predictor", X.dtype, -(-n // 8), (32, 8), X, n, d, *strides(X), rows.coef, rows.intercept, k, eta)
    return eta


def slopes(rows: Rows, X: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    """(n, k) slopes and (n,) values, float64, of gradient or hessian rows."""
    loss = rows.loss
    assert loss is not None
    second = rows.kind == "hessian"
    eta = predictor(rows, X)
    n, k = eta.shape
    slope, value = empty((n, k), FLOAT64, "the slopes"), empty(n, FLOAT64, "the losses")
    if loss.name == "custom":
        if second:
            require_second(loss)
        custom.evaluate(loss, second, eta, rows.y, rows.loss_weight, slope, value)
        return slope, value
    code = np.int32(_CODES[loss.name])
    flat(
        "slopes",
        FLOAT32,
        n,
        code,
        second,
        float(loss.parameter),
        eta,
        rows.y,
        rows.loss_weight,
        n,
        k,
        slope,
        value,
    )
    return slope, value


def row_weights(rows: Rows, given: DeviceArray | None, slope: DeviceArray | None) -> Any:
    """(n,) float64, the product of the weights given and those that hessian rows bring; None for ones."""
    if rows.kind != "hessian":
        return given
    assert slope is not None
    own = slope.reshape(-1)
    return own if given is None else cupy().multiply(own, given)
