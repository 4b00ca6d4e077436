"""The table of operations on CuPy arrays. See ``gradhess._backends.protocol.Backend`` for what each method does.

All arrays are of the current device, and work is queued in CuPy's current stream; whoever calls sets both. Only what
returns a number of Python (``first_nonfinite``) waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from gradhess._backends.cupy import layout
from gradhess._backends.cupy.accuracy import CHOSEN
from gradhess._backends.cupy.cublas_engine import CublasEngine, CublasPanel, scale_rows
from gradhess._backends.cupy.engine import NO_BAD_ROW, Accuracy, Block, DeviceArray, Engine, Panel
from gradhess._backends.cupy.group_sums import group_sums
from gradhess._backends.cupy.kronecker import kronecker_sums
from gradhess._backends.cupy.launch import cupy, device_errors, empty, flat, rehearsing, table, zeros
from gradhess._backends.cupy.moments import DeviceMoments, begin, close, commit, join, reserve
from gradhess._backends.cupy.outer import OuterGram
from gradhess._backends.cupy.pairs import pair_dependence
from gradhess._backends.cupy.pieces import dense, spans
from gradhess._backends.cupy.products import Products
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.cupy.slopes import plain, row_weights
from gradhess._backends.cupy.structured import DeviceStructuredRows
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import FLOAT64, ROWS, KroneckerFactor, MomentState, Rows


class CupyBackend(Products, OuterGram):
    """``Backend`` on a GPU, over an engine; ``threads`` plays no part."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self.cublas = CublasEngine()

    @property
    def accuracy(self) -> Accuracy:
        """What ``use_backend(..., accuracy=...)`` chose."""
        return CHOSEN.get()

    # ---- moments -------------------------------------------------------------------------------------------------

    def accumulate(
        self, rows: Rows, weights: DeviceArray | None, state: MomentState, *, threads: int = 1
    ) -> None:
        """Adds rows to ``state`` (``DeviceMoments``), whole blocks, of which the last may be short.

        It raises nothing for rows that are not finite: they lower ``state.bad``, and ``commit`` drops the call.
        """
        self.add_rows(rows, weights, _device(state), first_row=0)

    def add_rows(
        self,
        rows: Rows,
        weights: DeviceArray | None,
        state: DeviceMoments,
        *,
        first_row: int,
        block_rows: int | None = None,
    ) -> None:
        """``accumulate`` for rows whose indices in the call begin at ``first_row``; blocks of ``layout.block_rows``."""
        for start, stop in spans(rows.n_samples, block_rows or layout.block_rows(state.n_parameters)):
            with device_errors("adding a block of rows"):
                part = self._taken(dense(rows.slice(start, stop)))
                given = None if weights is None else weights[start:stop]
                self._add_block(part, given, state, first_row + start, widened=block_rows is None)

    def _taken(self, rows: Rows) -> Rows:
        """Rows as the engine takes them: a copy in the compute type of integers, or of rows that are not aligned to
        their items."""
        if self.engine.serves(rows):
            return rows
        X = cupy().ascontiguousarray(plain(rows))
        return replace(rows, X=X, bfloat16=False) if isinstance(rows, DeviceRows) else replace(rows, X=X)

    def _add_block(
        self,
        rows: Rows,
        weights: DeviceArray | None,
        state: DeviceMoments,
        first_row: int,
        *,
        widened: bool,
    ) -> None:
        reserve(state)
        shift = self._shift(rows, weights, state) if state.centred else None
        block = Block(rows, weights, shift, state.gate, first_row, widened=widened)
        engine = self.engine
        panel = self._panel(engine, rows, state)
        diagonal = state.structure != "full"
        state.torn = not rehearsing()
        if diagonal or not engine.fused(block, panel, state.scatter):
            engine.prepare(block, panel, squares=diagonal)
            if not diagonal:
                engine.rank_update(panel, state.scatter)
        join(state, panel.sums, panel.totals, shift, panel.squares if diagonal else None)
        state.counts[ROWS] += rows.n_samples
        state.torn = False

    def _panel(self, engine: Engine, rows: Rows, state: DeviceMoments) -> Panel:
        key = (engine.name, rows.compute_dtype, self.accuracy)
        panel, capacity = state.panels.get(key, (None, 0))
        if capacity < rows.n_samples:
            state.panels.pop(key, None)  # before the larger one is made
            capacity = rows.n_samples
            made = engine.panel(capacity, state.n_parameters, rows.compute_dtype, accuracy=self.accuracy)
            made.bad = state.bad
            state.panels[key] = made, capacity
            return made
        return cast(Panel, panel)

    def _shift(self, rows: Rows, weights: DeviceArray | None, state: DeviceMoments) -> DeviceArray:
        """(p,) float64, rounded to the compute type: the mean of the first rows, or of all where there are weights."""
        head = min(rows.n_samples, layout.SHIFT_ROWS) if weights is None else rows.n_samples
        key = ("shift", rows.compute_dtype)
        panel, capacity = state.panels.get(key, (None, 0))
        if capacity < head:
            capacity = head
            panel = CublasPanel(capacity, state.n_parameters, rows.compute_dtype, self.accuracy)
            state.panels[key] = panel, capacity
        block = Block(rows.slice(0, head), weights, gate=state.gate)
        given = None if rows.kind == "dense" else self.engine.slopes(block.rows)
        self.cublas.row_pass(block, panel, keep=False, given=given)
        shift = empty(state.n_parameters, FLOAT64, "a shift")
        flat(
            "mean_shift",
            rows.compute_dtype,
            state.n_parameters,
            panel.sums,
            panel.totals,
            state.n_parameters,
            shift,
        )
        return shift

    def add_call(
        self,
        rows: Rows,
        weights: DeviceArray | None,
        state: DeviceMoments,
    ) -> None:
        """A batch of its own: all rows, or, if one is not finite, none of them; without waiting to know."""
        seen = int(state.counts[ROWS])
        if not begin(state):
            self.find_bad(rows, weights, state.bad)
            close(state, waiting=0)
        size = layout.batch_rows(state.n_parameters)
        self.add_rows(rows, weights, state, first_row=0, block_rows=size)
        commit(state, seen=seen, waiting=0)

    def close_block(self, state: MomentState) -> None:
        """Nothing: no block is ever open."""

    def merge(self, state: MomentState, other: MomentState) -> None:
        mine, theirs = _device(state), _device(other)
        reserve(mine)
        nothing = zeros(mine.n_parameters, FLOAT64, "a merge")  # before anything is added
        mine.torn = not rehearsing()
        if mine.scatter is not None:
            size = int(mine.scatter.size)
            flat("add_to", mine.scatter.dtype, size, mine.scatter, theirs.scatter, size)
        sums, shift = (nothing, theirs.location) if mine.centred else (theirs.location, None)
        join(mine, sums, theirs.scalars, shift, nothing)
        mine.counts += theirs.counts
        mine.torn = False

    def symmetrize(
        self,
        lower: DeviceArray,
        scale: float,
        out: DeviceArray,
        *,
        threads: int = 1,
        status: DeviceArray | None = None,
    ) -> None:
        """With ``status``, the result is NaN where that says that rows were left out."""
        p = int(lower.shape[0])
        table("symmetrize", lower.dtype, p, p, lower, p, float(scale), None, status, out)

    # ---- rows ----------------------------------------------------------------------------------------------------

    def materialize(self, rows: Rows, out: DeviceArray) -> None:
        if isinstance(rows, DeviceStructuredRows):
            rows.expand(out)
            return
        slope = self.errors(rows) if rows.kind == "gradient" else None
        scale_rows(rows, plain(rows), slope, rows.n_samples, z=out)

    def wait(
        self,
        rows: Rows,
        weights: DeviceArray | None,
        skip: DeviceArray | None,
        state: DeviceMoments,
        out: DeviceArray,
        out_weights: DeviceArray | None,
        *,
        first_row: int,
    ) -> None:
        """Compute rows into ``out``, where they wait for the rest of their block; nothing is written if the gate is
        closed. Rows that ``skip`` marks become zero rows of weight zero; others that are not finite lower ``bad``."""
        part = dense(rows)
        slope = self.errors(part) if part.kind == "gradient" else None
        n = rows.n_samples
        scale_rows(
            part,
            plain(part),
            slope,
            n,
            weights=weights,
            gate=state.gate,
            skip=skip,
            z=out,
            bad=state.bad,
            hold=True,
            first=first_row,
        )
        if out_weights is not None:
            flat("wait_weights", FLOAT64, n, weights, skip, n, state.gate, out_weights)

    def find_bad(
        self,
        rows: Rows,
        weights: DeviceArray | None,
        bad: DeviceArray | None,
        *,
        mask: DeviceArray | None = None,
        gate: DeviceArray | None = None,
    ) -> None:
        """Lower ``bad`` to the first row, or weight, that is not finite, and mark all such rows in ``mask``."""
        for start, stop in spans(rows.n_samples, layout.block_rows(rows.n_parameters)):
            part = dense(rows.slice(start, stop))
            slope = None if part.kind == "dense" else self.errors(part)
            given = None if weights is None else weights[start:stop]
            scale_rows(
                part,
                plain(part),
                slope,
                stop - start,
                weights=row_weights(part, given, slope),
                gate=gate,
                bad=bad,
                mask=None if mask is None else mask[start:stop],
                first=start,
            )

    def first_nonfinite(self, rows: Rows, weights: DeviceArray | None, *, threads: int = 1) -> int:
        bad = empty(1, np.int64, "a flag")
        bad.fill(NO_BAD_ROW)
        self.find_bad(rows, weights, bad)
        index = int(bad.get()[0])
        return -1 if index == NO_BAD_ROW else index

    def errors(self, rows: Rows, *, threads: int = 1) -> DeviceArray:
        return self.engine.slopes(self._taken(rows))[0]

    def group_sums(self, rows: Rows, groups: Groups, out: DeviceArray, *, threads: int = 1) -> None:
        group_sums(rows, groups, out)

    def pair_dependence(
        self,
        labels: DeviceArray,
        q: int,
        input_weights: DeviceArray,
        target_weights: DeviceArray | None,
        *,
        n_rows: int | None = None,
        threads: int = 1,
    ) -> DeviceArray:
        return pair_dependence(self.engine, labels, q, input_weights, target_weights, n_rows)

    def kronecker_sums(
        self, A: DeviceArray, factors: Sequence[KroneckerFactor], out: DeviceArray, *, threads: int = 1
    ) -> None:
        kronecker_sums(self.engine, A, factors, out)


def _device(state: MomentState) -> DeviceMoments:
    assert isinstance(state, DeviceMoments)
    return state
