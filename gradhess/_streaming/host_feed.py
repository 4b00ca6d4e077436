"""Rows in host memory for a stream on a GPU: copied in pieces, while the piece before is computed.

Two pinned buffers on the host and two on the device take turns. A copy runs in a CUDA stream of its own; the caller's
stream waits, on the device, for the copy of a piece, and a copy waits for the computation that last used its buffer.
The host waits only for a pinned buffer to be free: so the whole runs at the slower of the link and the kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from gradhess._arrays import BFLOAT16
from gradhess._backends import registry
from gradhess._backends.cupy import layout
from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, device_errors, empty
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import AnyArray, Rows
from gradhess._gradients import passes
from gradhess._streaming.device_stream import DeviceStream
from gradhess.errors import InputTypeError

PIECE_BYTES: Final = 64 << 20
"""Of a pinned buffer: long enough for a copy at full speed (a few milliseconds), short enough to begin soon."""


class _Slot:
    """A pinned buffer, its twin on the device, and the events that say when they are free."""

    def __init__(self, n_bytes: int) -> None:
        cupyx, events = importlib.import_module("cupyx"), cupy().cuda
        with device_errors("pinned memory", n_bytes):
            self.pinned = cupyx.empty_pinned(n_bytes, np.uint8)
        self.device = empty(n_bytes, np.uint8, "a piece of rows")
        self.copied, self.used = events.Event(disable_timing=True), events.Event(disable_timing=True)
        self.used.record()  # the memory may have been another array's, which work that is queued still reads
        self.is_used = False

    def send(self, arrays: list[AnyArray], stream: Any) -> list[DeviceArray]:
        """Copies of the arrays on the device, queued in ``stream``; the current stream waits for them."""
        if self.is_used:
            self.copied.synchronize()  # the host, for the link, and for nothing else
        stream.wait_event(self.used)
        sent, offset = [], 0
        for array in arrays:
            stop = offset + array.nbytes
            staged = self.pinned[offset:stop].view(array.dtype).reshape(array.shape)
            np.copyto(staged, array)
            sent.append(self.device[offset:stop].view(array.dtype).reshape(array.shape))
            offset = -(-stop // 256) * 256
        self.device[:offset].set(self.pinned[:offset], stream)
        self.copied.record(stream)
        cupy().cuda.get_current_stream().wait_event(self.copied)
        return sent

    def release(self) -> None:
        self.used.record()
        self.is_used = True


class HostFeed:
    """What a stream on a GPU keeps to take rows from the host."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._stream: Any = None
        self._turn = 0

    def add(self, stream: DeviceStream, rows: Rows, weights: AnyArray | None, *, skip: bool) -> None:
        """One call of ``partial_fit`` with NumPy arrays, dense or of a generalised linear model."""
        if rows.kind not in ("dense", "gradient"):
            raise InputTypeError(
                "rows of layers, embeddings and groups are not copied to a GPU: make them from arrays that are there"
            )
        p, dtype = rows.n_parameters, rows.compute_dtype
        stream.check_fits(p, dtype)
        if not rows.n_samples:
            return
        checked = p > layout.SNAPSHOT_PARAMETERS and not skip
        if checked:  # no copy of the accumulators is kept: look at all rows first, which the host can
            passes.refuse_nonfinite(registry.active(), rows, weights)
        with stream.place:
            parts = self._parts(rows, weights)
            stream.add_parts(p, dtype, parts, n_rows=rows.n_samples, skip=skip, checked=checked)

    def _parts(
        self, rows: Rows, weights: AnyArray | None
    ) -> Iterator[tuple[int, DeviceRows, DeviceArray | None]]:
        n = rows.n_samples
        vectors = [array for array in (rows.y, rows.loss_weight, weights) if array is not None]
        row_bytes = int(rows.X.shape[1]) * rows.X.itemsize + 8 * len(vectors)
        size = max(min(PIECE_BYTES // row_bytes, n), 1)
        self._make_slots(size * row_bytes + 256 * (1 + len(vectors)))
        xp = cupy()
        coef = None if rows.coef is None else xp.asarray(rows.coef)
        intercept = None if rows.intercept is None else xp.asarray(rows.intercept)
        for start, stop in passes.spans(n, size):
            slot = self._slots[self._turn]
            self._turn = 1 - self._turn
            part = rows.slice(start, stop)
            bfloat16 = part.X.dtype == BFLOAT16
            labels = [] if part.y is None else [np.asarray(part.y, np.float64)]
            given = [
                array for array in (part.loss_weight, passes.part(weights, start, stop)) if array is not None
            ]
            X, *others = slot.send(
                [part.X.view(np.uint16) if bfloat16 else part.X, *labels, *given], self._stream
            )
            y = others.pop(0) if labels else None
            loss_weight = others.pop(0) if part.loss_weight is not None else None
            moved = DeviceRows(X, rows.kind, rows.unit_column, rows.loss, y, coef, intercept, loss_weight)
            yield start, replace(moved, bfloat16=bfloat16), others[0] if others else None
            slot.release()

    def _make_slots(self, n_bytes: int) -> None:
        if self._stream is None:
            self._stream = cupy().cuda.Stream(non_blocking=True)
        if not self._slots or self._slots[0].pinned.nbytes < n_bytes:
            for slot in self._slots:
                if slot.is_used:
                    slot.copied.synchronize()
            self._slots = [_Slot(n_bytes) for _ in range(2)]
