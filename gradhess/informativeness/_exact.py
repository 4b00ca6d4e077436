"""The variance of the gradient over an enumerated class of targets, exactly.

With J (n_inputs, p) the gradients of the predictions, mu the weights of the inputs, and R (n_inputs, n_targets) the
derivatives of the loss in the prediction, the gradient for target h is ``G_h = J^T diag(mu) R_h``, and

    ``Var_h[G_h] = E_h |G_h - E_h G_h|^2``.

Targets pass in blocks, and only moments over them are kept. Where there are no more inputs than parameters (the *dual*
form) these are the covariance C (n_inputs, n_inputs) of the columns of ``diag(mu) R``, and the variance of parameter j
is ``J_j^T C J_j``; otherwise the variances of the gradients' p entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn

import numpy as np

from gradhess import _memory
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess._gradients import weighted_gram
from gradhess._streaming import StreamingCovariance
from gradhess.errors import InputError
from gradhess.informativeness import _checks

BLOCK_TARGETS: Final = 1024
"""Targets whose gradients exist at the same time."""


class Informativeness(float):
    """``Var_h[grad C_h]``: a float, with the share of each parameter.

    Attributes
    ----------
    per_parameter : ndarray, shape (p,)
        Variance of each entry of the gradient; they sum to the float.
    """

    per_parameter: Float64Array

    def __new__(cls, per_parameter: Float64Array) -> Informativeness:
        new = super().__new__(cls, per_parameter.sum())
        new.per_parameter = per_parameter
        return new

    def __reduce__(self) -> tuple[type[Informativeness], tuple[Float64Array]]:
        return type(self), (self.per_parameter,)


def exact_informativeness(
    jacobian: Any, residual_derivative: Any, input_weights: Any = None, *, target_weights: Any = None
) -> Informativeness:
    """Variance of the gradient over all targets of a class, for an enumerated input distribution.

    Parameters
    ----------
    jacobian : array_like, shape (n_inputs, p)
        Row x is the gradient of the prediction ``p(w, x)`` in w.
    residual_derivative : array_like, shape (n_inputs, n_targets), or an iterable of such blocks
        Column h is the derivative of the loss in the prediction, ``L'(p(w, x), h(x))``: ``p - h(x)`` for the squared
        loss ``(p - y)^2 / 2``. An iterable (a generator, or a list of two-dimensional arrays) gives the targets
        block by block, so that R need not fit in memory; every target must come once.
    input_weights : array_like, shape (n_inputs,), optional
        Weights mu, divided by their sum; equal by default.
    target_weights : array_like, shape (n_targets,), optional
        Probabilities of the targets, divided by their sum; equal by default.

    Returns
    -------
    Informativeness
        A float: ``sum_h P(h) |G_h - E G|^2``, divided by the number of targets (not one less: the class is all there
        is); 0 for a class of one function. ``per_parameter`` (p,) splits it.

    Raises
    ------
    InputError
        Shapes do not agree, there are no targets, or a number is not finite.
    ResultTooLargeError
        The moments would not fit in memory.
    """
    J = _checks.real_matrix(jacobian, "jacobian", "(n_inputs, p)")
    n, p = J.shape
    mu = _checks.probabilities(input_weights, "input_weights", n)
    dual = n <= p
    if not dual:
        _memory.require(8 * BLOCK_TARGETS * p, f"gradients of a block of {BLOCK_TARGETS} targets")
    weighted = np.asarray(J, np.float64) * mu[:, np.newaxis]
    moments = StreamingCovariance("full" if dual else "diagonal")
    weights = None if target_weights is None else _checks.real_vector(target_weights, "target_weights")
    if weights is not None:
        weights = _checks.probabilities(weights, "target_weights", len(weights))
    done = 0
    for block in _blocks(residual_derivative, n):
        count = block.shape[1]
        if weights is not None and done + count > len(weights):
            _wrong_count(len(weights), f"more than {done + count - 1}")
        shares = None if weights is None else weights[done : done + count]
        moments.partial_fit(block.T * mu if dual else block.T @ weighted, shares)
        done += count
    if done == 0:
        raise InputError("residual_derivative holds no targets")
    if weights is not None and done != len(weights):
        _wrong_count(len(weights), str(done))
    covariance = np.asarray(moments.covariance_)
    if not dual:
        return Informativeness(np.maximum(covariance, 0.0))
    rows = np.asarray(J, np.float64)
    # The covariance has no negative eigenvalue; what rounding leaves below zero is zero.
    return Informativeness(np.maximum(np.einsum("xj,xj->j", covariance @ rows, rows), 0.0))


def _wrong_count(weights: int, targets: str) -> NoReturn:
    raise InputError(f"target_weights has {weights} entries, but residual_derivative holds {targets} targets")


def _blocks(residual_derivative: Any, n_inputs: int) -> Iterator[AnyArray]:
    """Blocks of at most BLOCK_TARGETS columns, checked."""
    given: Iterable[Any] = residual_derivative
    if not _is_blocks(residual_derivative):
        given = (as_numpy(residual_derivative, "residual_derivative"),)
    for part in given:
        columns = _checks.real_matrix(part, "residual_derivative", "(n_inputs, n_targets)")
        if columns.shape[0] != n_inputs:
            raise InputError(
                f"residual_derivative has shape {columns.shape}, but jacobian has {n_inputs} rows: rows are inputs"
            )
        for start in range(0, columns.shape[1], BLOCK_TARGETS):
            yield np.asarray(columns[:, start : start + BLOCK_TARGETS], np.float64)


def _is_blocks(value: Any) -> bool:
    """Whether it holds matrices, rather than being one."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_dimensions(part) == 2 for part in value)
    if any(hasattr(value, name) for name in ("__array__", "__dlpack__", "to_numpy", "tocsr")):
        return False
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def _dimensions(value: Any) -> int:
    """Of an array, or of the lists that it is written as."""
    if isinstance(value, (list, tuple)):
        return 1 + (_dimensions(value[0]) if value else 0)
    return int(getattr(value, "ndim", 0))


def second_moment_norm(jacobian: Any, input_weights: Any = None) -> float:
    """``|Gamma|_F`` of ``Gamma = E[g g^T]``, g the gradient of the prediction.

    Formed from the smaller of ``Gamma`` (p, p) and the Gram matrix of the inputs (n_inputs, n_inputs):
    ``|Gamma|_F^2 = E_x,x' (g(x) . g(x'))^2``.

    Parameters
    ----------
    jacobian : array_like, shape (n_inputs, p)
    input_weights : array_like, shape (n_inputs,), optional
        Divided by their sum; equal by default.
    """
    J = _checks.real_matrix(jacobian, "jacobian", "(n_inputs, p)")
    n, p = J.shape
    mu = _checks.probabilities(input_weights, "input_weights", n)
    rows = np.asarray(J, np.float64) * np.sqrt(mu)[:, np.newaxis]
    if p <= n:
        return float(np.linalg.norm(weighted_gram(rows)))
    return float(np.linalg.norm(weighted_gram(np.ascontiguousarray(rows.T))))
