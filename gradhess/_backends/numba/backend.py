"""The table of operations of the Numba backend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partialmethod

import numpy as np
import numpy.typing as npt

from gradhess._backends.groups import Groups
from gradhess._backends.numba import (
    accumulate,
    moments,
    outer_gram,
    pair_kernels,
    row_products,
    scatter_kernels,
    workers,
)
from gradhess._backends.numba.group_sums import group_sums
from gradhess._backends.numba.kronecker_sums import kronecker_sums
from gradhess._backends.numba.row_source import NARROW_PARAMETERS, readonly
from gradhess._backends.protocol import (
    AnyArray,
    Float64Array,
    KroneckerFactor,
    MomentState,
    PairWeights,
    Rows,
)
from gradhess._backends.stepwise import Stepwise, batch_moments


class NumbaBackend(Stepwise):
    """The protocol of ``Backend``, compiled on first use and cached on disk."""

    name = "numba"
    moments = partialmethod(batch_moments, straight=True)

    def accumulate(
        self, rows: Rows, weights: Float64Array | None, state: MomentState, *, threads: int
    ) -> None:
        accumulate.accumulate(rows, weights, state, threads)

    def close_block(self, state: MomentState) -> None:
        moments.close_block(state)

    def merge(self, state: MomentState, other: MomentState) -> None:
        moments.merge(state, other)

    def symmetrize(self, lower: AnyArray, scale: float, out: AnyArray, *, threads: int) -> None:
        p = len(lower)
        source = readonly(lower)
        if p <= NARROW_PARAMETERS:
            scatter_kernels.symmetrize_strip(source, scale, out, 0, p)
            return

        def strip(index: int) -> None:
            scatter_kernels.symmetrize_strip(source, scale, out, *moments.strip_rows(index, p))

        workers.run(moments.strip_count(p), strip, threads=threads)

    def materialize(self, rows: Rows, out: AnyArray) -> None:
        row_products.materialize(rows, out)

    def first_nonfinite(self, rows: Rows, weights: Float64Array | None, *, threads: int) -> int:
        return row_products.first_nonfinite(rows, weights, threads)

    def errors(self, rows: Rows, *, threads: int) -> Float64Array:
        return row_products.errors(rows, threads)

    def norms(self, rows: Rows, *, threads: int) -> Float64Array:
        return row_products.norms(rows, threads)

    def matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        return row_products.matvec(rows, vectors, threads)

    def rmatvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        return row_products.rmatvec(rows, vectors, threads)

    def gram_matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        return row_products.gram_matvec(rows, vectors, threads)

    def group_sums(self, rows: Rows, groups: Groups, out: AnyArray, *, threads: int) -> None:
        group_sums(rows, groups, out, threads)

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
        outer_gram.outer_gram(A, pairs, unit_column, out, begin=begin, end=end, threads=threads)

    def kronecker_sums(
        self, A: Float64Array, factors: Sequence[KroneckerFactor], out: Float64Array, *, threads: int
    ) -> None:
        kronecker_sums(readonly(A), factors, out, threads=threads)

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
        rows = labels.shape[1] if n_rows is None else n_rows
        return pair_kernels.pair_dependence(labels, q, input_weights, target_weights, rows, threads)
