"""A backend for rows of every kind, from one for the kinds that it reads itself.

Structured rows contract themselves. For moments they are formed, a few slabs at a time, and handed to the backend as
dense rows: so the order of summation, the centring and the search for rows that are not finite are the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gradhess._backends import layout
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import (
    BLOCK_ROWS,
    AnyArray,
    Backend,
    BatchMoments,
    Float64Array,
    KroneckerFactor,
    MomentState,
    NonFiniteRow,
    PairWeights,
    Rows,
    Structure,
    Waiting,
)
from gradhess._backends.stepwise import batch_moments, extend
from gradhess._backends.structured_rows import StructuredRows

FORMED_BYTES: Final = 8 << 20
"""Rows that are formed at a time, where one slab of them is not larger."""


class StructuredBackend:
    """The protocol of ``Backend`` over ``kernels``, a backend that knows dense and GLM rows."""

    def __init__(self, kernels: Backend) -> None:
        self.kernels = kernels
        self.name = kernels.name

    def accumulate(
        self, rows: Rows, weights: Float64Array | None, state: MomentState, *, threads: int
    ) -> None:
        if not isinstance(rows, StructuredRows):
            self.kernels.accumulate(rows, weights, state, threads=threads)
            return
        with np.errstate(all="ignore"):  # rows that are not finite are found and reported by their index
            buffer = np.empty((0, rows.n_parameters), rows.compute_dtype)
            for start, stop in _pieces(rows, state, threads):
                if (
                    len(buffer) < stop - start
                ):  # fresh memory for every piece would cost as much as forming narrow rows
                    buffer = np.empty((stop - start, rows.n_parameters), rows.compute_dtype)
                formed = buffer[: stop - start]
                rows.portion(start, stop).expand(formed)
                part = None if weights is None else weights[start:stop]
                try:
                    self.kernels.accumulate(Rows(formed), part, state, threads=threads)
                except NonFiniteRow as bad:
                    raise NonFiniteRow(start + bad.index) from None

    def moments(
        self,
        rows: Rows,
        weights: Float64Array | None,
        structure: Structure,
        *,
        centred: bool,
        dtype: np.dtype[Any],
        scale: float | None,
        threads: int,
    ) -> BatchMoments:
        if isinstance(rows, StructuredRows):
            return batch_moments(
                self, rows, weights, structure, centred=centred, dtype=dtype, scale=scale, threads=threads
            )
        return self.kernels.moments(
            rows, weights, structure, centred=centred, dtype=dtype, scale=scale, threads=threads
        )

    def extend(
        self,
        rows: Rows,
        weights: Float64Array | None,
        state: MomentState,
        waiting: Waiting,
        *,
        threads: int,
    ) -> None:
        if isinstance(rows, StructuredRows):
            extend(self, rows, weights, state, waiting, threads=threads)
        else:
            self.kernels.extend(rows, weights, state, waiting, threads=threads)

    def close_block(self, state: MomentState) -> None:
        self.kernels.close_block(state)

    def merge(self, state: MomentState, other: MomentState) -> None:
        self.kernels.merge(state, other)

    def symmetrize(self, lower: AnyArray, scale: float, out: AnyArray, *, threads: int) -> None:
        self.kernels.symmetrize(lower, scale, out, threads=threads)

    def all_finite(self, array: Float64Array, *, threads: int) -> bool:
        return self.kernels.all_finite(array, threads=threads)

    def materialize(self, rows: Rows, out: AnyArray) -> None:
        if isinstance(rows, StructuredRows):
            with np.errstate(all="ignore"):
                rows.expand(out)
        else:
            self.kernels.materialize(rows, out)

    def first_nonfinite(self, rows: Rows, weights: Float64Array | None, *, threads: int) -> int:
        if not isinstance(rows, StructuredRows):
            return self.kernels.first_nonfinite(rows, weights, threads=threads)
        with np.errstate(all="ignore"):
            bad = rows.bad_rows()
        if weights is not None:
            bad |= ~np.isfinite(weights)
        return int(np.argmax(bad)) if bad.any() else -1

    def errors(self, rows: Rows, *, threads: int) -> Float64Array:
        return self.kernels.errors(rows, threads=threads)

    def norms(self, rows: Rows, *, threads: int) -> Float64Array:
        if not isinstance(rows, StructuredRows):
            return self.kernels.norms(rows, threads=threads)
        with np.errstate(all="ignore"):
            return rows.norms()

    def matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        if not isinstance(rows, StructuredRows):
            return self.kernels.matvec(rows, vectors, threads=threads)
        with np.errstate(all="ignore"):
            return rows.matvec(vectors)

    def rmatvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        if not isinstance(rows, StructuredRows):
            return self.kernels.rmatvec(rows, vectors, threads=threads)
        with np.errstate(all="ignore"):
            return rows.rmatvec(vectors)

    def gram_matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        if not isinstance(rows, StructuredRows):
            return self.kernels.gram_matvec(rows, vectors, threads=threads)
        with np.errstate(all="ignore"):
            return rows.gram_matvec(vectors)

    def pair_dependence(
        self,
        labels: npt.NDArray[np.uint8],
        q: int,
        input_weights: Float64Array,
        target_weights: Float64Array | None,
        *,
        n_rows: int | None = None,
        threads: int,
    ) -> Float64Array:
        return self.kernels.pair_dependence(
            labels, q, input_weights, target_weights, n_rows=n_rows, threads=threads
        )

    def outer_gram(
        self,
        A: AnyArray,
        pairs: PairWeights,
        unit_column: bool,
        out: AnyArray,
        *,
        begin: bool,
        end: bool,
        threads: int,
    ) -> None:
        self.kernels.outer_gram(A, pairs, unit_column, out, begin=begin, end=end, threads=threads)

    def kronecker_sums(
        self, A: Float64Array, factors: Sequence[KroneckerFactor], out: Float64Array, *, threads: int
    ) -> None:
        self.kernels.kronecker_sums(A, factors, out, threads=threads)

    def group_sums(self, rows: Rows, groups: Groups, out: AnyArray, *, threads: int) -> None:
        self.kernels.group_sums(rows, groups, out, threads=threads)


def _pieces(rows: StructuredRows, state: MomentState, threads: int) -> Iterator[tuple[int, int]]:
    """Ranges of whole slabs; of a block for each thread where so many rows are small enough."""
    row_bytes = rows.n_parameters * rows.compute_dtype.itemsize
    size = max(FORMED_BYTES // (row_bytes * state.slab_rows), 1) * state.slab_rows
    head = 0
    if size >= layout.BLOCK_ROWS or row_bytes * layout.BLOCK_ROWS <= FORMED_BYTES:
        size = max(size // layout.BLOCK_ROWS, threads) * layout.BLOCK_ROWS
        head = -int(state.counts[BLOCK_ROWS]) % layout.BLOCK_ROWS
    start, stop = 0, min(head + size, rows.n_samples)
    while start < rows.n_samples:
        yield start, stop
        start, stop = stop, min(stop + size, rows.n_samples)
