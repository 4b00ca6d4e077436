"""How many bytes a result on a GPU takes, and whether they are there: asked before anything large is allocated."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess._backends.cupy import layout
from gradhess._backends.cupy.cublas_engine import panel_columns
from gradhess._backends.cupy.launch import SEGMENT, cupy
from gradhess._memory import NEVER_REFUSED, scatter_bytes, too_large

VECTORS: Final = 12
"""(p,) float64 beside a scatter: mean, shifts, sums, squares, corrections."""


PLANE_BYTES: Final = {False: 6, True: 16}
"""Of an entry of float32 rows as three 16-bit planes, without and with weights: the compiled kernels' (for weights the
rows, and planes of both operands)."""


SPLIT_BYTES: Final = 640 << 20
"""Of partial sums of the compiled kernels, at most: 32 splits of the rows, where the tiles of the product are few."""


def _partial_bytes(n_parameters: int) -> int:
    side = -(-n_parameters // 128)
    tiles = side * (side + 1) // 2
    return min(32 * tiles * 128 * 128 * 8, SPLIT_BYTES) if 1 < tiles < 4 * 132 else 0


def block_bytes(n_parameters: int, itemsize: int, *, weighted: bool = True, n_rows: int | None = None) -> int:
    """Bytes that a block is prepared and multiplied in: its rows, the same with their weights, a panel of products.

    ``n_rows`` are those of a batch; without it the block is that of a stream.
    """
    p = n_parameters
    rows = layout.block_rows(p) if n_rows is None else min(n_rows, layout.batch_rows(p))
    entry = max((1 + weighted) * itemsize, PLANE_BYTES[weighted])
    columns = min(panel_columns(p, itemsize), p)
    sums = 2 * -(-rows // SEGMENT) * p * 8
    return rows * p * entry + p * columns * itemsize + sums + _partial_bytes(p) + VECTORS * 8 * p


def stream_bytes(n_parameters: int, structure: str, itemsize: int) -> int:
    """Bytes of a stream on a GPU at its peak: the scatter, the copy that a result is finished in, the rows that wait
    (twice up to ``layout.SNAPSHOT_PARAMETERS``), and a block in work."""
    kind: Any = structure
    scatter = scatter_bytes(n_parameters, kind, itemsize)
    small = n_parameters <= layout.SNAPSHOT_PARAMETERS
    waiting = (1 + small) * layout.block_rows(n_parameters) * n_parameters * itemsize
    return (3 if small else 2) * scatter + waiting + block_bytes(n_parameters, itemsize, weighted=False)


def available_bytes() -> int:
    """Free memory of the current device, with what CuPy's pool holds and does not use."""
    free = int(cupy().cuda.runtime.memGetInfo()[0])
    pool = getattr(cupy(), "get_default_memory_pool", None)
    return free + (int(pool().free_bytes()) if pool is not None else 0)


def require(n_bytes: int, what: str, alternatives: dict[str, int] | None = None) -> None:
    """Raise ResultTooLargeError if ``n_bytes`` are not available on the current device."""
    if n_bytes < NEVER_REFUSED:
        return
    available = available_bytes()
    if n_bytes > available:
        raise too_large(n_bytes, what, available, alternatives, where="the GPU")


def require_matrix(n_parameters: int, n_rows: int, what: str, dtype: np.dtype[Any]) -> None:
    """A (p, p) result of one batch: the scatter becomes the result."""
    p = n_parameters

    def needed(itemsize: int) -> int:
        return scatter_bytes(p, "full", itemsize) + block_bytes(p, itemsize, n_rows=n_rows)

    require(
        needed(dtype.itemsize),
        f"{what} of shape ({p:,}, {p:,})",
        {"dtype='float32'": needed(4)} if dtype.itemsize == 8 else None,
    )


def require_stream(n_parameters: int, structure: str, dtype: np.dtype[Any]) -> None:
    p, full = n_parameters, structure == "full"
    alternatives = {"structure='diagonal'": stream_bytes(p, "diagonal", 8)} if full else {}
    if full and dtype.itemsize == 8:
        alternatives = {"dtype='float32'": stream_bytes(p, structure, 4), **alternatives}
    require(
        stream_bytes(p, structure, dtype.itemsize),
        f"a {structure} covariance of {p:,} parameters",
        alternatives,
    )
