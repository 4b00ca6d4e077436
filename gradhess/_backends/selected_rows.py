"""Rows of an embedding: ``g_i = sum_t onehot(id_it) (x) v_it``, row-major over (entry, feature); nearly all zero.

Two steps with the same id meet in the same entries, so a norm is ``sum_tu [id_t = id_u] v_t . v_u``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gradhess._backends.protocol import AnyArray, Float64Array, Rows
from gradhess._backends.structured_rows import PAIR_ROWS, StructuredRows


@dataclass(slots=True, eq=False)
class SelectedRows(StructuredRows):
    """``X`` holds the values v, (n, T, d): the derivatives with respect to the vectors that were looked up."""

    ids: npt.NDArray[np.int64] = field(kw_only=True)
    """(n, T), from 0 to n_entries - 1."""
    n_entries: int = field(kw_only=True)

    @property
    def steps(self) -> int:
        return int(self.X.shape[1])

    @property
    def features(self) -> int:
        return int(self.X.shape[2])

    @property
    def n_parameters(self) -> int:
        return self.n_entries * self.features

    def take(self, which: Any) -> Rows:
        return replace(self, X=self.X[which], ids=self.ids[which])

    def nonfinite_entry(self, index: int, row: int) -> str | None:
        finite = np.isfinite(self.X[index])
        if finite.all():
            return None
        t, j = (int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
        return f"errors[{row}, {t}, {j}] is {self.X[index, t, j]}"

    def expand(self, out: AnyArray) -> None:
        out[...] = 0
        table = out.reshape(self.n_samples, self.n_entries, self.features)
        np.add.at(table, (np.arange(self.n_samples)[:, np.newaxis], self.ids), self.X.astype(out.dtype))

    def bad_rows(self) -> AnyArray:
        # No entry of a row is larger than this.
        largest = np.abs(self.X.astype(self.compute_dtype)).sum(axis=1)
        return np.asarray(~np.isfinite(largest).all(axis=1))

    def norms(self) -> Float64Array:
        out = np.empty(self.n_samples)
        for span, part in self.portions(self.steps * (self.features + 2 * self.steps)):
            values = part.X.astype(np.float64)
            same = part.ids[:, :, np.newaxis] == part.ids[:, np.newaxis, :]
            squares = np.where(same, values @ values.swapaxes(1, 2), 0.0).sum(axis=(1, 2))
            out[span] = np.sqrt(np.maximum(squares, 0.0))
        return out

    def matvec(self, vectors: Float64Array) -> Float64Array:
        out = np.empty((self.n_samples, vectors.shape[1]))
        for c in range(vectors.shape[1]):
            table = np.ascontiguousarray(vectors[:, c]).reshape(self.n_entries, self.features)
            for span, part in self.portions(2 * self.steps * self.features):
                out[span, c] = np.einsum("ntd,ntd->n", part.X.astype(np.float64), table[part.ids])
        return out

    def rmatvec(self, vectors: Float64Array) -> Float64Array:
        total = np.zeros((vectors.shape[1], self.n_entries, self.features))
        for span, part in self.portions(2 * self.steps * self.features):
            values = part.X.astype(np.float64)
            for c in range(vectors.shape[1]):
                np.add.at(total[c], part.ids, values * vectors[span, c, np.newaxis, np.newaxis])
        return np.ascontiguousarray(total.reshape(vectors.shape[1], -1).T)

    def squares(self) -> Float64Array:
        total = np.zeros((self.n_entries, self.features))
        for _, part in self.portions(3 * self.steps * self.features):
            row = np.arange(part.n_samples)[:, np.newaxis]
            places, place = np.unique(row * self.n_entries + part.ids, return_inverse=True)
            sums = np.zeros((len(places), self.features))
            np.add.at(sums, place.reshape(-1), part.X.reshape(-1, self.features).astype(np.float64))
            np.add.at(total, places % self.n_entries, sums * sums)
        return total.reshape(-1)

    @property
    def pair_rows(self) -> int:
        return max(PAIR_ROWS // self.steps, 1)

    def inner_products(self, other: Self) -> Float64Array:
        mine, theirs = self.X.reshape(-1, self.features), other.X.reshape(-1, self.features)
        products = mine.astype(np.float64) @ theirs.astype(np.float64).T
        products[self.ids.reshape(-1, 1) != other.ids.reshape(1, -1)] = 0.0
        by_row = products.reshape(self.n_samples, self.steps, other.n_samples, self.steps)
        return np.asarray(by_row.sum(axis=(1, 3)))
