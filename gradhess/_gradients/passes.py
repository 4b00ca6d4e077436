"""One pass over a batch of rows, cut into pieces so that Ctrl-C is answered between two of them.

Compiled code does not see signals. A piece is a whole number of slabs worth a few tenths of a second, so cutting
changes no bits (``gradhess._backends.layout``) and costs nothing that could be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np

from gradhess._arrays import first_false
from gradhess._backends import registry
from gradhess._backends.layout import BLOCK_ROWS, SLAB_ROWS
from gradhess._backends.protocol import (
    BLOCK_ROWS as OPEN_ROWS,
)
from gradhess._backends.protocol import (
    FLOAT64,
    AnyArray,
    Backend,
    BatchMoments,
    Float64Array,
    MomentState,
    NonFiniteRow,
    Rows,
    Structure,
)
from gradhess._backends.stepwise import finish
from gradhess.errors import NonFiniteError

PIECE_PRODUCTS: Final = 1_000_000_000
"""Multiply-adds of a piece on one thread: 0.05 to 0.5 s from the fastest backend to the slowest compiled one."""

ONE_THREAD_PRODUCTS: Final = 200_000
"""Up to here every backend keeps to one thread, whatever it may have."""

ROW_OVERHEAD: Final = 128
"""What a row costs beside its products (a loss, a few cache misses), in multiply-adds."""


def _products(n_parameters: int, structure: Structure) -> int:
    """Multiply-adds that a row of that width costs in a sum of that structure."""
    return n_parameters * (n_parameters + 1) // 2 if structure == "full" else 2 * n_parameters


def piece_rows(products_per_row: int, threads: int, slab: int = SLAB_ROWS) -> int:
    """Rows of a piece: a whole number of blocks for every thread if that many fit, else of slabs."""
    rows = PIECE_PRODUCTS * threads // (products_per_row + ROW_OVERHEAD)
    unit = BLOCK_ROWS * threads if rows >= BLOCK_ROWS * threads else slab
    return max(rows // unit, 1) * unit


def work_of(n_samples: int, n_parameters: int, structure: Structure) -> int:
    """What a sum over so many rows costs, in multiply-adds. Up to ``PIECE_PRODUCTS`` nobody would interrupt it."""
    return n_samples * (_products(n_parameters, structure) + ROW_OVERHEAD)


def threads_for(work: int) -> int:
    """Threads for so many multiply-adds: no more than could be of use."""
    return registry.num_threads(most=1 if work <= ONE_THREAD_PRODUCTS else registry.MAX_THREADS)


def moment_pieces(
    rows: Rows, state: MomentState, threads: int, n_waiting: int = 0
) -> Iterable[tuple[int, int]]:
    """Starts and stops of the pieces of a pass that adds ``rows`` to ``state``, behind ``n_waiting`` others."""
    n = rows.n_samples
    if n and work_of(n, rows.n_parameters, state.structure) <= PIECE_PRODUCTS:
        return ((0, n),)
    size = piece_rows(_products(rows.n_parameters, state.structure), threads, state.slab_rows)
    # The first piece also completes the block (or slab) that is open, so that the later ones hold whole ones.
    unit = BLOCK_ROWS if size >= BLOCK_ROWS else state.slab_rows
    return spans(n, size, -(int(state.counts[OPEN_ROWS]) + n_waiting) % unit)


def spans(n_rows: int, size: int, head: int = 0) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive ranges of ``size`` rows, the first longer by ``head``, the last shorter."""
    start, stop = 0, min(head + size, n_rows)
    while start < n_rows:
        yield start, stop
        start, stop = stop, min(stop + size, n_rows)


def by_pieces(
    rows: Rows, products_per_row: int, threads: int, compute: Callable[[Rows], Float64Array]
) -> Float64Array:
    """``compute`` of the rows, (n, ...): at once where that is one piece."""
    n, size = rows.n_samples, piece_rows(products_per_row, threads)
    if n <= size:
        return compute(rows)
    return np.concatenate([compute(rows.slice(start, stop)) for start, stop in spans(n, size)])


def part(array: Float64Array | None, start: int, stop: int) -> Float64Array | None:
    return None if array is None else array[start:stop]


def moments(
    rows: Rows,
    structure: Structure,
    *,
    centred: bool = False,
    dtype: np.dtype[Any] = FLOAT64,
    weights: Float64Array | None = None,
    weights_name: str = "sample_weight",
    scale: float | None = None,
) -> BatchMoments:
    """The moments of one batch, finished; with ``scale`` a full scatter is multiplied by it and mirrored as well."""
    n_parameters = rows.n_parameters
    work = work_of(rows.n_samples, n_parameters, structure)
    backend, threads = registry.active(), threads_for(work)
    if work <= PIECE_PRODUCTS:
        try:
            return backend.moments(
                rows, weights, structure, centred=centred, dtype=dtype, scale=scale, threads=threads
            )
        except NonFiniteRow as bad:
            raise nonfinite_error(rows, weights, bad.index, weights_name=weights_name) from None
    state = MomentState.empty(n_parameters, structure, centred=centred, dtype=dtype)
    add(backend, rows, weights, state, threads=threads, weights_name=weights_name)
    return finish(backend, state, scale, threads=threads)


def add(
    backend: Backend,
    rows: Rows,
    weights: Float64Array | None,
    state: MomentState,
    *,
    threads: int,
    weights_name: str = "sample_weight",
) -> None:
    """Add a batch to ``state``; NonFiniteError, with ``state`` undefined, at a row that is not finite."""
    for start, stop in moment_pieces(rows, state, threads):
        whole = start == 0 and stop == rows.n_samples
        try:
            backend.accumulate(
                rows if whole else rows.slice(start, stop), part(weights, start, stop), state, threads=threads
            )
        except NonFiniteRow as bad:
            raise nonfinite_error(rows, weights, start + bad.index, weights_name=weights_name) from None


def refuse_nonfinite(
    backend: Backend, rows: Rows, weights: Float64Array | None, *, weights_name: str = "sample_weight"
) -> None:
    """Raise NonFiniteError at the first row or weight that is not finite, before anything is accumulated."""
    threads = registry.num_threads()
    for start, stop in spans(rows.n_samples, piece_rows(2 * rows.n_parameters, threads)):
        index = backend.first_nonfinite(rows.slice(start, stop), part(weights, start, stop), threads=threads)
        if index >= 0:
            raise nonfinite_error(rows, weights, start + index, weights_name=weights_name)


def nonfinite_error(
    rows: Rows,
    weights: Float64Array | None,
    index: int,
    *,
    weights_name: str = "sample_weight",
    first_row: int = 0,
) -> NonFiniteError:
    """What is wrong with row ``index`` of ``rows``, which is row ``first_row + index`` of the caller's arrays."""
    row = first_row + index
    what = rows.nonfinite_entry(index, row)
    if what is not None:
        pass
    elif weights is not None and not np.isfinite(weights[index]):
        what = f"{weights_name}[{row}] is {weights[index]}"
    elif rows.loss_weight is not None and not np.isfinite(rows.loss_weight[index]):
        what = f"sample_weight[{row}] is {rows.loss_weight[index]}"
    else:
        return NonFiniteError(
            row,
            f"the gradient of row {row} overflows {rows.compute_dtype}; scale the features, or check coef",
        )
    return NonFiniteError(
        row, f"{what}; drop such rows (StreamingCovariance(on_nonfinite='skip') drops and counts them)"
    )


def check_result(backend: Backend, rows: Rows, result: AnyArray, threads: int = 1) -> None:
    """A result that is not finite comes from a row that is not, or is an overflow of its own; say which row."""
    if result.dtype == FLOAT64 and result.flags.c_contiguous:
        finite = backend.all_finite(result, threads=threads)
    else:
        finite = first_false(np.isfinite(result)) < 0
    if not finite:
        refuse_nonfinite(backend, rows, None)
