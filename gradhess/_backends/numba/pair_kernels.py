"""Pairwise dependence of labels: one input x against blocks of 64 inputs x', as in csrc/cpu/pair_dependence.hpp.

The targets are grouped by their label at x (by ``argsort``), so a group's counts of each label at x' are a row of the
joint histogram. Labels are bytes, blocks of 64 inputs one piece of memory each.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess._backends.numba import workers
from gradhess._backends.numba.row_source import readonly
from gradhess._backends.numba.slab_kernels import kernel
from gradhess._backends.protocol import AnyArray, Float64Array

LANES: Final = 64
BYTE_COUNTS: Final = 255
"""Targets that are counted in bytes before they are added to wider counts."""
TILE_ROWS: Final = 16
"""Inputs x of one job."""
ONE_BY_ONE: Final = 32
"""Labels from which on pairs are counted one after the other, in time that does not grow with q."""


def pair_dependence(
    labels: AnyArray,
    q: int,
    input_weights: Float64Array,
    target_weights: Float64Array | None,
    n_rows: int,
    threads: int,
) -> Float64Array:
    n_targets, n_inputs = labels.shape
    blocks = -(-n_inputs // LANES)
    packed = np.zeros((n_targets, blocks * LANES), np.uint8)
    packed[:, :n_inputs] = labels
    packed = readonly(np.ascontiguousarray(packed.reshape(n_targets, blocks, LANES).transpose(1, 0, 2)))
    mu = readonly(input_weights)
    shares = None if target_weights is None else readonly(target_weights)
    sums = np.zeros(n_rows)

    def tile(index: int) -> None:
        first = index * TILE_ROWS
        rows = labels[:, first : min(first + TILE_ROWS, n_rows)]
        order = readonly(np.ascontiguousarray(np.argsort(rows, axis=0, kind="stable").T.astype(np.uint32)))
        starts = np.zeros((rows.shape[1], q + 1), np.int64)
        for i in range(rows.shape[1]):
            starts[i, 1:] = np.cumsum(np.bincount(rows[:, i], minlength=q))
        out = sums[first : first + TILE_ROWS]
        if shares is None:
            counted = add_one_by_one if q >= ONE_BY_ONE else add_counted
            counted(packed, first, q, order, readonly(starts), mu, out)
        else:
            weighted = add_weighted_one_by_one if q >= ONE_BY_ONE else add_weighted
            weighted(packed, first, q, order, readonly(starts), shares, mu, out)

    workers.run(-(-n_rows // TILE_ROWS), tile, threads)
    return sums


@kernel
def _add_lanes(
    total: float, x: int, b: int, n_targets: int, cells: int, above: Any, over: Any, mu: Any
) -> float:
    """total + sum of mu(x') eps^2 over the inputs x' > x of block b.

    ``over`` counts the cells above the floor of ``n_targets / cells``, ``above`` what they hold above it.
    """
    remainder = float(n_targets - (n_targets // cells) * cells)
    for lane in range(max(0, x + 1 - b * LANES), min(LANES, mu.shape[0] - b * LANES)):
        dependence = 2.0 * (cells * float(above[lane]) - remainder * float(over[lane]))
        dependence /= float(n_targets) * cells
        total += mu[b * LANES + lane] * dependence * dependence
    return total


@kernel
def add_counted(packed: Any, first: int, q: int, order: Any, starts: Any, mu: Any, out: Any) -> None:
    """out[i] += sum over x' > first + i of mu(x') eps^2, from whole counts.

    ``sum |c - n / q^2|`` over cells is ``2 sum ((c - k) - r / q^2)`` over those with c > k, k = floor(n / q^2),
    r = n - k q^2.
    """
    n_targets = order.shape[1]
    cells = q * q
    floor = np.uint32(n_targets // cells)
    few = np.zeros(LANES, np.uint8)
    count = np.zeros(LANES, np.uint32)
    above = np.zeros(LANES, np.uint32)
    over = np.zeros(LANES, np.uint32)
    for b in range(first // LANES, packed.shape[0]):
        for i in range(out.shape[0]):
            above[:] = np.uint32(0)
            over[:] = np.uint32(0)
            for y in range(q):
                start, stop = starts[i, y], starts[i, y + 1]
                if stop - start <= n_targets // cells:
                    continue  # no cell of this row is above the floor
                for other in range(q):
                    label = np.uint8(other)
                    count[:] = np.uint32(0)
                    for begin in range(start, stop, BYTE_COUNTS):
                        few[:] = np.uint8(0)
                        for at in range(begin, min(begin + BYTE_COUNTS, stop)):
                            seen = packed[b, order[i, at]]
                            for lane in range(LANES):
                                few[lane] += np.uint8(seen[lane] == label)
                        for lane in range(LANES):
                            count[lane] += np.uint32(few[lane])
                    for lane in range(LANES):
                        more = count[lane] > floor
                        above[lane] += (count[lane] - floor) * np.uint32(more)
                        over[lane] += np.uint32(more)
            out[i] = _add_lanes(out[i], first + i, b, n_targets, cells, above, over, mu)


@kernel
def add_weighted(
    packed: Any, first: int, q: int, order: Any, starts: Any, shares: Any, mu: Any, out: Any
) -> None:
    """The same for targets with weights, in float64."""
    uniform = 1.0 / (q * q)
    joint = np.zeros(LANES)
    dependence = np.zeros(LANES)
    for b in range(first // LANES, packed.shape[0]):
        for i in range(out.shape[0]):
            dependence[:] = 0.0
            for y in range(q):
                for other in range(q):
                    label = np.uint8(other)
                    joint[:] = 0.0
                    for at in range(starts[i, y], starts[i, y + 1]):
                        target = order[i, at]
                        seen = packed[b, target]
                        share = shares[target]
                        for lane in range(LANES):
                            joint[lane] += share if seen[lane] == label else 0.0
                    for lane in range(LANES):
                        dependence[lane] += abs(joint[lane] - uniform)
            total = out[i]
            for lane in range(max(0, first + i + 1 - b * LANES), min(LANES, mu.shape[0] - b * LANES)):
                total += mu[b * LANES + lane] * dependence[lane] * dependence[lane]
            out[i] = total


@kernel
def add_one_by_one(packed: Any, first: int, q: int, order: Any, starts: Any, mu: Any, out: Any) -> None:
    """As ``add_counted``, with the counts of one group and one pair at a time."""
    n_targets = order.shape[1]
    cells = q * q
    floor = n_targets // cells
    counts = np.zeros(q, np.int64)
    above = np.zeros(LANES, np.int64)
    over = np.zeros(LANES, np.int64)
    for b in range(first // LANES, packed.shape[0]):
        for i in range(out.shape[0]):
            above[:] = 0
            over[:] = 0
            for y in range(q):
                start, stop = starts[i, y], starts[i, y + 1]
                if stop - start <= floor:
                    continue  # no cell of this row is above the floor
                for lane in range(LANES):
                    for at in range(start, stop):
                        label = packed[b, order[i, at], lane]
                        counts[label] += 1
                        above[lane] += counts[label] > floor
                        over[lane] += counts[label] == floor + 1
                    for at in range(start, stop):
                        counts[packed[b, order[i, at], lane]] = 0
            out[i] = _add_lanes(out[i], first + i, b, n_targets, cells, above, over, mu)


@kernel
def add_weighted_one_by_one(
    packed: Any, first: int, q: int, order: Any, starts: Any, shares: Any, mu: Any, out: Any
) -> None:
    """The same for targets with weights."""
    uniform = 1.0 / (q * q)
    joint = np.zeros(q)
    dependence = np.zeros(LANES)
    filled = np.zeros(LANES, np.int64)
    for b in range(first // LANES, packed.shape[0]):
        for i in range(out.shape[0]):
            dependence[:] = 0.0
            filled[:] = 0
            for y in range(q):
                start, stop = starts[i, y], starts[i, y + 1]
                if start == stop:
                    continue
                for lane in range(LANES):
                    for at in range(start, stop):
                        joint[packed[b, order[i, at], lane]] += shares[order[i, at]]
                    for at in range(start, stop):
                        label = packed[b, order[i, at], lane]
                        if joint[label] != 0.0:  # else it was added already, or has no weight
                            dependence[lane] += abs(joint[label] - uniform)
                            filled[lane] += 1
                            joint[label] = 0.0
            total = out[i]
            for lane in range(max(0, first + i + 1 - b * LANES), min(LANES, mu.shape[0] - b * LANES)):
                eps = dependence[lane] + float(q * q - filled[lane]) * uniform
                total += mu[b * LANES + lane] * eps * eps
            out[i] = total
