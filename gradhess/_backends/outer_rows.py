"""Rows of a linear layer: ``g_i = sum_t delta_it (x) a~_it``, row-major over (output, feature).

With T steps, w features (the unit column included) and k outputs there are two ways to contract rows: step by step,
without forming them, or row by row. Which one costs less depends on the shapes alone:

=====================  ====================  ==========================
contraction            step by step          by forming each row first
=====================  ====================  ==========================
norm                   ``T^2 (w + k)``       ``T w k + w k``
``G V``, ``G^T U``     ``T w k M``           ``T w k + w k M``
product of two rows    ``T^2 (w + k)``       ``w k (1 + T / (rows at a time))``
=====================  ====================  ==========================

The norm step by step is the Gram trick: ``||sum_t delta_t (x) a_t||^2 = sum_tu (delta_t . delta_u)(a_t . a_u)``
(I. Goodfellow, "Efficient per-example gradient computations", arXiv 1510.01799, for T = 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from gradhess._backends.protocol import AnyArray, Float64Array, Rows
from gradhess._backends.row_shapes import OuterShape
from gradhess._backends.structured_rows import PAIR_ROWS, StructuredRows, formed_pair_rows

SHORT_SUM: Final = 256
"""Steps that are summed in the compute type before float64 takes over, as the rows of a slab are."""


@dataclass(slots=True, eq=False)
class OuterRows(OuterShape, StructuredRows):
    """``X`` holds the activations: (n, m), or (n, T, m) with a sequence axis; ``unit_column`` appends a one to each."""

    errors: AnyArray = field(kw_only=True)
    """(n, k), or (n, T, k)."""
    mask: npt.NDArray[np.bool_] | None = None
    """(n, T): which steps count. What the others hold is never looked at."""

    def take(self, which: Any) -> Rows:
        mask = None if self.mask is None else self.mask[which]
        return replace(self, X=self.X[which], errors=self.errors[which], mask=mask)

    def nonfinite_entry(self, index: int, row: int) -> str | None:
        for name, array in (("activations", self.X), ("errors", self.errors)):
            finite = np.isfinite(array[index])
            if self.mask is not None:
                finite |= ~self.mask[index][:, np.newaxis]
            if not finite.all():
                at = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
                return f"{name}[{', '.join(map(str, (row, *at)))}] is {array[(index, *at)]}"
        return None

    def factors(self, dtype: npt.DTypeLike = np.float64) -> tuple[AnyArray, AnyArray]:
        """Activations (n, T, w), with their unit column, and errors (n, T, k); zero in steps that do not count."""
        n, steps = self.n_samples, self.steps
        A = np.empty((n, steps, self.width), dtype)
        A[..., : self.X.shape[-1]] = self.X.reshape(n, steps, -1)
        if self.unit_column:
            A[..., -1] = 1
        D = np.array(self.errors.reshape(n, steps, -1), dtype, order="C")
        if self.mask is not None:
            A[~self.mask] = 0
            D[~self.mask] = 0
        return A, D

    # ---- rows as such --------------------------------------------------------------------------------------------

    def expand(self, out: AnyArray) -> None:
        for span, part in self.portions(self.steps * (self.width + self.n_outputs)):
            part._expand(out[span].reshape(part.n_samples, self.n_outputs, self.width))

    def _expand(self, out: AnyArray) -> None:
        A, D = self.factors(out.dtype)
        if self.steps == 1:
            np.multiply(D[:, 0, :, np.newaxis], A[:, 0, np.newaxis, :], out=out)
        elif self.steps <= SHORT_SUM:
            np.matmul(D.swapaxes(1, 2), A, out=out)
        else:
            total = np.zeros(out.shape)
            for start in range(0, self.steps, SHORT_SUM):
                here = slice(start, start + SHORT_SUM)
                total += D[:, here].swapaxes(1, 2) @ A[:, here]
            out[...] = total

    def _rows(self) -> Float64Array:
        out = np.empty((self.n_samples, self.n_parameters))
        self.expand(out)
        return out

    def bad_rows(self) -> AnyArray:
        bad = np.zeros(self.n_samples, np.bool_)
        for span, part in self.portions(self.steps * (self.width + self.n_outputs)):
            A, D = part.factors(self.compute_dtype)
            # No entry of a row is larger than this, and NaN and infinity show in it: infinity times zero is NaN.
            bad[span] = ~np.isfinite((np.abs(A).max(axis=2) * np.abs(D).max(axis=2)).sum(axis=1))
        if self.steps > 1:  # terms that are too large together may cancel
            for index in np.flatnonzero(bad):
                row = np.empty((1, self.n_parameters), self.compute_dtype)
                self.portion(int(index), int(index) + 1).expand(row)
                bad[index] = not np.isfinite(row).all()
        return bad

    # ---- contractions --------------------------------------------------------------------------------------------

    def norms(self) -> Float64Array:
        steps, width, k = self.steps, self.width, self.n_outputs
        out = np.empty(self.n_samples)
        by_steps = steps * steps * (width + k) <= (steps + 1) * width * k
        numbers = steps * (width + k) + (2 * steps * steps if by_steps else width * k)
        for span, part in self.portions(numbers):
            if steps == 1:
                A, D = part.factors()
                # Not by a product of squares, which underflows where the norm does not.
                out[span] = np.linalg.norm(A[:, 0], axis=1) * np.linalg.norm(D[:, 0], axis=1)
            elif by_steps:
                A, D = part.factors()
                products = (A @ A.swapaxes(1, 2)) * (D @ D.swapaxes(1, 2))
                out[span] = np.sqrt(np.maximum(products.sum(axis=(1, 2)), 0.0))  # maximum keeps NaN
            else:
                out[span] = np.linalg.norm(part._rows(), axis=1)
        return out

    def matvec(self, vectors: Float64Array) -> Float64Array:
        m = vectors.shape[1]
        out = np.empty((self.n_samples, m))
        if self._row_by_row(m):
            for span, part in self.portions(self.n_parameters + self.steps * (self.width + self.n_outputs)):
                out[span] = part._rows() @ vectors
            return out
        weights = np.ascontiguousarray(vectors.T).reshape(m, self.n_outputs, self.width)
        narrow = min(self.n_outputs, self.width)
        for span, part in self.portions(self.steps * (self.width + self.n_outputs + 2 * narrow * m)):
            out[span] = _products(*part.factors(), weights)
        return out

    def rmatvec(self, vectors: Float64Array) -> Float64Array:
        m = vectors.shape[1]
        if self._row_by_row(m):
            out = np.zeros((self.n_parameters, m))
            for span, part in self.portions(self.n_parameters + self.steps * (self.width + self.n_outputs)):
                out += part._rows().T @ vectors[span]
            return out
        total = np.zeros((m, self.n_outputs, self.width))
        for span, part in self.portions(self.steps * (self.width + 2 * self.n_outputs)):
            _add_weighted(*part.factors(), vectors[span], total)
        return np.ascontiguousarray(total.reshape(m, -1).T)

    def gram_matvec(self, vectors: Float64Array) -> Float64Array:
        m = vectors.shape[1]
        if self._row_by_row(m):
            out = np.zeros((self.n_parameters, m))
            for _, part in self.portions(self.n_parameters + self.steps * (self.width + self.n_outputs)):
                G = part._rows()
                out += G.T @ (G @ vectors)
            return out
        weights = np.ascontiguousarray(vectors.T).reshape(m, self.n_outputs, self.width)
        total = np.zeros_like(weights)
        narrow = min(self.n_outputs, self.width)
        for _, part in self.portions(self.steps * (self.width + 2 * self.n_outputs + 2 * narrow * m)):
            A, D = part.factors()
            _add_weighted(A, D, _products(A, D, weights), total)
        return np.ascontiguousarray(total.reshape(m, -1).T)

    def _row_by_row(self, n_vectors: int) -> bool:
        """Whether forming a row first costs less than going over its steps once for each vector."""
        return self.steps * n_vectors > self.steps + n_vectors

    def squares(self) -> Float64Array:
        total = np.zeros((self.n_outputs, self.width))
        if self.steps == 1:
            for _, part in self.portions(2 * (self.width + self.n_outputs)):
                A, D = part.factors()
                total += (D[:, 0] ** 2).T @ A[:, 0] ** 2
            return total.reshape(-1)
        flat = total.reshape(-1)
        for _, part in self.portions(self.n_parameters + self.steps * (self.width + self.n_outputs)):
            G = part._rows()
            flat += np.einsum("ij,ij->j", G, G)
        return flat

    @property
    def _pairs_by_steps(self) -> bool:
        per_row = self.width * self.n_outputs * (1 + self.steps / formed_pair_rows(self.n_parameters))
        return self.steps * self.steps * (self.width + self.n_outputs) <= per_row

    @property
    def pair_rows(self) -> int:
        if self._pairs_by_steps:
            return max(PAIR_ROWS // self.steps, 1)
        return formed_pair_rows(self.n_parameters)

    def inner_products(self, other: Self) -> Float64Array:
        if not self._pairs_by_steps:
            mine = self._rows()
            return np.asarray(mine @ (mine.T if other is self else other._rows().T))
        (A, D), (B, E) = self.factors(), other.factors()
        along = A.reshape(-1, A.shape[2]) @ B.reshape(-1, B.shape[2]).T
        along *= D.reshape(-1, D.shape[2]) @ E.reshape(-1, E.shape[2]).T
        steps = self.steps
        return np.asarray(along.reshape(self.n_samples, steps, other.n_samples, steps).sum(axis=(1, 3)))


def _products(A: Float64Array, D: Float64Array, weights: Float64Array) -> Float64Array:
    """(n, M): ``sum_t delta_t^T W a_t`` for each W of ``weights`` (M, k, w), through the shorter of its two sides."""
    n, steps, width = A.shape
    m, k, _ = weights.shape
    if k <= width:
        inner = (A.reshape(-1, width) @ weights.reshape(m * k, width).T).reshape(n, steps, m, k)
        return np.asarray(np.einsum("ntmk,ntk->nm", inner, D))
    across = np.ascontiguousarray(weights.transpose(1, 0, 2)).reshape(k, m * width)
    inner = (D.reshape(-1, k) @ across).reshape(n, steps, m, width)
    return np.asarray(np.einsum("ntmw,ntw->nm", inner, A))


def _add_weighted(A: Float64Array, D: Float64Array, u: Float64Array, total: Float64Array) -> None:
    """``total[c] += sum_it u_ic delta_it a_it^T`` for every column c of u (n, M)."""
    flat = A.reshape(-1, A.shape[2])
    for c in range(u.shape[1]):
        total[c] += (D * u[:, c, np.newaxis, np.newaxis]).reshape(-1, D.shape[2]).T @ flat
