"""The universal contraction: ``X^T diag(weights) X``."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess import _memory
from gradhess import _validation as check
from gradhess._arrays import give_back, library_of
from gradhess._backends import registry
from gradhess._backends.protocol import FLOAT32, FLOAT64, AnyArray, Float64Array, MomentState, Rows
from gradhess._device_arrays import on_device
from gradhess._gradients import passes
from gradhess._gradients.base import scatter_of
from gradhess._gradients.device.make import device_weighted_gram
from gradhess._gradients.interrupts import InterruptDeferred

TEMPORARY_MAX_COLUMNS: Final = 1024
"""Up to here (8 MiB) the product is formed aside and then added to ``out``; above, ``out`` is the accumulator."""


def weighted_gram(X: Any, weights: Any = None, *, out: Any = None) -> Any:
    """``X^T diag(weights) X``, the full symmetric (d, d) matrix.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Rows are samples. float32 and float64 in any memory order without a copy; integers and booleans.
    weights : array_like, shape (n,), optional
        Of any sign; ones by default. ``diag(weights) X`` is never formed.
    out : array, shape (d, d), optional
        Of NumPy, or a tensor on the CPU.
        Accumulates: the product is **added** to it. float64, or float32 if ``X`` is; C- or Fortran-contiguous;
        symmetric (above 1024 columns only one triangle is read, and the sum is mirrored from it). Sums are formed
        in its type.

    Returns
    -------
    array, shape (d, d)
        ``out`` if given; else a new float64 array of the type of ``X``. Divided by nothing.

    Raises
    ------
    InputError, InputTypeError
        Shapes that do not agree; data that are not real numbers; an ``out`` that cannot be added to.
    NonFiniteError
        A row or a weight is not finite; ``row`` is the first.
    ResultTooLargeError
        The result would not fit in memory.

    Notes
    -----
    After an error ``out`` is as it was, to the bit. Only Ctrl-C above 1024 columns leaves the sum over some of the
    rows in it, as there is no second matrix to return to.
    """
    if type(X) is not np.ndarray and on_device(X):
        return device_weighted_gram(X, weights, out)
    rows = Rows(check.matrix(X, "X"))
    data = rows.X
    row_weights = None if weights is None else check.per_row(weights, "weights", rows.n_samples, data.shape)
    if row_weights is not None and rows.compute_dtype is FLOAT32:
        check.weights_fit_float32(row_weights, "weights")
    if out is None:
        _memory.require_matrix(rows.n_parameters, "a Gram matrix", FLOAT64)
        return give_back(_gram(rows, row_weights, FLOAT64), library_of(X))
    total = check.accumulating_output(out, rows.n_parameters, rows.compute_dtype)
    overlap = any(np.may_share_memory(out, array) for array in (data, row_weights) if array is not None)
    if rows.n_parameters <= TEMPORARY_MAX_COLUMNS or overlap:
        total += _gram(rows, row_weights, total.dtype)
    else:
        _accumulate_into(rows, row_weights, total)
    return out


def _gram(rows: Rows, weights: Float64Array | None, dtype: Any) -> AnyArray:
    state = passes.moments(rows, "full", dtype=dtype, weights=weights, weights_name="weights", scale=1.0)
    return scatter_of(state)


def _accumulate_into(rows: Rows, weights: Float64Array | None, out: AnyArray) -> None:
    """Add to the lower triangle of ``out`` itself, then mirror it: no second matrix of that size."""
    backend = registry.active()
    passes.refuse_nonfinite(backend, rows, weights, weights_name="weights")
    lower = out if out.flags.c_contiguous else out.T
    state = MomentState.empty(rows.n_parameters, "sum", centred=False)
    state.structure, state.scatter = "full", lower
    threads = registry.num_threads()
    try:
        for start, stop in passes.moment_pieces(rows, state, threads):
            with InterruptDeferred():
                backend.accumulate(
                    rows.slice(start, stop), passes.part(weights, start, stop), state, threads=threads
                )
    finally:
        backend.close_block(state)
        backend.symmetrize(lower, 1.0, lower, threads=threads)
