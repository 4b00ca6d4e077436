"""Grouped rows: ``g_j = sum of the rows in group j``, formed a few thousand at a time and dense from there on.

Nothing of the size (groups, rows in a group, parameters) is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from gradhess._backends import registry
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import AnyArray, Float64Array, Rows
from gradhess._backends.row_shapes import GroupedShape
from gradhess._backends.structured_rows import StructuredRows


@dataclass(slots=True, eq=False)
class GroupedRows(GroupedShape, StructuredRows):
    """``X`` and ``unit_column`` say which rows ``x~`` the groups draw from."""

    groups: Groups = field(kw_only=True)

    @property
    def n_samples(self) -> int:
        return self.groups.count

    def take(self, which: Any) -> Rows:
        if isinstance(which, slice):
            start, stop, _ = which.indices(self.groups.count)
            return replace(self, groups=self.groups.slice(start, max(start, stop)))
        return replace(self, groups=self.groups.take(which))

    def nonfinite_entry(self, index: int, row: int) -> str | None:
        drawn = self.groups.rows_of(index)
        bad = ~np.isfinite(self.X[drawn]).all(axis=1)
        if self.groups.slopes is not None:
            bad |= ~np.isfinite(self.groups.slopes[drawn]).all(axis=1)
        if not bad.any():
            return None
        return f"group {row} holds row {drawn[int(np.argmax(bad))]}, whose gradient is not finite"

    def expand(self, out: AnyArray) -> None:
        if out.dtype != self.compute_dtype or not out.flags.c_contiguous:
            sums = np.empty(out.shape, self.compute_dtype)
            self.expand(sums)
            out[...] = sums
            return
        rows = Rows(self.X, unit_column=self.unit_column)
        registry.active().group_sums(rows, self.groups, out, threads=registry.num_threads())

    def blocks(self) -> Iterator[tuple[slice, Rows]]:
        """The sums as dense rows, block after block."""
        for span, part in self.portions(self.n_parameters):
            sums = np.empty((part.n_samples, self.n_parameters), self.compute_dtype)
            part.expand(sums)
            yield span, Rows(sums)

    def bad_rows(self) -> AnyArray:
        bad = np.zeros(self.n_samples, np.bool_)
        for span, block in self.blocks():
            bad[span] = ~np.isfinite(block.X).all(axis=1)
        return bad

    def norms(self) -> Float64Array:
        out = np.empty(self.n_samples)
        for span, block in self.blocks():
            out[span] = registry.active().norms(block, threads=registry.num_threads())
        return out

    def matvec(self, vectors: Float64Array) -> Float64Array:
        out = np.empty((self.n_samples, vectors.shape[1]))
        for span, block in self.blocks():
            out[span] = registry.active().matvec(block, vectors, threads=registry.num_threads())
        return out

    def rmatvec(self, vectors: Float64Array) -> Float64Array:
        out = np.zeros((self.n_parameters, vectors.shape[1]))
        for span, block in self.blocks():
            part = np.ascontiguousarray(vectors[span])
            out += registry.active().rmatvec(block, part, threads=registry.num_threads())
        return out

    def gram_matvec(self, vectors: Float64Array) -> Float64Array:
        out = np.zeros_like(vectors)
        for _, block in self.blocks():
            out += registry.active().gram_matvec(block, vectors, threads=registry.num_threads())
        return out

    def squares(self) -> Float64Array:
        out = np.zeros(self.n_parameters)
        for _, block in self.blocks():
            sums = block.X.astype(np.float64)
            out += (sums * sums).sum(axis=0)
        return out

    def inner_products(self, other: Self) -> Float64Array:
        sums = [np.empty((rows.n_samples, rows.n_parameters)) for rows in (self, other)]
        for rows, out in zip((self, other), sums, strict=True):
            rows.expand(out)
        return np.asarray(sums[0] @ sums[1].T)
