"""Rows into a ``MomentState``: the schedule around the kernels.

Narrow rows go to ``narrow``. Of others, up to ``BLOCK_BUFFER_MAX_PARAMETERS`` every block is the job of one thread and
has a scatter matrix of its own; blocks are committed in order, ``threads`` at a time. Above it, threads share the
columns of a few slabs, then the tiles of the scatter matrix. In both, each number is summed by one thread in the order
of ``layout``.
"""

from __future__ import annotations

import itertools
from typing import Final, TypeAlias

import numpy as np

from gradhess._backends import layout
from gradhess._backends.layout import SLAB_ROWS
from gradhess._backends.numba import narrow, scatter_kernels, slab_kernels, workers
from gradhess._backends.numba.moments import Block, close_block, fold
from gradhess._backends.numba.row_source import GROUP_BYTES, NARROW_PARAMETERS, RowSource, Terms, readonly
from gradhess._backends.protocol import BLOCK_ROWS, AnyArray, Float64Array, MomentState, NonFiniteRow, Rows

SHARED_BYTES: Final = 4 << 20
"""Rows of G that all threads together work on, where they share the columns."""
SHARED_ROWS: Final = 1024
"""The same, where only columns are summed; whole slabs."""
COLUMN_TILE: Final = 256

Span: TypeAlias = tuple[int, int]
"""First row and one past the last."""


def accumulate(rows: Rows, weights: Float64Array | None, state: MomentState, threads: int) -> None:
    if state.n_parameters <= NARROW_PARAMETERS:
        add = narrow.add_blocks
    else:
        add = _add_blocks if layout.has_block_buffer(state.n_parameters) else _add_shared
    with np.errstate(all="ignore"):  # rows that are not finite are found and reported by their index
        add(RowSource(rows, weights), state, threads)


# ---- slabs ------------------------------------------------------------------------------------------------------


def _slab_buffer(source: RowSource, state: MomentState, size: int) -> AnyArray:
    """Room for about as many whole slabs as ``size`` bytes hold, at least one; zeros beyond the last parameter."""
    slab, p = state.slab_rows, state.n_parameters
    wanted = -(-min(source.rows.n_samples, layout.BLOCK_ROWS) // slab)
    slabs = max(1, min(wanted, size // (slab * p * source.dtype.itemsize)))
    return scatter_kernels.rows_of_zeros(slabs * slab, p, source.dtype)


# ---- one thread for a block -------------------------------------------------------------------------------------


def _add_blocks(source: RowSource, state: MomentState, threads: int) -> None:
    n = source.rows.n_samples
    bounds = [0, *range(layout.BLOCK_ROWS - int(state.counts[BLOCK_ROWS]), n, layout.BLOCK_ROWS), n]
    spans = list(itertools.pairwise(bounds))
    slots = max(1, min(threads, len(spans)))
    blocks = [Block.of(state), *(Block.like(state) for _ in range(slots - 1))]
    buffers = [_slab_buffer(source, state, GROUP_BYTES) for _ in range(slots)]

    for first in range(0, len(spans), slots):
        batch = spans[first : first + slots]
        bad = [-1] * len(batch)

        def add(slot: int, batch: list[Span] = batch, bad: list[int] = bad) -> None:
            bad[slot] = _add_span(source, batch[slot], state, blocks[slot], buffers[slot])

        workers.run(len(batch), add, threads)
        for slot in range(len(batch)):
            if bad[slot] >= 0:
                raise NonFiniteRow(bad[slot])
            if blocks[slot].rows == layout.BLOCK_ROWS:
                fold(state, blocks[slot], threads=1)
            else:
                blocks[slot].store(state)


def _add_span(source: RowSource, span: Span, state: MomentState, block: Block, z: AnyArray) -> int:
    """Add rows to one block. Returns the first row that is not finite, or -1."""
    d, width, p = source.features, source.width, state.n_parameters
    diagonal = state.structure == "diagonal"
    start, stop = span
    for at in range(start, stop, len(z)):
        end = min(at + len(z), stop)
        x, _ = source.read(at, end)
        terms = source.terms(at, end, x)
        bad = slab_kernels.prepare(
            state.slab_rows, x, 0, d, width, terms.factor, terms.weight, 0, p, block.totals[0] == 0.0, state.centred,
            block.shift, block.total, diagonal, block.scatter, z, 0,
        )  # fmt: skip
        if bad >= 0:
            found = source.find_bad(terms, (at, end), bad)
            if found >= 0:
                return found
        if state.structure == "full":
            w = terms.weight[:, 0].astype(source.dtype)
            scatter_kernels.add_tiles(z, w, state.slab_rows, block.scatter)
        slab_kernels.add_totals(state.slab_rows, terms.weight, terms.loss, block.totals)
        block.rows += end - at
    return -1


# ---- all threads for a few slabs --------------------------------------------------------------------------------


def column_tiles(outputs: int, features: int, width: int) -> list[tuple[int, int, int, int]]:
    """``(first, last, from_feature, to_feature)``: ranges of parameters, and of the features that they need.

    A tile holds several whole outputs, or a part of one.
    """
    step = min(width, COLUMN_TILE)
    whole = max(1, COLUMN_TILE // width)
    if step == width:
        return [(q * width, min(q + whole, outputs) * width, 0, features) for q in range(0, outputs, whole)]
    return [
        (q * width + j, q * width + min(j + step, width), min(j, features), min(j + step, features))
        for q in range(outputs)
        for j in range(0, width, step)
    ]


def shared_terms(source: RowSource, start: int, stop: int, threads: int) -> Terms:
    """The loss terms of at most a block of rows, by all threads."""
    if source.rows.kind == "dense":
        return source.terms(start, stop)
    step = max(64, -(-(stop - start) // threads))
    pieces = [(at, min(at + step, stop)) for at in range(start, stop, step)]
    parts: dict[int, Terms] = {}

    def evaluate(index: int) -> None:
        parts[index] = source.terms(*pieces[index])

    workers.run(len(pieces), evaluate, threads)
    in_order = (parts[index] for index in range(len(pieces)))
    return Terms(*(readonly(np.concatenate(part)) for part in zip(*in_order, strict=True)))


def _add_shared(source: RowSource, state: MomentState, threads: int) -> None:
    n = source.rows.n_samples
    z = _slab_buffer(source, state, SHARED_BYTES) if state.structure == "full" else None
    rows_at_once = SHARED_ROWS if z is None else len(z)
    start = 0
    while start < n:
        block = Block.of(state)
        stop = min(n, start + rows_at_once, start + layout.BLOCK_ROWS - block.rows)
        terms = shared_terms(source, start, stop, threads)
        _add_columns(source, terms, (start, stop), state, z, threads=threads)
        if z is not None:
            _add_products(z, terms.weight[:, 0].astype(source.dtype), state.slab_rows, block.scatter, threads)
        slab_kernels.add_totals(state.slab_rows, terms.weight, terms.loss, block.totals)
        state.counts[BLOCK_ROWS] += stop - start
        if state.counts[BLOCK_ROWS] == layout.BLOCK_ROWS:
            close_block(state, threads)
        start = stop


def _add_columns(
    source: RowSource, terms: Terms, span: Span, state: MomentState, z: AnyArray | None, *, threads: int
) -> None:
    """Shifts, sums and diagonal; and the rows of G into ``z``, where there is one."""
    block = Block.of(state)
    diagonal = state.structure == "diagonal"
    tiles = column_tiles(source.rows.n_outputs, source.features, source.width)
    bad = [-1] * len(tiles)

    def add(index: int) -> None:
        first, last, low, high = tiles[index]
        x, column = source.read(*span, low, high)
        buffer, left = (np.empty((SLAB_ROWS, last - first), source.dtype), 0) if z is None else (z, first)
        bad[index] = slab_kernels.prepare(
            state.slab_rows, x, column, source.features, source.width, terms.factor, terms.weight, first, last,
            block.totals[0] == 0.0, state.centred, block.shift, block.total, diagonal, block.scatter, buffer, left,
        )  # fmt: skip

    workers.run(len(tiles), add, threads)
    suspects = [row for row in bad if row >= 0]
    if suspects:
        found = source.find_bad(terms, span, min(suspects))
        if found >= 0:
            raise NonFiniteRow(found)


def _add_products(z: AnyArray, w: AnyArray, slab: int, scatter: AnyArray, threads: int) -> None:
    p, height, width = len(scatter), scatter_kernels.TILE_ROWS, scatter_kernels.TILE_COLUMNS
    tiles = [(top, left) for top in range(0, p, height) for left in range(0, min(top + height, p), width)]
    tiles.reverse()  # large ones first, so that threads finish together

    def add(index: int) -> None:
        scatter_kernels.add_tile(z, w, slab, *tiles[index], scatter)

    workers.run(len(tiles), add, threads)
