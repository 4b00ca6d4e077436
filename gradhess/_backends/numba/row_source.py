"""From ``Rows`` to what the kernels take: rows of X in the compute type, and the factors that the loss gives them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from gradhess._backends import layout
from gradhess._backends.numba import slab_kernels
from gradhess._backends.numba.loss_kernels import GIVEN, NONE, loss_code, loss_function
from gradhess._backends.protocol import AnyArray, Float64Array, Rows

NARROW_PARAMETERS: Final = 256
"""Up to here slabs are turned into columns first (``narrow``), which was faster at every width when they were compared
(``bench/numba_ratio.py``), and predictions are summed one column after the other, as there."""

GROUP_BYTES: Final = 1 << 19
"""Rows that are handled together take about as much, so that they are still in the L2 cache when read again."""

MAX_GROUP_ROWS: Final = 16 * layout.BLOCK_ROWS
"""Of narrow rows that are handled together."""

_ONES: Final = np.ones((MAX_GROUP_ROWS, 1))
_ZEROS: Final = np.zeros(MAX_GROUP_ROWS)


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
        self._in_place = self._direct or (X.dtype == self.dtype and X.flags.f_contiguous and X.flags.aligned)
        self._X = readonly(X) if self._in_place else X
        self._code = GIVEN
        if rows.loss is not None and rows.coef is not None and rows.y is not None:
            k = rows.coef.shape[0]
            self._code = loss_code(rows.loss)
            self._evaluate = loss_function(rows.loss, rows.kind == "hessian")
            self._coef = readonly(rows.coef)
            self._intercept = readonly(np.zeros(k) if rows.intercept is None else rows.intercept)
            self._y = rows.y

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

    def place(self, start: int, stop: int) -> tuple[AnyArray, bool, int]:
        """Rows of X in the compute type, C-contiguous; whether they are its columns; the index of the first of them."""
        if self._direct:
            return self._X, False, start
        return (self._X.T, True, start) if self._in_place else (self.read(start, stop)[0], False, 0)

    def slab_terms(self, start: int, stop: int) -> tuple[Any, ...]:
        """The arguments ``code`` to ``loss`` of ``narrow_kernels.add_blocks``, and ``w``."""
        n = stop - start
        loss = self.rows.loss
        if self._code == GIVEN or loss is None:
            terms = self.terms(start, stop)
            none = readonly(_ZEROS[:n])
            return (
                NONE if self.rows.kind == "dense" else GIVEN,
                0.0,
                False,
                readonly(_ONES[:1]),
                none,
                none,
                none,
                terms.factor,
                terms.loss,
                terms.weight[:, 0],
            )
        ones, c = readonly(_ONES[:n]), self.rows.loss_weight
        return (
            self._code, loss.parameter, self.rows.kind == "hessian", self._coef, self._intercept,
            self._labels(start, stop), ones[:, 0] if c is None else readonly(c[start:stop]), ones, readonly(_ZEROS[:n]),
            ones[:, 0] if self.weights is None else readonly(self.weights[start:stop]),
        )  # fmt: skip

    def terms(self, start: int, stop: int, x: AnyArray | None = None) -> Terms:
        """The loss terms of at most ``MAX_GROUP_ROWS`` rows; ``x`` is those rows, where they have been read already."""
        n = stop - start
        ones, zeros = readonly(_ONES[:n]), readonly(_ZEROS[:n])
        given = self.weights
        weight = ones if given is None else readonly(given[start:stop, np.newaxis])
        if self.rows.kind == "dense":
            return Terms(ones, weight, zeros)
        eta = self._predict(start, stop) if x is None else self._predictions(x)
        c = _ONES[:n, 0] if self.rows.loss_weight is None else self.rows.loss_weight[start:stop]
        slope, loss = np.empty_like(eta), np.empty(n)
        second = self.rows.kind == "hessian"
        self._evaluate(second, eta, self._labels(start, stop), readonly(c), loss, slope)
        if second:
            return Terms(ones, readonly(slope if given is None else weight * slope), readonly(loss))
        return Terms(readonly(slope), weight, readonly(loss))

    def _labels(self, start: int, stop: int) -> Float64Array:
        """Converted only now, by the thread that needs them: all at once cost as much as a pass over few columns."""
        return readonly(self._y[start:stop].astype(np.float64, copy=False))

    def products(self, x: AnyArray, vectors: AnyArray, offsets: AnyArray) -> Float64Array:
        """(n, m): x_i . vectors_q + offsets_q for vectors (m, d)."""
        out = np.empty((x.shape[0], vectors.shape[0]))
        slab_kernels.predict(x, self.features, vectors, offsets, out)
        return out

    def find_bad(self, terms: Terms, span: tuple[int, int], bad: int) -> int:
        """The first row of the span, from its row ``bad`` on, that is not finite; -1 if sums overflowed without one."""
        start, stop = span
        step = self.group_rows()
        for at in range(start + bad, stop, step):
            x, _ = self.read(at, min(at + step, stop))
            here = slice(at - start, at - start + len(x))
            found = int(
                slab_kernels.first_nonfinite(x, self.features, terms.factor[here], terms.weight[here])
            )
            if found >= 0:
                return at + found
        return -1

    def _predict(self, start: int, stop: int) -> Float64Array:
        if self._direct:
            return self._predictions(self._X[start:stop])
        step = self.group_rows()
        pieces = [(at, min(at + step, stop)) for at in range(start, stop, step)]
        return np.concatenate([self._predictions(self.read(*piece)[0]) for piece in pieces])

    def _predictions(self, x: AnyArray) -> Float64Array:
        """(n, k), with the bits that a row has in whatever kernel adds it."""
        if self.rows.n_parameters > NARROW_PARAMETERS:
            return self.products(x, self._coef, self._intercept)
        out = np.empty((x.shape[0], self._coef.shape[0]))
        slab_kernels.predict_in_order(x, self._coef, self._intercept, out)
        return out
