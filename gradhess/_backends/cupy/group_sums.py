"""Sums of groups of rows on the device."""

from __future__ import annotations

import numpy as np

from gradhess._backends.cupy.engine import NO_BAD_ROW, DeviceArray
from gradhess._backends.cupy.launch import empty, table
from gradhess._backends.cupy.slopes import plain, strides
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import Rows


def group_sums(rows: Rows, groups: Groups, out: DeviceArray) -> None:
    """Draws outside of the rows were checked by the caller; here they would count as nothing."""
    X = plain(rows)
    bad = empty(1, np.int64, "a flag")
    bad.fill(NO_BAD_ROW)
    table(
        "group_sums",
        X.dtype,
        groups.count,
        int(out.shape[1]),
        X,
        int(X.shape[0]),
        int(X.shape[1]),
        *strides(X),
        bool(rows.unit_column),
        groups.offsets,
        groups.indices,
        groups.slopes,
        groups.factors,
        groups.shifts,
        groups.scale,
        groups.n_outputs,
        groups.count,
        bad,
        out,
    )
