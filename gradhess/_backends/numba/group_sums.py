"""Sums of rows in groups: one chain in float64 for each entry, in the order of the draws."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from gradhess._backends.groups import Groups, changed_groups
from gradhess._backends.numba import workers
from gradhess._backends.numba.row_source import readonly
from gradhess._backends.protocol import AnyArray, Rows
from gradhess.errors import InputError

JOBS_PER_THREAD: Final = 8
GATHER_BYTES: Final = 1 << 20
"""Rows of another type or order are converted for about so many bytes of groups at a time, at least one group."""
_NOTHING: Final = readonly(np.zeros(0))
_NO_INDICES: Final = readonly(np.zeros(0, np.int64))
_NO_SLOPES: Final = readonly(np.zeros((0, 1)))


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _sum_groups(
    x: Any, gathered: int, offsets: Any, indices: Any, slopes: Any, factors: Any, shifts: Any, scale: Any, first: int,
    last: int, unit: bool, out: Any,
) -> bool:  # fmt: skip
    """Groups ``first`` to ``last``; False where one names a row that is not there.

    ``gathered`` is -1, or the draw whose row is the first of x: then x holds the rows of the draws in order.
    """
    d = x.shape[1]
    k = slopes.shape[1]
    width = d + (1 if unit else 0)
    sums = np.empty(width)
    for j in range(first, last):
        for q in range(k):
            sums[:] = 0.0
            for t in range(offsets[j], offsets[j + 1]):
                row = indices[t] if indices.size else t
                at = row if gathered < 0 else t - gathered
                if not 0 <= at < x.shape[0]:
                    return False
                f = factors[t] if factors.size else 1.0
                if slopes.shape[0]:
                    f *= slopes[row, q]
                if shifts.size:
                    f += shifts[t]
                for c in range(d):
                    sums[c] += f * x[at, c]
                if unit:
                    sums[d] += f
            s = scale[j] if scale.size else 1.0
            for c in range(width):
                out[j, q * width + c] = s * sums[c]
    return True


def group_sums(rows: Rows, groups: Groups, out: AnyArray, threads: int) -> None:
    X, dtype, n = rows.X, rows.compute_dtype, rows.n_samples
    direct = X.dtype == dtype and X.flags.c_contiguous and X.flags.aligned
    data = readonly(X)
    offsets = readonly(groups.offsets)
    indices = _NO_INDICES if groups.indices is None else readonly(groups.indices)
    slopes = _NO_SLOPES if groups.slopes is None else readonly(groups.slopes)
    factors, shifts, scale = (
        _NOTHING if array is None else readonly(array)
        for array in (groups.factors, groups.shifts, groups.scale)
    )
    room = max(1, GATHER_BYTES // (8 * X.shape[1]))
    count = groups.count
    jobs = min(count, threads * JOBS_PER_THREAD)

    def add(x: AnyArray, gathered: int, first: int, last: int) -> bool:
        return bool(
            _sum_groups(
                x, gathered, offsets, indices, slopes, factors, shifts, scale, first, last, rows.unit_column, out
            )
        )  # fmt: skip

    def add_gathered(first: int, last: int) -> bool:
        start, stop = int(offsets[first]), int(offsets[last])
        index = indices[start:stop] if indices.size else np.arange(start, stop)
        if index.size and not (index.min() >= 0 and index.max() < n):
            return False
        return add(readonly(np.require(X[index], dtype, ["C", "A"])), start, first, last)

    def run(job: int) -> None:
        first, last = count * job // jobs, count * (job + 1) // jobs
        complete = True
        while first < last and complete:
            stop = last
            if not direct:
                stop = int(np.searchsorted(offsets, offsets[first] + room, side="right")) - 1
                stop = min(max(stop, first + 1), last)
            complete = add(data, -1, first, stop) if direct else add_gathered(first, stop)
            first = stop
        if not complete:
            raise InputError(changed_groups(n))

    workers.run(jobs, run, threads)
