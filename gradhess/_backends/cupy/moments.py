"""Moments on the device: their arrays, and calls that are dropped as a whole where a row is not finite.

The host never waits to learn whether a row was finite. A call that adds rows is bracketed by ``begin`` and ``commit``:
up to ``layout.SNAPSHOT_PARAMETERS`` parameters ``begin`` copies the accumulators, and ``commit`` puts the copies back,
on the device, if the rows lowered ``bad``; above, the caller looks at all rows before it adds the first. Either way the
gate (``status``) is closed then, on the device: later calls add zero, and every accumulator keeps its bits until the
host reads ``status``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradhess._backends.cupy import layout
from gradhess._backends.cupy.engine import NO_BAD_ROW, DeviceArray
from gradhess._backends.cupy.launch import cupy, empty, flat, launch, table, zeros
from gradhess._backends.protocol import FLOAT64, ROWS, MomentState, Structure


@dataclass(slots=True)
class DeviceMoments(MomentState):
    """``MomentState`` on a device: no block is ever open, as blocks are summed when all of their rows are there.

    ``scalars`` is (3,), on the device; ``counts`` is on the host. Above the diagonal of ``scatter`` lies rubbish.
    """

    status: DeviceArray = None
    """(4,) int64: the call whose rows were not finite, or -1; the row in it; rows seen, and waiting, before it."""
    bad: DeviceArray = None
    """(1,) int64: the first row of this call that is not finite, or ``NO_BAD_ROW``."""
    device: int = 0
    call: int = 0
    snapshot: list[tuple[DeviceArray, DeviceArray]] = field(default_factory=list)
    """(accumulator, its copy)."""
    panels: dict[Any, Any] = field(default_factory=dict)
    """Memory of the engines, kept between calls."""
    torn: bool = False
    """A block, or another state, is being added: what fails meanwhile leaves half of it."""

    @property
    def slab_rows(self) -> int:
        """A slab, for whoever cuts rows: a block, as no partly filled one is ever summed."""
        return layout.block_rows(self.n_parameters)

    @property
    def gate(self) -> DeviceArray:
        return self.status[:1]

    def copy(self) -> DeviceMoments:
        return DeviceMoments(
            self.structure,
            self.centred,
            None if self.scatter is None else self.scatter.copy(),
            self.location.copy(),
            None,
            self.block_shift,
            self.block_sum,
            self.scalars.copy(),
            self.counts.copy(),
            self.status.copy(),
            self.bad.copy(),
            self.device,
            self.call,
        )

    def accumulators(self) -> list[DeviceArray]:
        return [array for array in (self.scatter, self.location, self.scalars) if array is not None]


def moments(
    n_parameters: int, structure: Structure, *, centred: bool, dtype: npt.DTypeLike = np.float64
) -> DeviceMoments:
    """An empty state on the current device."""
    p = n_parameters
    shape = (p, p) if structure == "full" else (p,) if structure == "diagonal" else None
    status = empty(4, np.int64, "a state")
    status.fill(-1)
    nothing = zeros(0, np.float64, "a state")
    return DeviceMoments(
        structure,
        centred,
        None if shape is None else zeros(shape, dtype, f"a scatter of shape {shape}"),
        zeros(p, np.float64, "a mean"),
        None,
        nothing,
        nothing,
        zeros(3, np.float64, "a state"),
        np.zeros(2, np.int64),
        status,
        empty(1, np.int64, "a flag"),
        cupy().cuda.get_device_id(),
    )


def has_snapshot(state: DeviceMoments) -> bool:
    """Whether a call keeps copies; else its rows are checked before the first is added."""
    return (
        state.scatter is None or state.scatter.ndim == 1 or state.n_parameters <= layout.SNAPSHOT_PARAMETERS
    )


def begin(state: DeviceMoments) -> bool:
    """Begin a call. False where the caller must check all rows (``bad``), and then ``close``, before adding any.

    ``state.call`` goes up when all copies are there: what fails before that has nothing to put back.
    """
    state.bad.fill(NO_BAD_ROW)
    if not has_snapshot(state):
        state.call += 1
        return False
    arrays = state.accumulators()
    if len(state.snapshot) != len(arrays) or any(
        now is not kept for now, (kept, _) in zip(arrays, state.snapshot, strict=True)
    ):
        state.snapshot = [(array, cupy().empty_like(array)) for array in arrays]
    for array, copy in state.snapshot:
        copy[...] = array
    state.call += 1
    return True


def close(state: DeviceMoments, *, waiting: int) -> None:
    """Close the gate if a row of this call was not finite. ``waiting``: rows that waited before the call."""
    seen = int(state.counts[ROWS])
    launch("close_gate", FLOAT64, 1, (32,), state.status, state.bad, state.call, seen, waiting)


def commit(state: DeviceMoments, *, seen: int, waiting: int) -> None:
    """Put the copies back if a row was not finite, and close the gate. ``seen``: rows in blocks before the call."""
    if has_snapshot(state):
        for array, copy in state.snapshot:
            flat("restore", array.dtype, int(array.size), array, copy, int(array.size), state.bad)
        launch("close_gate", FLOAT64, 1, (32,), state.status, state.bad, state.call, seen, waiting)


def reserve(state: DeviceMoments) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Memory of ``join``. Ask for it before a block is added: what is out of memory then has changed nothing."""
    p = state.n_parameters
    work = state.panels.get("join")
    if work is None:
        work = state.panels["join"] = tuple(empty(size, np.float64, "a correction") for size in (p, p, 1))
    own, delta, factor = work
    return own, delta, factor


def join(
    state: DeviceMoments,
    sums: DeviceArray,
    totals: DeviceArray,
    shift: DeviceArray | None,
    squares: DeviceArray | None = None,
) -> None:
    """Rows whose scatter about ``shift`` was added already join location and scalars, and correct the scatter."""
    p = state.n_parameters
    own, delta, factor = reserve(state)
    flat(
        "fold_block",
        FLOAT64,
        p,
        p,
        bool(state.centred),
        sums,
        totals,
        shift,
        state.scalars,
        state.location,
        own,
        delta,
        factor,
    )
    scatter = state.scatter
    if scatter is not None and scatter.ndim == 1:
        flat("correct_diagonal", scatter.dtype, p, scatter, p, squares, own, sums, delta, factor)
    elif scatter is not None and state.centred:
        table("correct", scatter.dtype, p, p, scatter, p, own, sums, delta, factor)
    flat("add_to", FLOAT64, 3, state.scalars, totals, 3)
