"""Which rows make up a group, and how much of each: mini-batches, clusters, sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """Group j is the draws ``offsets[j]`` to ``offsets[j + 1]``; draw t takes row ``i(t)``. A row may be drawn often.

    The sum of group j over rows ``x~_i`` with k outputs, (k * width,) row-major, is

        ``scale_j sum_t f_t (x) x~_i(t)``  with  ``f_t = factors_t slopes_i(t) + shifts_t``,  of shape (k,).

    What is None is 1, of ``shifts`` 0, and of ``indices`` the row t itself.
    """

    offsets: Indices
    """(m + 1,) contiguous, not decreasing."""
    indices: Indices | None = None
    """(t,) contiguous."""
    slopes: Float64Array | None = None
    """(n, k) C-contiguous: what a loss makes of each row, once however often it is drawn."""
    factors: Float64Array | None = None
    """(t,) contiguous."""
    shifts: Float64Array | None = None
    """(t,) contiguous; the same for all outputs."""
    scale: Float64Array | None = None
    """(m,) contiguous."""

    @property
    def count(self) -> int:
        """m."""
        return int(self.offsets.shape[0]) - 1

    @property
    def n_outputs(self) -> int:
        """k."""
        return 1 if self.slopes is None else int(self.slopes.shape[1])

    @property
    def n_draws(self) -> int:
        return int(self.offsets[-1] - self.offsets[0])

    def slice(self, start: int, stop: int) -> Groups:
        """Groups ``start`` to ``stop`` as views; what belongs to draws stays whole, as offsets point into it."""
        scale = None if self.scale is None else self.scale[start:stop]
        offsets = self.offsets[start : stop + 1]
        return Groups(offsets, self.indices, self.slopes, self.factors, self.shifts, scale)

    def rows_of(self, group: int) -> Indices:
        """Indices of the rows of one group, in the order of its draws."""
        start, stop = self.offsets[group : group + 2]
        return np.arange(start, stop) if self.indices is None else self.indices[start:stop]

    def take(self, keep: Any) -> Groups:
        """The groups where ``keep`` (m,) is true, as copies."""
        lengths = np.diff(self.offsets)
        draws = np.repeat(np.asarray(keep, np.bool_), lengths)
        span = slice(int(self.offsets[0]), int(self.offsets[-1]))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[keep])])
        indices = np.arange(span.start, span.stop) if self.indices is None else self.indices[span]

        def kept(array: Float64Array | None) -> Float64Array | None:
            return None if array is None else array[span][draws]

        scale = None if self.scale is None else self.scale[keep]
        return Groups(offsets, indices[draws], self.slopes, kept(self.factors), kept(self.shifts), scale)


def changed_groups(n_rows: int) -> str:
    """What to say where a draw names a row that is not there, which was checked before."""
    return (
        f"a group names a row outside the {n_rows} rows: the array of groups was changed after it was passed"
    )
