"""A stream of rows into moments on a GPU: the same bits for any chunking of the same rows, without waiting for it.

As ``stream``, with the blocks of ``gradhess._backends.cupy.layout`` in the place of slabs: rows that do not fill a
block wait in a buffer on the device, already computed; whole blocks go straight from the caller's array to the backend.

A call whose rows are not all finite is dropped as a whole, on the device, and so are the calls after it
(``gradhess._backends.cupy.moments``). The host learns of it where it reads a result: NonFiniteError is raised there,
and the stream is as it was before that call. Up to ``layout.SNAPSHOT_PARAMETERS`` parameters a call leaves the buffer
alone in which rows waited before it, since it may fill others before it proves to be one that has to be dropped.

Calls may come from different CUDA streams: each waits, on the device, for the end of the one before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np

from gradhess import _device_memory
from gradhess import _validation as check
from gradhess._backends.cupy import layout
from gradhess._backends.cupy.arena import Arena
from gradhess._backends.cupy.backend import CupyBackend
from gradhess._backends.cupy.engine import NO_BAD_ROW, DeviceArray
from gradhess._backends.cupy.launch import cupy, device_errors, empty, rehearsal, to_host, zeros
from gradhess._backends.cupy.moments import DeviceMoments, begin, close, commit, has_snapshot, moments
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import FLOAT64, ROWS, Rows, Structure
from gradhess._device_arrays import Place
from gradhess._gradients.device.base import device_backend
from gradhess.errors import DeviceError, InputError, NonFiniteError

SIDES: Final = 3
"""Buffers for waiting rows: the one before the call, and two that it goes back and forth between."""
BUFFERED: Final = NO_BAD_ROW // 2
"""Index of rows that waited, where they are summed: they were looked at when they came, under their own."""


class DeviceStream:
    """Weighted moments of a stream of rows on one GPU, in whatever chunks they come."""

    def __init__(
        self, structure: Structure, *, centred: bool, accumulator: np.dtype[Any], place: Place
    ) -> None:
        self.structure: Structure = structure
        self.centred = centred
        self.accumulator = accumulator
        self.place = place
        self.state: DeviceMoments | None = None
        self.compute_dtype: np.dtype[Any] | None = None
        self.lock = threading.RLock()
        self._buffers: list[DeviceArray] = [None] * SIDES
        self._weights: list[DeviceArray] = [None] * SIDES
        self._side = 0
        """The buffer in which rows wait."""
        self._kept_side = 0
        """That in which they waited before this call."""
        self._done: Any = None
        """An event at the end of the last call."""
        self.waiting = 0
        self.skipped_before = 0
        """Rows skipped by streams of the host that this one came from: not among its rows."""
        self.skipped_inside = 0
        """Rows skipped by streams of a device that were merged: among its rows, without weight."""
        self._skipped: DeviceArray = None
        """(1,) int64 on the device: those of its own calls."""

    # ---- what is known -------------------------------------------------------------------------------------------

    @property
    def n_seen(self) -> int:
        """Rows added; waits for the device, and raises what its calls left there."""
        self.check()
        return self.n_queued - self._inside

    @property
    def n_queued(self) -> int:
        """The same, if every row is finite; without waiting."""
        return 0 if self.state is None else int(self.state.counts[ROWS]) + self.waiting

    @property
    def n_skipped(self) -> int:
        return self.skipped_before + self._inside

    @property
    def _inside(self) -> int:
        if self._skipped is None:
            return self.skipped_inside
        with self.ordered():
            return self.skipped_inside + int(to_host(self._skipped)[0])

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """On the device, in the caller's stream, after whatever was queued for this object before."""
        with self.lock, self.place:
            if self.state is not None and self.state.torn:
                raise DeviceError(
                    "an error of the device, or an interrupt, left half of a block of rows in these sums, and above "
                    f"{layout.SNAPSHOT_PARAMETERS} parameters there is no copy to go back to: start again (reset())"
                )
            events = cupy().cuda
            if self._done is None:
                self._done = events.Event(disable_timing=True)
            else:
                events.get_current_stream().wait_event(self._done)
            try:
                yield
            finally:
                self._done.record()

    def check(self) -> None:
        """Raise NonFiniteError if a call was dropped; the stream is then as it was before that call, and open again."""
        state = self.state
        if state is None:
            return
        with self.ordered():
            call, row, seen, waiting = (int(number) for number in to_host(state.status))
            if call < 0:
                return
            later = state.call - call
            state.counts[ROWS] = seen
            self.waiting, self._side = divmod(waiting, SIDES)
            state.status.fill(-1)
            if seen + self.waiting == 0:
                self._forget()
        also = f", and the {later} after it" if later else ""
        raise NonFiniteError(
            row,
            f"row {row} of call {call} of partial_fit is not finite (NaN or infinity, a gradient that overflows, a "
            f"label or weight outside of its domain): that call{also} left out, all else is as before; drop such rows "
            "(StreamingCovariance(on_nonfinite='skip') drops and counts them)",
        )

    def _forget(self) -> None:
        self.state, self.compute_dtype, self.waiting = None, None, 0
        self._buffers, self._weights = [None] * SIDES, [None] * SIDES

    # ---- adding rows ---------------------------------------------------------------------------------------------

    def add(self, rows: DeviceRows, weights: DeviceArray | None, *, skip: bool = False) -> None:
        """Add rows, inside of ``place``; with ``skip`` those that are not finite count as zero rows of no weight."""
        self.check_fits(rows.n_parameters, rows.compute_dtype)
        n = rows.n_samples
        if n:
            self.add_parts(rows.n_parameters, rows.compute_dtype, [(0, rows, weights)], n_rows=n, skip=skip)

    def add_parts(
        self,
        n_parameters: int,
        compute_dtype: np.dtype[Any],
        parts: Iterable[tuple[int, DeviceRows, DeviceArray | None]],
        *,
        n_rows: int,
        skip: bool,
        checked: bool = False,
    ) -> None:
        """One call whose ``n_rows`` rows come in parts, none longer than the first: (index of the first row, rows,
        weights).

        ``checked``: all rows are known to be finite. Without it, above ``layout.SNAPSHOT_PARAMETERS`` parameters, there
        is one part only, since all rows are looked at before the first is added. There, too, the call is rehearsed, so
        that it has all of its memory, and none of its launches is illegal, before the first block is added.
        """
        with self.ordered():
            backend = device_backend(self.place)
            if self.state is None:
                _device_memory.require_stream(n_parameters, self.structure, self.accumulator)
            with self._all_or_nothing(n_parameters) as state, ExitStack() as memory:
                self._widen_to(compute_dtype)
                self._kept_side = self._side
                seen, before = int(state.counts[ROWS]), self.waiting * SIDES + self._side
                copied = begin(state)
                look_first = not copied and not checked and not skip
                to_rehearse = not copied
                if to_rehearse:
                    memory.enter_context(Arena().used())
                for first_row, rows, weights in parts:
                    if to_rehearse:
                        # Once for what is kept from call to call, and may take any piece; once for what dies.
                        for _ in range(2):
                            self._rehearse(backend, rows, weights, n_rows, skip=skip)
                        to_rehearse = False
                    if look_first:
                        backend.find_bad(rows, weights, state.bad, gate=state.gate)
                        close(state, waiting=before)
                    mask = self._mask(backend, rows, weights, state) if skip else None
                    self._add(backend, rows, weights, mask, first_row)
                commit(state, seen=seen, waiting=before)

    @contextmanager
    def _all_or_nothing(self, n_parameters: int) -> Iterator[DeviceMoments]:
        """The state, made if there is none; all is as it was before if what is done within fails on the host.

        Where no copy is kept and a block was added, which only a device that fails while kernels run, or an interrupt,
        can leave behind, whole blocks stay and are counted; half a block makes the stream unusable.
        """
        is_new = self.state is None
        if self.state is None:
            self.state = moments(n_parameters, self.structure, centred=self.centred, dtype=self.accumulator)
        state = self.state
        skipped = None if self._skipped is None else self._skipped.copy()
        kept = self.compute_dtype, list(self._buffers), list(self._weights), self.waiting, self._side
        counts, call = state.counts.copy(), state.call
        try:
            yield state
        except BaseException:
            if not has_snapshot(state) and (state.torn or (state.counts != counts).any()):
                raise
            self.compute_dtype, self._buffers, self._weights, self.waiting, self._side = kept
            self._skipped = skipped
            if state.call != call and has_snapshot(state):
                for array, copy in state.snapshot:
                    array[...] = copy
            state.counts[...] = counts
            state.torn = False
            if is_new:
                self._forget()
            raise

    def _rehearse(
        self, backend: CupyBackend, rows: DeviceRows, weights: DeviceArray | None, n_rows: int, *, skip: bool
    ) -> None:
        """Ask for the memory of a call, and validate its launches: of rows that wait, of a block of such, and of one
        straight from ``rows``."""
        state = self.state
        assert state is not None
        block, side = layout.block_rows(state.n_parameters), self._side
        most = min(rows.n_samples, block)
        with rehearsal(), _counts_kept(state):
            mask = self._mask(backend, rows, weights, state) if skip else None
            weighted = weights is not None or mask is not None
            self._make_room(side, min(self.waiting + n_rows, block), block, weighted=weighted)
            part, given = rows.slice(0, most), _part(weights, 0, most)
            target = self._buffers[side][:most]
            aside = target if rows.compute_dtype == target.dtype else target.astype(rows.compute_dtype)
            held = _part(self._weights[side], 0, most)
            backend.wait(part, given, _part(mask, 0, most), state, aside, held, first_row=0)
            del aside
            if self.waiting + n_rows >= block:
                waited = DeviceRows(self._buffers[side][:block])
                backend.add_rows(waited, _part(self._weights[side], 0, block), state, first_row=BUFFERED)
            if most == block and mask is None and rows.compute_dtype == self.compute_dtype:
                backend.add_rows(part, given, state, first_row=0)

    def _mask(
        self, backend: CupyBackend, rows: Rows, weights: DeviceArray | None, state: DeviceMoments
    ) -> DeviceArray:
        """(n,) int8: 1 for rows to leave out, which are counted."""
        mask = zeros(rows.n_samples, np.int8, "a mask of rows")
        backend.find_bad(rows, weights, None, mask=mask)
        if self._skipped is None:
            self._skipped = zeros(1, np.int64, "a counter")
        self._skipped += mask.sum(dtype=np.int64) * (state.status[0] < 0)
        return mask

    def check_fits(self, n_parameters: int, compute_dtype: np.dtype[Any]) -> None:
        check.rows_fit_stream(n_parameters, None if self.state is None else self.state.n_parameters)
        check.accumulator_fits(self.accumulator, compute_dtype, "dtype")

    def _widen_to(self, compute_dtype: np.dtype[Any]) -> None:
        if self.compute_dtype is None or compute_dtype.itemsize > self.compute_dtype.itemsize:
            self.compute_dtype = compute_dtype
            self._buffers = [
                None if buffer is None else buffer.astype(compute_dtype) for buffer in self._buffers
            ]

    def _add(
        self,
        backend: CupyBackend,
        rows: DeviceRows,
        weights: DeviceArray | None,
        mask: DeviceArray | None,
        first_row: int,
    ) -> None:
        assert self.state is not None
        n, block = rows.n_samples, layout.block_rows(self.state.n_parameters)
        start = 0
        direct = rows.compute_dtype == self.compute_dtype and mask is None
        while start < n:
            if direct and not self.waiting and n - start >= block:
                stop = n - (n - start) % block
                part = rows.slice(start, stop)
                backend.add_rows(part, _part(weights, start, stop), self.state, first_row=first_row + start)
            else:
                stop = min(start + block - self.waiting, n)
                self._wait(
                    backend,
                    rows.slice(start, stop),
                    _part(weights, start, stop),
                    _part(mask, start, stop),
                    first_row=first_row + start,
                )
            start = stop

    def _wait(
        self,
        backend: CupyBackend,
        rows: Rows,
        weights: DeviceArray | None,
        mask: DeviceArray | None,
        *,
        first_row: int,
    ) -> None:
        """Compute rows into the buffer, and add the block if it is full."""
        assert self.state is not None
        block, side = layout.block_rows(self.state.n_parameters), self._side
        span = slice(self.waiting, self.waiting + rows.n_samples)
        self._make_room(side, span.stop, block, weighted=weights is not None or mask is not None)
        target, of_weights = self._buffers[side][span], _part(self._weights[side], span.start, span.stop)
        aside = target if rows.compute_dtype == target.dtype else target.astype(rows.compute_dtype)
        backend.wait(rows, weights, mask, self.state, aside, of_weights, first_row=first_row)
        if aside is not target:
            target[...] = aside  # exact; what a closed gate left alone goes back as it was
        del aside  # its memory serves the block
        self.waiting = span.stop
        if self.waiting == block:
            self._flush(backend, self.state)

    def _make_room(self, side: int, rows: int, block: int, *, weighted: bool) -> None:
        """Buffers grow with what waits, to twice as much each time, so that few rows take little memory."""
        assert self.state is not None
        buffer, held = self._buffers[side], self._weights[side]
        if buffer is None or buffer.shape[0] < rows:
            size = min(max(rows, 2 * rows if buffer is None else 2 * int(buffer.shape[0])), block)
            grown = empty((size, self.state.n_parameters), self.compute_dtype, "the rows that wait")
            if buffer is not None:
                grown[: self.waiting] = buffer[: self.waiting]
            self._buffers[side] = buffer = grown
        size = int(buffer.shape[0])
        if (held is None and weighted) or (held is not None and held.shape[0] < size):
            self._weights[side] = empty(size, FLOAT64, "weights")
            self._weights[side].fill(1.0)
            if held is not None:
                self._weights[side][: self.waiting] = held[: self.waiting]

    def _flush(self, backend: CupyBackend, state: DeviceMoments) -> None:
        """Add the rows that wait as a block, and let the next ones wait elsewhere."""
        side = self._side
        weights = _part(self._weights[side], 0, self.waiting)
        backend.add_rows(DeviceRows(self._buffers[side][: self.waiting]), weights, state, first_row=BUFFERED)
        self.waiting = 0
        if has_snapshot(state):
            self._side = next(other for other in range(SIDES) if other not in (side, self._kept_side))

    # ---- results -------------------------------------------------------------------------------------------------

    def finished(self, *, sums_only: bool = False) -> tuple[DeviceMoments, bool]:
        """A copy of the state with every row folded in; NonFiniteError if a call was dropped."""
        self.check()
        with self.ordered(), device_errors("finishing a result"):
            assert self.state is not None
            state = self.state
            if not sums_only and state.scatter is not None:
                _device_memory.require(
                    int(state.scatter.nbytes), "a copy of the covariance, to finish it in,"
                )
            kept, structure = state.scatter, state.structure
            if sums_only:
                state.scatter, state.structure = None, "sum"
            try:
                finished = state.copy()
            finally:
                state.scatter, state.structure = kept, structure
            if self.waiting:
                rows, weights = self.waiting_rows()
                device_backend(self.place).add_rows(rows, weights, finished, first_row=BUFFERED)
            return finished, True

    def waiting_rows(self) -> tuple[DeviceRows, DeviceArray | None]:
        """Those that do not fill a block yet: views."""
        side = self._side
        return DeviceRows(self._buffers[side][: self.waiting]), _part(self._weights[side], 0, self.waiting)

    def merge(self, other: DeviceStream) -> None:
        """Add the rows of ``other``, on the same device; both are finished first, so a new block begins."""
        first, second = sorted((self, other), key=id)
        with first.lock, second.lock:
            if other.state is None:
                self.skipped_before += other.n_skipped
                return
            assert other.compute_dtype is not None
            if self.state is not None and self.state.n_parameters != other.state.n_parameters:
                raise InputError(
                    f"cannot merge {other.state.n_parameters} parameters into {self.state.n_parameters}"
                )
            theirs, _ = other.finished()
            self.check()
            self._merge(theirs, other)

    def _merge(self, theirs: DeviceMoments, other: DeviceStream) -> None:
        inside = other._inside
        with self.ordered():
            if other._done is not None:
                cupy().cuda.get_current_stream().wait_event(other._done)
            backend = device_backend(self.place)
            with self._all_or_nothing(theirs.n_parameters) as state, Arena().used():
                assert other.compute_dtype is not None
                self._widen_to(other.compute_dtype)
                self._kept_side = self._side
                copied = begin(state)  # all of these rows were looked at when they came
                for _ in range(0 if copied else 2):
                    with rehearsal(), _counts_kept(state):
                        if self.waiting:
                            backend.add_rows(*self.waiting_rows(), state, first_row=BUFFERED)
                        backend.merge(state, theirs)
                if self.waiting:
                    self._flush(backend, state)
                backend.merge(state, theirs)
                state.call -= 1  # what is counted are calls of partial_fit
            self.skipped_before += other.skipped_before
            self.skipped_inside += inside

    def copy(self) -> DeviceStream:
        new = DeviceStream(
            self.structure, centred=self.centred, accumulator=self.accumulator, place=self.place
        )
        with self.ordered():
            new.compute_dtype, new.waiting, new._side = self.compute_dtype, self.waiting, self._side
            new.skipped_before, new.skipped_inside = self.skipped_before, self.skipped_inside
            new.state = None if self.state is None else self.state.copy()
            for name in ("_buffers", "_weights"):
                kept = [None if array is None else array.copy() for array in getattr(self, name)]
                setattr(new, name, kept)
            new._skipped = None if self._skipped is None else self._skipped.copy()
            new._done = cupy().cuda.Event(disable_timing=True)
            new._done.record()
        return new


@contextmanager
def _counts_kept(state: DeviceMoments) -> Iterator[None]:
    kept = state.counts.copy()
    try:
        yield
    finally:
        state.counts[...] = kept


def _part(array: DeviceArray | None, start: int, stop: int) -> DeviceArray | None:
    return None if array is None else array[start:stop]


def from_host(array: Any) -> DeviceArray:
    """An explicit copy to the current device."""
    with device_errors("a copy to the device"):
        return cupy().asarray(array)
