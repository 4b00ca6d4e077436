"""From ``Rows`` to what the kernels take: rows of X in the compute type, and the factors that the loss gives them."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from gradhess._backends import layout
from gradhess._backends.numba import slab_kernels
from gradhess._backends.numba.loss_kernels import loss_function
from gradhess._backends.protocol import AnyArray, Float64Array, Rows

GROUP_BYTES: Final = 1 << 19
"""Rows that are handled together take about as much, so that they are still in the L2 cache when read again."""

_ONES: Final = np.ones((layout.BLOCK_ROWS, 1))
_ZEROS: Final = np.zeros(layout.BLOCK_ROWS)


def readonly(array: AnyArray) -> AnyArray:
    """A view that cannot be written to. All inputs are passed so: one compiled signature serves both kinds."""
    view = array.view()
    view.flags.writeable = False
    return view


class Terms(NamedTuple):
    """What a loss gives to n rows; constants where there is none."""

    factor: AnyArray
    """(n, k): row i of G is ``factor_i (x) x~_i``."""
    weight: AnyArray
    """(n, 1): moment weights, times the weight that the row brings with it."""
    loss: AnyArray
    """(n,): ``c_i l(eta_i, y_i)``."""


class RowSource:
    """Reads ``Rows`` piece by piece. Any number of threads may use one source at a time."""

    def __init__(self, rows: Rows, weights: Float64Array | None = None) -> None:
        X = rows.X
        self.rows = rows
        self.weights = weights
        self.dtype = rows.compute_dtype
        self.features = int(X.shape[1])
        self.width = self.features + int(rows.unit_column)
        self._direct = X.dtype == self.dtype and X.flags.c_contiguous and X.flags.aligned
        self._X = readonly(X) if self._direct else X
        if rows.loss is not None and rows.coef is not None and rows.y is not None:
            k = rows.coef.shape[0]
            self._evaluate = loss_function(rows.loss, rows.kind == "hessian")
            self._coef = readonly(rows.coef)
            self._intercept = readonly(np.zeros(k) if rows.intercept is None else rows.intercept)
            self._y = readonly(rows.y.astype(np.float64, copy=False))

    def group_rows(self, numbers_per_row: int = 0) -> int:
        """How many rows to handle together, at ``numbers_per_row`` numbers each beside the row itself."""
        bytes_per_row = self.features * self.dtype.itemsize + (self.rows.n_outputs + numbers_per_row) * 8
        return max(1, min(layout.BLOCK_ROWS, GROUP_BYTES // bytes_per_row))

    def read(self, start: int, stop: int, first: int = 0, last: int | None = None) -> tuple[AnyArray, int]:
        """Rows of X, C-contiguous in the compute type, at least columns ``first`` to ``last``; and the index of the
        first column that was read."""
        if self._direct:
            return self._X[start:stop], 0
        piece = self.rows.X[start:stop, first:last]
        out = np.empty(piece.shape, self.dtype)
        with np.errstate(over="ignore"):  # what becomes infinite is found and reported by its row
            out[...] = piece
        return readonly(out), first

    def terms(self, start: int, stop: int, x: AnyArray | None = None) -> Terms:
        """The loss terms of at most a block of rows; ``x`` is those rows, where they have been read already."""
        n = stop - start
        ones, zeros = readonly(_ONES[:n]), readonly(_ZEROS[:n])
        given = self.weights
        weight = ones if given is None else readonly(given[start:stop, np.newaxis])
        if self.rows.kind == "dense":
            return Terms(ones, weight, zeros)
        eta = self._predict(start, stop) if x is None else self.products(x, self._coef, self._intercept)
        c = _ONES[:n, 0] if self.rows.loss_weight is None else self.rows.loss_weight[start:stop]
        slope, loss = np.empty_like(eta), np.empty(n)
        second = self.rows.kind == "hessian"
        self._evaluate(second, eta, self._y[start:stop], readonly(c), loss, slope)
        if second:
            return Terms(ones, readonly(slope if given is None else weight * slope), readonly(loss))
        return Terms(readonly(slope), weight, readonly(loss))

    def products(self, x: AnyArray, vectors: AnyArray, offsets: AnyArray) -> Float64Array:
        """(n, m): x_i . vectors_q + offsets_q for vectors (m, d)."""
        out = np.empty((x.shape[0], vectors.shape[0]))
        slab_kernels.predict(x, self.features, vectors, offsets, out)
        return out

    def _predict(self, start: int, stop: int) -> Float64Array:
        if self._direct:
            return self.products(self._X[start:stop], self._coef, self._intercept)
        step = self.group_rows()
        pieces = [(at, min(at + step, stop)) for at in range(start, stop, step)]
        return np.concatenate(
            [self.products(self.read(*piece)[0], self._coef, self._intercept) for piece in pieces]
        )
