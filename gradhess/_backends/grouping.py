"""Grouped rows on any backend: their sums are formed a few thousand at a time, and are dense rows from there on.

So no other operation of a backend knows of groups, and nothing of the size (groups, rows in a group, parameters) is
ever made: the block of sums stays within ``BLOCK_BYTES``, beside which the sums of the next block replace it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from gradhess._backends.groups import Groups
from gradhess._backends.protocol import (
    AnyArray,
    Backend,
    Float64Array,
    MomentState,
    NonFiniteRow,
    Rows,
)

BLOCK_BYTES: Final = 4 << 20
"""Sums that wait to be multiplied: few enough for the L3 cache, and two blocks of 4096 rows of 64 parameters."""
BLOCK_MAX_GROUPS: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedRows(Rows):
    """Row j is the sum of group j. ``kind``, ``unit_column`` and ``coef`` say what is summed, as in ``Rows``."""

    groups: Groups

    @property
    def n_samples(self) -> int:
        return self.groups.count

    def slice(self, start: int, stop: int) -> GroupedRows:
        return replace(self, groups=self.groups.slice(start, stop))

    def take(self, keep: Any) -> GroupedRows:
        return replace(self, groups=self.groups.take(keep))

    def ungrouped(self) -> Rows:
        """The rows ``x~`` that the groups draw from."""
        return Rows(self.X, unit_column=self.unit_column)


class GroupingBackend:
    """A backend that takes grouped rows too; everything else it hands on."""

    def __init__(self, plain: Backend) -> None:
        self.plain = plain
        self.name = plain.name

    def accumulate(
        self, rows: Rows, weights: Float64Array | None, state: MomentState, *, threads: int
    ) -> None:
        if not isinstance(rows, GroupedRows):
            self.plain.accumulate(rows, weights, state, threads=threads)
            return
        for start, stop, block in self._blocks(rows, threads, unit=state.slab_rows):
            part = None if weights is None else weights[start:stop]
            try:
                self.plain.accumulate(block, part, state, threads=threads)
            except NonFiniteRow as bad:
                raise NonFiniteRow(start + bad.index) from None

    def close_block(self, state: MomentState) -> None:
        self.plain.close_block(state)

    def merge(self, state: MomentState, other: MomentState) -> None:
        self.plain.merge(state, other)

    def symmetrize(self, lower: AnyArray, scale: float, out: AnyArray, *, threads: int) -> None:
        self.plain.symmetrize(lower, scale, out, threads=threads)

    def materialize(self, rows: Rows, out: AnyArray) -> None:
        if isinstance(rows, GroupedRows):
            self.plain.group_sums(rows.ungrouped(), rows.groups, out, threads=1)
        else:
            self.plain.materialize(rows, out)

    def first_nonfinite(self, rows: Rows, weights: Float64Array | None, *, threads: int) -> int:
        if not isinstance(rows, GroupedRows):
            return self.plain.first_nonfinite(rows, weights, threads=threads)
        for start, stop, block in self._blocks(rows, threads):
            part = None if weights is None else weights[start:stop]
            index = self.plain.first_nonfinite(block, part, threads=threads)
            if index >= 0:
                return start + index
        return -1

    def norms(self, rows: Rows, *, threads: int) -> Float64Array:
        if not isinstance(rows, GroupedRows):
            return self.plain.norms(rows, threads=threads)
        out = np.empty(rows.n_samples)
        for start, stop, block in self._blocks(rows, threads):
            out[start:stop] = self.plain.norms(block, threads=threads)
        return out

    def matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        if not isinstance(rows, GroupedRows):
            return self.plain.matvec(rows, vectors, threads=threads)
        out = np.empty((rows.n_samples, vectors.shape[1]))
        for start, stop, block in self._blocks(rows, threads):
            out[start:stop] = self.plain.matvec(block, vectors, threads=threads)
        return out

    def rmatvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        if not isinstance(rows, GroupedRows):
            return self.plain.rmatvec(rows, vectors, threads=threads)
        out = np.zeros((rows.n_parameters, vectors.shape[1]))
        for start, stop, block in self._blocks(rows, threads):
            out += self.plain.rmatvec(block, vectors[start:stop], threads=threads)
        return out

    def gram_matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        if not isinstance(rows, GroupedRows):
            return self.plain.gram_matvec(rows, vectors, threads=threads)
        out = np.zeros_like(vectors)
        for _, _, block in self._blocks(rows, threads):
            out += self.plain.gram_matvec(block, vectors, threads=threads)
        return out

    def group_sums(self, rows: Rows, groups: Groups, out: AnyArray, *, threads: int) -> None:
        self.plain.group_sums(rows, groups, out, threads=threads)

    def _blocks(self, rows: GroupedRows, threads: int, unit: int = 1) -> Iterator[tuple[int, int, Rows]]:
        """(start, stop, sums of these groups as dense rows), in whole ``unit``s; each overwrites the one before."""
        n, p, dtype = rows.n_samples, rows.n_parameters, rows.compute_dtype
        size = min(BLOCK_BYTES // (p * dtype.itemsize), BLOCK_MAX_GROUPS)
        size = max(size // unit, 1) * unit
        buffer = np.empty((min(size, n), p), dtype)
        whole = rows.ungrouped()
        for start in range(0, n, size):
            stop = min(start + size, n)
            sums = buffer[: stop - start]
            self.plain.group_sums(whole, rows.groups.slice(start, stop), sums, threads=threads)
            yield start, stop, Rows(sums)
