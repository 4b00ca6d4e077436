"""Blocks of rows into the totals of a ``MomentState``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from gradhess._backends.numba import narrow_kernels, scatter_kernels, workers
from gradhess._backends.numba.row_source import NARROW_PARAMETERS, readonly
from gradhess._backends.protocol import (
    BLOCK_ROWS,
    BLOCK_WEIGHT,
    LOSS,
    ROWS,
    WEIGHT,
    AnyArray,
    Float64Array,
    MomentState,
)

NO_SCATTER: Final = np.zeros((0, 0))


@dataclass(slots=True)
class Block:
    """An open block: arrays of a state, or scratch of the same shape. ``scatter`` is two-dimensional always."""

    scatter: AnyArray
    shift: Float64Array
    total: Float64Array
    totals: Float64Array
    """(3,): sums of weights, of their squares, and of the loss."""
    rows: int

    @classmethod
    def of(cls, state: MomentState) -> Block:
        scatter = state.scatter if state.block_scatter is None else state.block_scatter
        return cls(
            scatter=NO_SCATTER if scatter is None else np.atleast_2d(scatter),
            shift=state.block_shift,
            total=state.block_sum,
            totals=state.scalars[BLOCK_WEIGHT:],
            rows=int(state.counts[BLOCK_ROWS]),
        )

    @classmethod
    def like(cls, state: MomentState) -> Block:
        p = state.n_parameters
        scatter = (
            NO_SCATTER if state.block_scatter is None else np.atleast_2d(np.zeros_like(state.block_scatter))
        )
        return cls(scatter, np.zeros(p), np.zeros(p), np.zeros(3), 0)

    def clear(self) -> None:
        for array in (self.scatter, self.shift, self.total, self.totals):
            array[...] = 0
        self.rows = 0

    def copy_to(self, other: Block) -> None:
        other.scatter[...] = self.scatter
        other.shift[...] = self.shift
        other.total[...] = self.total
        other.totals[...] = self.totals
        other.rows = self.rows

    def store(self, state: MomentState) -> None:
        """Become the open block of ``state``."""
        if state.block_scatter is not None:
            state.block_scatter[...] = self.scatter.reshape(state.block_scatter.shape)
        state.block_shift[:] = self.shift
        state.block_sum[:] = self.total
        state.scalars[BLOCK_WEIGHT:] = self.totals
        state.counts[BLOCK_ROWS] = self.rows


@dataclass(slots=True)
class Blocks:
    """Several blocks side by side: the arrays of ``Block``, with one more axis."""

    scatter: AnyArray
    shift: Float64Array
    total: Float64Array
    totals: Float64Array

    @classmethod
    def of(cls, block: Block) -> Blocks:
        """One block, in its own memory."""
        arrays = block.scatter, block.shift, block.total, block.totals
        return cls(*(array[np.newaxis] for array in arrays))

    @classmethod
    def like(cls, block: Block, count: int) -> Blocks:
        p = len(block.shift)
        scatter = np.zeros((count, *block.scatter.shape), block.scatter.dtype)
        return cls(scatter, np.zeros((count, p)), np.zeros((count, p)), np.zeros((count, 3)))

    def clear(self) -> None:
        for array in (self.scatter, self.shift, self.total, self.totals):
            array[...] = 0

    def at(self, index: int) -> Block:
        return Block(self.scatter[index], self.shift[index], self.total[index], self.totals[index], 0)


def close_block(state: MomentState, threads: int = 1) -> None:
    if state.counts[BLOCK_ROWS] == 0:
        return
    block = Block.of(state)
    if state.block_scatter is None:
        block.scatter = NO_SCATTER  # its products are in the total already, uncorrected
    fold(state, block, threads)


def fold(state: MomentState, block: Block, threads: int) -> None:
    """Add a block to the totals, and empty it."""
    if state.n_parameters <= NARROW_PARAMETERS:
        fold_narrow(state, Blocks.of(block), 1)
    else:
        _fold_wide(state, block, threads)
    state.counts[ROWS] += block.rows
    state.counts[BLOCK_ROWS] = 0
    block.clear()


def fold_narrow(state: MomentState, blocks: Blocks, count: int) -> None:
    """Add the first ``count`` blocks to the totals. Where they have no scatter, it is in these already."""
    into = NO_SCATTER if state.scatter is None or not blocks.scatter.size else np.atleast_2d(state.scatter)
    narrow_kernels.fold_blocks(
        count, blocks.scatter, blocks.shift, blocks.total, blocks.totals, state.centred,
        state.structure == "diagonal", into, state.location, state.scalars,
    )  # fmt: skip


def _fold_wide(state: MomentState, block: Block, threads: int) -> None:
    weight = float(block.totals[0])
    if state.centred:
        mean = block.total / weight if weight != 0 else np.zeros_like(block.total)
        # In this order: the shift and the old mean are close to each other.
        delta = (block.shift - state.location) + mean
        gain = _move_mean(state, delta, weight)
        _add_scatter(state, block.scatter, (mean, block.total), (delta, gain), threads=threads)
    else:
        state.location += block.total
        _add_scatter(state, block.scatter, threads=threads)
    state.scalars[WEIGHT : LOSS + 1] += block.totals


def merge(state: MomentState, other: MomentState) -> None:
    scatter = NO_SCATTER if other.scatter is None else np.atleast_2d(other.scatter)
    if state.centred:
        delta = other.location - state.location
        gain = _move_mean(state, delta, float(other.scalars[WEIGHT]))
        _add_scatter(state, scatter, plus=(delta, gain))
    else:
        state.location += other.location
        _add_scatter(state, scatter)
    state.scalars += other.scalars
    state.counts += other.counts


def _move_mean(state: MomentState, delta: Float64Array, weight: float) -> float:
    """Chan's formula: rows whose mean lies ``delta`` from the old one join. Returns the factor of delta delta^T."""
    if weight == 0:
        return 0.0
    before = float(state.scalars[WEIGHT])
    state.location += delta * (weight / (before + weight))
    return before * (weight / (before + weight))


def _add_scatter(
    state: MomentState,
    block: AnyArray,
    minus: tuple[Float64Array, Float64Array] | None = None,
    plus: tuple[Float64Array, float] | None = None,
    *,
    threads: int = 1,
) -> None:
    """scatter += block - mean total^T + gain delta delta^T, with ``minus`` (mean, total) and ``plus`` (delta, gain)."""
    scatter, p = state.scatter, state.n_parameters
    if scatter is None:
        return
    zero = np.zeros(p)
    mean, total = minus or (zero, zero)
    delta, gain = plus or (zero, 0.0)
    if state.structure == "diagonal":
        change = gain * delta * delta - mean * total
        scatter += change if block.size == 0 else change + block[0]
        return
    if block.size == 0 and not state.centred:
        return
    block, mean, total, delta = map(readonly, (block, mean, total, delta))

    def strip(index: int) -> None:
        top, bottom = strip_rows(index, p)
        scatter_kernels.fold_strip(scatter, block, top, bottom, mean, total, delta, gain)

    workers.run(strip_count(p), strip, threads)


def strip_count(p: int) -> int:
    return -(-p // scatter_kernels.STRIP_ROWS)


def strip_rows(index: int, p: int) -> tuple[int, int]:
    """Rows of a strip of the lower triangle; the longest ones come first, so that threads finish together."""
    top = (strip_count(p) - 1 - index) * scatter_kernels.STRIP_ROWS
    return top, min(top + scatter_kernels.STRIP_ROWS, p)
