"""A stream of rows into moments: the same bits for any chunking of the same rows.

Slabs lie at fixed global row indices (``gradhess._backends.layout``). Rows that do not fill a slab yet are ``waiting``,
already computed (``Backend.extend``). A result is finished on a copy, in which these are a last, short slab: reading
never changes how the stream goes on.

A call that fails leaves the stream as it was. Up to ``SNAPSHOT_MAX_BYTES`` a copy of the state is taken and put back.
Above, all rows are checked before the first is added, and Ctrl-C is answered between two pieces, with the rows up to
there in the state.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from gradhess import _memory
from gradhess import _validation as check
from gradhess._backends import protocol, registry
from gradhess._backends.layout import slab_rows
from gradhess._backends.protocol import (
    FLOAT32,
    Backend,
    Float64Array,
    MomentState,
    NonFiniteRow,
    Rows,
    Structure,
    Waiting,
)
from gradhess._gradients import passes
from gradhess._gradients.interrupts import InterruptDeferred
from gradhess.errors import InputError, NonFiniteError

SNAPSHOT_MAX_BYTES: Final = 8 << 20
SKIP_PART_BYTES: Final = 4 << 20
"""Rows copied at a time where rows that are not finite have to be left out."""


_DIVIDED: Final = nullcontext()
"""A step during which Ctrl-C may come."""


@dataclass(slots=True)
class Chunk:
    """Rows on their way in, with their weights. Not to be changed; see ``Rows``."""

    rows: Rows
    weights: Float64Array | None
    first_row: int = 0
    """Index of the first row in the caller's array, for messages."""

    def slice(self, start: int, stop: int) -> Chunk:
        if stop - start == self.rows.n_samples:
            return self
        return Chunk(
            self.rows.slice(start, stop), passes.part(self.weights, start, stop), self.first_row + start
        )

    def take(self, keep: Any) -> Chunk:
        """The rows where ``keep`` is true, as copies."""
        rows = self.rows.take(keep)
        return Chunk(rows, None if self.weights is None else self.weights[keep], self.first_row)

    def nonfinite(self, index: int) -> NonFiniteError:
        return passes.nonfinite_error(self.rows, self.weights, index, first_row=self.first_row)


@dataclass(slots=True)
class Before:
    """A stream before a step that may fail."""

    waiting: Waiting | None
    compute_dtype: np.dtype[Any] | None
    n_skipped: int
    is_new: bool
    """There was no state yet."""
    copy: MomentState | None
    """Of the state, where the step can change it and it is small."""
    can_restore: bool
    """False where the state is too large to keep a copy of."""


class MomentStream:
    """Weighted moments of a stream of rows, in whatever chunks they come."""

    def __init__(self, structure: Structure, *, centred: bool, accumulator: np.dtype[Any]) -> None:
        self.structure: Structure = structure
        self.centred = centred
        self.accumulator = accumulator
        self.state: MomentState | None = None
        """None until the first row."""
        self.waiting: Waiting | None = None
        """None until the first row."""
        self.compute_dtype: np.dtype[Any] | None = None
        """The widest compute type seen; slabs that hold, or follow, a wider row are computed in it."""
        self.n_skipped = 0
        self._spare: MomentState | None = None
        """Memory for a copy of the state: kept, so that rows coming in allocate nothing."""
        self.lock = threading.RLock()
        """Held by whatever changes or finishes the stream: backends release the GIL in the middle of a step."""

    @property
    def n_seen(self) -> int:
        if self.state is None:
            return 0
        counts = self.state.counts
        return int(counts[protocol.ROWS]) + int(counts[protocol.BLOCK_ROWS]) + self.n_waiting

    @property
    def n_waiting(self) -> int:
        return 0 if self.waiting is None else self.waiting.n

    # ---- adding rows ---------------------------------------------------------------------------------------------

    def add(self, rows: Rows, weights: Float64Array | None, *, skip: bool = False) -> None:
        """Add rows; with ``skip`` leave out those that are not finite, and count them."""
        n, n_parameters, compute_dtype = rows.n_samples, rows.n_parameters, rows.compute_dtype
        with self.lock:
            self._check_fits(n_parameters, compute_dtype)
            if n == 0:
                return
            if weights is not None:
                self._check_weights(weights, compute_dtype)
            backend, chunk = registry.active(), Chunk(rows, weights)
            n_waiting = self.n_waiting
            work = passes.work_of(n_waiting + n, n_parameters, self.structure)
            several = skip or work > passes.PIECE_PRODUCTS
            before = self._prepare(
                n_parameters,
                changes_state=n_waiting + n >= slab_rows(n_parameters, self.structure),
                several_calls=several,
            )
            try:
                if not before.can_restore and not skip:
                    passes.refuse_nonfinite(backend, rows, weights)
                waiting = self._widen_to(compute_dtype)
                if skip:
                    self._add_finite(backend, chunk, waiting)
                elif several:
                    self._add(backend, chunk, waiting)
                else:
                    self._add_piece(backend, chunk, waiting, passes.threads_for(work))
            except BaseException:
                self._put_back(before)
                raise
            if skip and self.n_seen == 0:  # every row was left out: the stream has no width yet
                self.state = self.waiting = self.compute_dtype = self._spare = None

    def _check_fits(self, n_parameters: int, compute_dtype: np.dtype[Any]) -> None:
        check.rows_fit_stream(n_parameters, None if self.state is None else self.state.n_parameters)
        check.accumulator_fits(self.accumulator, compute_dtype, "dtype")

    def _check_weights(self, weights: Float64Array, compute_dtype: np.dtype[Any]) -> None:
        narrow = self.compute_dtype is None or self.compute_dtype == FLOAT32
        if narrow and compute_dtype == FLOAT32:
            check.weights_fit_float32(weights, "sample_weight")

    def _prepare(self, n_parameters: int, *, changes_state: bool, several_calls: bool) -> Before:
        """Make the state if there is none, and keep what ``_put_back`` needs if the step fails.

        ``changes_state`` says whether the step may change more than the rows that wait, ``several_calls`` whether it
        may call ``Backend.extend`` more than once, so that rows that wait now may be written over.
        """
        state = self.state
        copy = None
        if state is None:
            _memory.require_stream(n_parameters, self.structure, self.accumulator)
            self.state = MomentState.empty(
                n_parameters, self.structure, centred=self.centred, dtype=self.accumulator
            )
            can_restore = _is_small(self.state)
        else:
            can_restore = _is_small(state)
            if can_restore and changes_state:
                copy = self._spare = self._copied(state)
        waiting = self.waiting
        if waiting is not None:
            waiting = waiting.copy() if several_calls and can_restore else waiting.noted()
        return Before(waiting, self.compute_dtype, self.n_skipped, state is None, copy, can_restore)

    def _put_back(self, before: Before) -> None:
        """Be as before the step that failed; a state that is too large holds the rows of the pieces that were done."""
        assert self.state is not None
        if before.can_restore or self.n_seen == 0:
            self.waiting = before.waiting
            self.compute_dtype, self.n_skipped = before.compute_dtype, before.n_skipped
            if before.is_new:
                self.state = None
        if before.copy is not None and self.state is not None:
            self.state.assign(before.copy)

    def _copied(self, state: MomentState) -> MomentState:
        """A copy of the state, in the memory kept for it where there is some; it is the caller's from here on."""
        spare, self._spare = self._spare, None
        if spare is None:
            return state.copy()
        spare.assign(state)
        return spare

    def _widen_to(self, compute_dtype: np.dtype[Any]) -> Waiting:
        """A wider row has come: those that wait are converted, exactly, and the stream goes on in the wider type."""
        assert self.state is not None
        if self.compute_dtype is None or compute_dtype.itemsize > self.compute_dtype.itemsize:
            self.compute_dtype = compute_dtype
        waiting = self.waiting
        if waiting is None or waiting.rows.dtype != self.compute_dtype:
            self.waiting = Waiting.empty(self.state, self.compute_dtype)
            if waiting is not None:
                n, half = waiting.n, waiting.half
                self.waiting.rows[half, :n] = waiting.rows[half, :n]
                self.waiting.weights, self.waiting.n, self.waiting.half = waiting.weights, n, half
            return self.waiting
        return waiting

    def _add(self, backend: Backend, chunk: Chunk, waiting: Waiting) -> None:
        assert self.state is not None
        p = self.state.n_parameters
        for start, stop in passes.moment_pieces(chunk.rows, self.state, registry.num_threads(), waiting.n):
            work = passes.work_of(waiting.n + stop - start, p, self.structure)
            self._add_piece(backend, chunk.slice(start, stop), waiting, passes.threads_for(work))

    def _add_piece(self, backend: Backend, piece: Chunk, waiting: Waiting, threads: int) -> None:
        assert self.state is not None
        try:
            with self._undivided():
                backend.extend(piece.rows, piece.weights, self.state, waiting, threads=threads)
        except NonFiniteRow as bad:
            raise piece.nonfinite(bad.index) from None

    def _undivided(self) -> AbstractContextManager[None]:
        """Hold Ctrl-C back over a step on a state that there is no copy of."""
        assert self.state is not None
        return _DIVIDED if _is_small(self.state) else InterruptDeferred()

    def _add_finite(self, backend: Backend, chunk: Chunk, waiting: Waiting) -> None:
        """Add the rows that are finite, in parts: one without bad rows as it is, others compressed."""
        assert self.state is not None
        threads, slab = registry.num_threads(), self.state.slab_rows
        row_bytes = chunk.rows.n_parameters * chunk.rows.compute_dtype.itemsize
        size = max(SKIP_PART_BYTES // (row_bytes * slab), 1) * slab
        for start, stop in passes.spans(chunk.rows.n_samples, size):
            part = chunk.slice(start, stop)
            if backend.first_nonfinite(part.rows, part.weights, threads=threads) >= 0:
                keep = _finite_rows(backend, part, slab)
                part = part.take(keep)
                self.n_skipped += int(keep.size - np.count_nonzero(keep))
            self._add(backend, part, waiting)

    # ---- results -------------------------------------------------------------------------------------------------

    def finished(self, *, sums_only: bool = False) -> tuple[MomentState, bool]:
        """The state with every row folded in, and whether it is a copy that the caller may write to.

        ``sums_only`` leaves the scatter out: the mean and the weights, without the cost of a large copy.
        """
        with self.lock:
            return self._finished(sums_only)

    def _finished(self, sums_only: bool) -> tuple[MomentState, bool]:
        assert self.state is not None
        state = self.state
        if sums_only:
            state = replace(state, structure="sum", scatter=None, block_scatter=None).copy()
        elif not self.n_waiting and not state.counts[protocol.BLOCK_ROWS]:
            return state, False
        else:
            state = self._copied(state)
        backend = registry.active()
        self._accumulate_waiting(backend, state)
        backend.close_block(state)
        return state, True

    def _accumulate_waiting(self, backend: Backend, state: MomentState) -> None:
        """Add the rows that wait as a last, short slab."""
        if self.waiting is not None and self.waiting.n:
            slab, weights = self.waiting.as_rows()
            backend.accumulate(slab, weights, state, threads=registry.num_threads())

    def merge(self, other: MomentStream) -> None:
        """Add the rows of ``other``; both are finished first, so the stream goes on in a new block."""
        first, second = sorted(
            (self, other), key=id
        )  # one order, so that two merges cannot wait for each other
        with first.lock, second.lock:
            self._merge(other)

    def _merge(self, other: MomentStream) -> None:
        if other.state is None:
            self.n_skipped += other.n_skipped
            return
        p = other.state.n_parameters
        if self.state is not None and self.state.n_parameters != p:
            raise InputError(f"cannot merge {p} parameters into {self.state.n_parameters}")
        theirs, _ = other.finished()
        assert other.compute_dtype is not None
        backend = registry.active()
        before = self._prepare(p, changes_state=True, several_calls=False)
        assert self.state is not None
        try:
            waiting = self._widen_to(other.compute_dtype)
            with self._undivided():
                self._accumulate_waiting(backend, self.state)
                waiting.n = 0
                backend.close_block(self.state)
                backend.merge(self.state, theirs)
                self.n_skipped += other.n_skipped
        except BaseException:
            self._put_back(before)
            raise


def _is_small(state: MomentState) -> bool:
    return state.scatter is None or state.scatter.nbytes <= SNAPSHOT_MAX_BYTES


def _finite_rows(backend: Backend, chunk: Chunk, slab: int) -> Any:
    """(n,) booleans, a slab of rows at a time."""
    rows = chunk.rows
    keep = np.ones(rows.n_samples, np.bool_) if chunk.weights is None else np.isfinite(chunk.weights)
    buffer = np.empty((slab, rows.n_parameters), rows.compute_dtype)
    for start, stop in passes.spans(rows.n_samples, slab):
        out = buffer[: stop - start]
        backend.materialize(rows.slice(start, stop), out)
        keep[start:stop] &= np.isfinite(out).all(axis=1)
    return keep
