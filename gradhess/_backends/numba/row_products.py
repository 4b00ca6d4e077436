"""Row-wise operations: norms, products with vectors, rows themselves, and the search for one that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from gradhess._backends import layout
from gradhess._backends.numba import slab_kernels, workers
from gradhess._backends.numba.accumulate import COLUMN_TILE, column_tiles, shared_terms
from gradhess._backends.numba.row_source import RowSource, readonly
from gradhess._backends.protocol import AnyArray, Float64Array, Rows


def materialize(rows: Rows, out: AnyArray) -> None:
    source = RowSource(rows)
    for start, stop in _groups(0, rows.n_samples, source.group_rows()):
        x, _ = source.read(start, stop)
        factor = source.terms(start, stop, x).factor
        target = out[start:stop]
        slab_kernels.fill(
            x, 0, 0, stop - start, source.features, source.width, factor, 0, rows.n_parameters, target, 0, 0
        )


def first_nonfinite(rows: Rows, weights: Float64Array | None, threads: int) -> int:
    source = RowSource(rows, weights)
    jobs = list(_groups(0, rows.n_samples, layout.BLOCK_ROWS))
    step = source.group_rows()
    # In batches, so that a bad row at the start is found at once.
    for first in range(0, len(jobs), 4 * threads):
        batch = jobs[first : first + 4 * threads]
        found = [-1] * len(batch)

        def search(index: int, batch: list[tuple[int, int]] = batch, found: list[int] = found) -> None:
            for start, stop in _groups(*batch[index], step):
                x, _ = source.read(start, stop)
                terms = source.terms(start, stop, x)
                bad = int(slab_kernels.first_nonfinite(x, source.features, terms.factor, terms.weight))
                if bad >= 0:
                    found[index] = start + bad
                    return

        workers.run(len(batch), search, threads)
        hits = [row for row in found if row >= 0]
        if hits:
            return min(hits)
    return -1


def errors(rows: Rows, threads: int) -> Float64Array:
    source = RowSource(rows)
    out = np.empty((rows.n_samples, rows.n_outputs))

    def compute(start: int, stop: int) -> None:
        x, _ = source.read(start, stop)
        out[start:stop] = source.terms(start, stop, x).factor

    _for_groups(source, 0, compute, threads)
    return out


def norms(rows: Rows, threads: int) -> Float64Array:
    """``|delta (x) x~| = |delta| |x~|``, so no outer product is formed."""
    source = RowSource(rows)
    out = np.empty(rows.n_samples)

    def compute(start: int, stop: int) -> None:
        x, _ = source.read(start, stop)
        slab_kernels.row_norms(x, source.features, float(rows.unit_column), out[start:stop])
        if rows.kind == "gradient":
            factor = source.terms(start, stop, x).factor
            out[start:stop] *= np.sqrt((factor * factor).sum(axis=1))

    _for_groups(source, 0, compute, threads)
    return out


def matvec(rows: Rows, vectors: Float64Array, threads: int) -> Float64Array:
    """``(delta (x) x~) . v = sum_q delta_q (x~ . v_q)`` with v as (k, width)."""
    source = RowSource(rows)
    k, m = rows.n_outputs, vectors.shape[1]
    pieces = vectors.T.reshape(m * k, source.width)
    slopes = np.ascontiguousarray(pieces[:, : source.features])
    offsets = np.ascontiguousarray(pieces[:, -1]) if rows.unit_column else np.zeros(m * k)
    slopes, offsets = readonly(slopes), readonly(offsets)
    out = np.empty((rows.n_samples, m))

    def compute(start: int, stop: int) -> None:
        x, _ = source.read(start, stop)
        products = source.products(x, slopes, offsets).reshape(stop - start, m, k)
        factor = source.terms(start, stop, x).factor
        out[start:stop] = (products * factor[:, np.newaxis, :]).sum(axis=2)

    _for_groups(source, 2 * m * k, compute, threads)
    return out


def rmatvec(rows: Rows, vectors: Float64Array, threads: int) -> Float64Array:
    """Threads share the columns of G, so that each sum is made by one of them, in the order of the rows."""
    source = RowSource(rows)
    out = np.zeros((vectors.shape[1], rows.n_parameters))
    tiles = column_tiles(rows.n_outputs, source.features, source.width)
    slabs = max(1, source.group_rows() // layout.SLAB_ROWS)
    for start, stop in _groups(0, rows.n_samples, slabs * layout.SLAB_ROWS):
        factor = shared_terms(source, start, stop, threads).factor
        given = readonly(vectors[start:stop])

        def add(index: int, span: tuple[int, int], factor: AnyArray, given: AnyArray) -> None:
            first, last, low, high = tiles[index]
            x, column = source.read(*span, low, high)
            z = np.empty((layout.SLAB_ROWS, min(COLUMN_TILE, last - first)), source.dtype)
            slab_kernels.add_cross(
                x, column, source.features, source.width, factor, given, first, last, out, z
            )

        workers.run(len(tiles), partial(add, span=(start, stop), factor=factor, given=given), threads)
    return np.ascontiguousarray(out.T)


def gram_matvec(rows: Rows, vectors: Float64Array, threads: int) -> Float64Array:
    """A block of rows at a time, so that the second product finds it in cache."""
    out = np.zeros_like(vectors)
    for start, stop in _groups(0, rows.n_samples, layout.BLOCK_ROWS):
        block = rows.slice(start, stop)
        out += rmatvec(block, matvec(block, vectors, threads), threads)
    return out


def _groups(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    for at in range(start, stop, step):
        yield at, min(at + step, stop)


def _for_groups(
    source: RowSource, numbers_per_row: int, compute: Callable[[int, int], None], threads: int
) -> None:
    groups = list(_groups(0, source.rows.n_samples, source.group_rows(numbers_per_row)))
    workers.run(len(groups), lambda index: compute(*groups[index]), threads)
