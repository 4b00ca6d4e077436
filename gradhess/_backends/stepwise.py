"""For backends that have the steps alone: the moments of one batch, a stream of rows, and a check of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradhess._backends import layout
from gradhess._backends.protocol import (
    BLOCK_LOSS,
    LOSS,
    AnyArray,
    BatchMoments,
    Float64Array,
    MomentState,
    NonFiniteRow,
    Rows,
    Structure,
    Waiting,
)

if TYPE_CHECKING:
    from gradhess._backends.protocol import Backend


def batch_moments(
    backend: Backend,
    rows: Rows,
    weights: Float64Array | None,
    structure: Structure,
    *,
    centred: bool,
    dtype: np.dtype[Any],
    scale: float | None,
    threads: int,
    straight: bool = False,
) -> BatchMoments:
    """``Backend.moments``, step by step.

    ``straight`` is for a backend that sums blocks of few parameters, too, without a ``block_scatter``: one that stays
    open and is not corrected is the total.
    """
    state = MomentState.empty(rows.n_parameters, structure, centred=centred, dtype=dtype)
    if straight and not centred and rows.n_samples < layout.BLOCK_ROWS:
        state.block_scatter = None
    backend.accumulate(rows, weights, state, threads=threads)
    return finish(backend, state, scale, threads=threads)


def finish(backend: Backend, state: MomentState, scale: float | None, *, threads: int) -> BatchMoments:
    """Close the open block, and with ``scale`` multiply a full scatter by it and mirror it."""
    backend.close_block(state)
    if scale is not None and state.scatter is not None and state.structure == "full":
        backend.symmetrize(state.scatter, scale, state.scatter, threads=threads)
    return BatchMoments.of(state)


def extend(
    backend: Backend,
    rows: Rows,
    weights: Float64Array | None,
    state: MomentState,
    waiting: Waiting,
    *,
    threads: int,
) -> None:
    """``Backend.extend``, step by step."""
    n, slab = rows.n_samples, state.slab_rows
    room = waiting.room_for_weights(weights is not None)
    straight = rows.compute_dtype == waiting.rows.dtype
    last = 1 - waiting.half if waiting.n + n >= slab else waiting.half
    start, at, half = 0, waiting.n, waiting.half if waiting.n else last
    while start < n:
        full = at == 0 and straight and n - start >= slab
        stop = n - (n - start) % slab if full else min(start + slab - at, n)
        part, given = rows.slice(start, stop), None if weights is None else weights[start:stop]
        try:
            if full:
                backend.accumulate(part, given, state, threads=threads)
            else:
                _form(backend, part, given, waiting.rows[half, at : at + stop - start])
        except NonFiniteRow as bad:
            raise NonFiniteRow(start + bad.index) from None
        if not full:
            if room is not None:
                room[half, at : at + stop - start] = 1.0 if given is None else given
            at += stop - start
            if at == slab:
                formed = Rows(waiting.rows[half])
                backend.accumulate(formed, None if room is None else room[half], state, threads=threads)
                at, half = 0, last
        start = stop
    state.scalars[LOSS] = state.scalars[BLOCK_LOSS] = 0.0
    waiting.advance(n, room, weights is not None)


def _form(backend: Backend, rows: Rows, weights: Float64Array | None, out: AnyArray) -> None:
    """Write rows into ``out``, which may be of a wider type; NonFiniteRow at one that is not finite."""
    if rows.compute_dtype == out.dtype:
        backend.materialize(rows, out)
    else:
        narrow = np.empty(out.shape, rows.compute_dtype)
        backend.materialize(rows, narrow)
        out[...] = narrow
    bad = ~np.isfinite(out).all(axis=1)
    if weights is not None:
        bad |= ~np.isfinite(weights)
    if bad.any():
        raise NonFiniteRow(int(bad.argmax()))


class Stepwise:
    """Gives a backend its ``moments``, ``extend`` and ``all_finite``."""

    moments = batch_moments
    extend = extend

    def all_finite(self, array: Float64Array, *, threads: int) -> bool:
        return bool(np.isfinite(array).all())
