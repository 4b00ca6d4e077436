"""The order of summation: a part of the numerical contract, the same on every backend.

Rows are numbered globally, from the first row that an accumulator ever saw. They are cut into *blocks* of
``BLOCK_ROWS`` rows, and blocks into *slabs* of ``slab_rows(p, structure)`` rows: ``SLAB_ROWS``, or ``WIDE_SLAB_ROWS``
for a large result, or fewer where a slab of that many rows would be much larger than the result.

* Inside a slab, products are added row by row in the compute type (float32 for float32 rows, else float64), and
  column sums by trees over eight rows in the compute type, the trees in float64. Of few parameters the compiled
  backend adds the rows of a line of 64 bytes apart (``kLaneParameters`` in ``csrc/cpu/slab.hpp``, but not those of
  ``kRotatedParameters``).
* A block subtracts one provisional shift: the weighted mean of its first slab of positive weight, rounded to the
  compute type.
* Slabs are added to the block, and blocks to the total (Chan's formula), in index order, in the accumulator type.

Sums of groups of rows are one chain in the order of the draws, of float64; of float32 rows it may be one of the sums of
``SHORT_CHAIN`` draws each, which are chains in float32.

Nothing here depends on the number of threads or on how rows arrive, so results have the same bits for any chunking and
any thread count. Instruction sets with fused multiply-adds (AVX2, AVX-512) agree to the bit; the baseline rounds each
product once more, and other backends sum a slab in another order.

The shift is renewed in every block, so the accuracy does not decay when the data drift away from where they started.
"""

from __future__ import annotations

from typing import Final

SLAB_ROWS: Final = 256
WIDE_SLAB_ROWS: Final = 512
"""Above ``BLOCK_BUFFER_MAX_PARAMETERS``, where each slab passes over a result that no cache holds: half as often."""
BLOCK_ROWS: Final = 4096

SHORT_CHAIN: Final = 16
"""Draws of a group that may be added up in float32, where the rows compute in it, before float64.

Of a term ``f x`` these cost at most ``SHORT_CHAIN + 2`` roundings: of the factor, of the product (unless it is fused)
and of as many sums.
"""

_NARROW_SLAB_BYTES: Final = 4 << 20

BLOCK_BUFFER_MAX_PARAMETERS: Final = 512
"""Up to here a block has a scatter matrix of its own, of at most 2 MiB, and blocks are summed in
parallel. Above it, slabs are added straight to the total and the tiles of one slab are shared among the threads."""


def has_block_buffer(n_parameters: int) -> bool:
    """Whether a block of rows with ``n_parameters`` entries accumulates into a scatter matrix of its own."""
    return n_parameters <= BLOCK_BUFFER_MAX_PARAMETERS


def slab_rows(n_parameters: int, structure: str) -> int:
    """Rows in a slab: a power of two that divides ``BLOCK_ROWS``.

    A full scatter matrix is larger than any slab that matters. A diagonal is not, so there a slab of wide rows is
    kept within 4 MiB of float64.
    """
    if structure == "full":
        return SLAB_ROWS if has_block_buffer(n_parameters) else WIDE_SLAB_ROWS
    rows = SLAB_ROWS
    while rows > 1 and rows * n_parameters * 8 > _NARROW_SLAB_BYTES:
        rows //= 2
    return rows
