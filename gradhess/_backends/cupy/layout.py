"""The order of summation on a GPU: blocks at fixed global rows, as on the CPU, but longer.

Rows are numbered from the first that an accumulator saw, and cut into *blocks* of ``block_rows(p)`` rows. A block is
summed when all of its rows are there: rows that do not fill one wait on the device, already computed. Blocks are long,
because each costs the host a few launches, and because a product with few tiles fills a device only if its rows can be
split; and short enough for what waits to stay within ``_WAITING_BYTES``. A batch, whose rows never wait, has longer
blocks: ``batch_rows(p)``. Inside of a block, float32 products are summed in float32 over *slabs* of ``SLAB_ROWS`` rows,
slabs are added in float32 over ``BLOCK_ROWS`` rows, and those in float64, so that no float32 sum is longer than 2048
terms and 8 slabs. float64 rows are summed in float64 throughout. A block subtracts the weighted mean of ``SHIFT_ROWS``
of its rows, from the first that has weight.

Every block of a width has the same shape, so cuBLAS is called with the same arguments: the same bits for any chunking
and any stream. CPU and GPU results agree to rounding, not to the bit.
"""

from __future__ import annotations

from typing import Final

BLOCK_ROWS: Final = 16384
SLAB_ROWS: Final = 2048
SHIFT_ROWS: Final = 256

STREAM_ROWS: Final = 1 << 18
BATCH_ROWS: Final = 1 << 21
"""Of the narrowest rows, in a block of a stream and of a batch."""

_WAITING_BYTES: Final = 128 << 20
"""Of a stream's block in float64, if it is longer than ``BLOCK_ROWS``."""

_BLOCK_BYTES: Final = 1 << 30
"""Of any block in float64. Wider rows come in shorter blocks: 8192 rows up to 16,384 parameters, 1024 at 100,000."""

SNAPSHOT_PARAMETERS: Final = 1024
"""Up to here a call keeps a copy of the scatter (8 MiB) and puts it back if a row is not finite; above, rows are
checked before the first is added, in a pass of its own that costs little beside the product."""


def block_rows(n_parameters: int) -> int:
    """Rows in a block of a stream: a power of two, from 256 to ``STREAM_ROWS``."""
    rows = batch_rows(n_parameters)
    while rows > STREAM_ROWS or (rows > BLOCK_ROWS and rows * n_parameters * 8 > _WAITING_BYTES):
        rows //= 2
    return rows


def batch_rows(n_parameters: int) -> int:
    """The same of a batch that comes at once: from 256 to ``BATCH_ROWS``."""
    rows = BATCH_ROWS
    while rows > SHIFT_ROWS and rows * n_parameters * 8 > _BLOCK_BYTES:
        rows //= 2
    return rows
