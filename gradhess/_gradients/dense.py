"""Gradients that are an array already, on the host or on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess import _validation as check
from gradhess._arrays import library_of
from gradhess._device_arrays import on_device
from gradhess._gradients.base import DenseGradients, ExplicitRows, Gradients
from gradhess._gradients.device.make import as_device_gradients


def as_gradients(G: Any) -> Gradients:
    """The interface of ``glm_gradients`` over an explicit array of gradients.

    Parameters
    ----------
    G : array_like, shape (n, p)
        Row i is the gradient of sample i. float32 and float64 in any memory order, integers and booleans; not
        copied.

    Returns
    -------
    Gradients
        With ``shape``, ``dtype``, ``sum``, ``mean``, ``gram``, ``covariance``, ``diagonal``, ``norms``, ``matvec``,
        ``rmatvec``, ``gram_matvec``, ``cogram``, ``project``, ``toarray``, ``as_linear_operator``. ``loss`` and
        ``hessian`` are errors: an array has none.

    Raises
    ------
    InputError, InputTypeError
        Not two-dimensional, no columns, or not real numbers.
    """
    return explicit_gradients(G, "G")


def explicit_gradients(value: Any, name: str) -> Gradients:
    """``as_gradients`` of an argument of that name, which its messages give."""
    if isinstance(value, Gradients):
        return value
    if type(value) is not np.ndarray and on_device(value):
        return as_device_gradients(value, name)
    return DenseGradients(ExplicitRows(check.matrix(value, name), name=name), library_of(value))
