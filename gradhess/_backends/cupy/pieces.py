"""Rows a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator

from gradhess._backends.cupy.engine import PRODUCT_SEGMENT
from gradhess._backends.cupy.launch import empty
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.cupy.structured import DeviceStructuredRows
from gradhess._backends.protocol import Rows


def spans(n_rows: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive ranges of ``size`` rows, the last shorter."""
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)


def piece_rows(most: int) -> int:
    """Rows of a piece of a sum over rows: a multiple of ``PRODUCT_SEGMENT`` where so many are allowed, so that the bits
    of the sum do not depend on pieces; else what is allowed, at least one."""
    return most // PRODUCT_SEGMENT * PRODUCT_SEGMENT or max(most, 1)


def dense(rows: Rows) -> Rows:
    """Structured rows formed; others as they are."""
    if not isinstance(rows, DeviceStructuredRows):
        return rows
    out = empty((rows.n_samples, rows.n_parameters), rows.compute_dtype, "rows")
    rows.expand(out)
    return DeviceRows(out)
