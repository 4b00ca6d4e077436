"""First and second derivatives of per-sample losses by the outputs o of a network."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError
from gradhess.losses import softmax_probabilities

LOSSES: Final = ("cross_entropy", "mse", "softmax_mse")


class OutputTerms(NamedTuple):
    """Derivatives of a per-sample loss by the outputs."""

    errors: Float64Array
    """``dl/do``, (n, K)."""
    hessians: Float64Array
    """``d^2 l / do^2``, (n, K, K)."""
    positive: bool | None
    """True where the Hessians are positive semidefinite by their formula; None where they may not be."""


def output_terms(outputs: Any, targets: Any, loss: str) -> OutputTerms:
    """``e = dl/do`` and ``S = d^2 l / do^2`` of each sample.

    Parameters
    ----------
    outputs : array_like, shape (n, K)
        o, before any softmax.
    targets : array_like, shape (n,) of classes 0, ..., K - 1, or (n, K) of numbers (not for cross-entropy)
        T; a class stands for its unit vector.
    loss : {"cross_entropy", "mse", "softmax_mse"}
        ``-log P_y``; ``(1/K) ||o - T||^2``; ``(1/K) ||P - T||^2``, with ``P = softmax(o)``.

    Returns
    -------
    OutputTerms
        For cross-entropy ``P - T`` and ``diag(P) - P P^T``; for MSE ``2 (o - T) / K`` and ``(2/K) I``; for MSE after
        softmax, with ``c = 2 (P - T) / K``, ``u = P * (c - c^T P)`` and ``J = diag(P) - P P^T``, ``J c`` and
        ``(2/K) J^2 + diag(u) - u P^T - P u^T``, which may be indefinite.

    Raises
    ------
    InputError
        An unknown loss; shapes that do not agree; a class outside 0, ..., K - 1.
    InputTypeError
        Data that are not real numbers.
    """
    check.one_of(loss, LOSSES, "loss")
    o = np.asarray(check.matrix(outputs, "outputs"), np.float64)
    t = as_numpy(targets, "targets")
    if t.shape not in ((len(o),), o.shape) or (loss == "cross_entropy" and t.ndim != 1):
        expected = f"({len(o)},)" if loss == "cross_entropy" else f"({len(o)},) or {o.shape}"
        raise InputError(
            f"targets has shape {t.shape}, but outputs has shape {o.shape}: it must be {expected}"
        )
    if t.ndim == 1:
        classes = _classes(t, o.shape[1])
        if loss == "cross_entropy":
            return OutputTerms(*cross_entropy(o, classes), True)
        t = np.eye(o.shape[1])[classes]
    return _mse(o, t) if loss == "mse" else _softmax_mse(o, t)


def cross_entropy(o: Float64Array, classes: npt.NDArray[np.intp]) -> tuple[Float64Array, Float64Array]:
    """``P - T`` and ``diag(P) - P P^T``, with no digits lost where one probability is close to 1."""
    P = softmax_probabilities(o)
    rows = np.arange(len(o))
    errors = P.copy()
    errors[rows, classes] = 0.0
    errors[rows, classes] = -errors.sum(axis=1)  # P_y - 1
    return errors, _spread(P)


def _spread(P: Float64Array) -> Float64Array:
    """``diag(P) - P P^T``, with ``P_q (1 - P_q)`` as the sum of the other entries of its row."""
    S = -P[:, :, np.newaxis] * P[:, np.newaxis, :]
    diagonal = np.einsum("pqq->pq", S)
    diagonal[:] = 0.0
    diagonal[:] = -S.sum(axis=2)
    return S


def _mse(o: Float64Array, t: Any) -> OutputTerms:
    K = o.shape[1]
    S = np.broadcast_to((2.0 / K) * np.eye(K), (len(o), K, K))
    return OutputTerms((2.0 / K) * (o - t), S, True)


def _softmax_mse(o: Float64Array, t: Any) -> OutputTerms:
    K = o.shape[1]
    P = softmax_probabilities(o)
    J = _spread(P)
    c = (2.0 / K) * (P - t)
    u = np.einsum("pqr,pr->pq", J, c)
    uP = u[:, :, np.newaxis] * P[:, np.newaxis, :]
    S = (2.0 / K) * (J @ J) - uP - uP.transpose(0, 2, 1)
    np.einsum("pqq->pq", S)[:] += u
    return OutputTerms(u, S, None)


def _classes(t: Any, K: int) -> npt.NDArray[np.intp]:
    wrong = ~((t >= 0) & (t < K) & (t == np.floor(t)))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"targets[{row}] is {t[row]}, but the classes are 0, 1, ..., {K - 1}")
    return np.asarray(t, np.intp)
