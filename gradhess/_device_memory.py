"""How many bytes a result on a GPU takes, and whether they are there: asked before anything large is allocated."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gradhess._backends.cupy import layout
from gradhess._backends.cupy.cublas_engine import panel_columns
from gradhess._backends.cupy.launch import cupy
from gradhess._memory import NEVER_REFUSED, readable, scatter_bytes
from gradhess.errors import ResultTooLargeError

VECTORS: Final = 12
"""(p,) float64 beside a scatter: mean, shifts, sums, squares, corrections."""


def block_bytes(n_parameters: int, itemsize: int, *, weighted: bool = True) -> int:
    """Bytes that a block is prepared and multiplied in: its rows, the same with their weights, a panel of products."""
    rows = layout.block_rows(n_parameters) * n_parameters * itemsize
    columns = min(panel_columns(n_parameters, itemsize), n_parameters)
    sums = 2 * layout.block_rows(n_parameters) // 64 * n_parameters * 8
    return (1 + weighted) * rows + n_parameters * columns * itemsize + sums + VECTORS * 8 * n_parameters


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
    if n_bytes <= available:
        return
    fitting = [
        f"{name} ({readable(size)})" for name, size in (alternatives or {}).items() if size <= available
    ]
    advice = f"; what would fit: {', '.join(fitting)}" if fitting else ""
    raise ResultTooLargeError(
        f"{what} needs {n_bytes:,} bytes ({readable(n_bytes)}) on the GPU, but {readable(available)} are "
        f"available there{advice}"
    )


def require_matrix(n_parameters: int, what: str, dtype: np.dtype[Any]) -> None:
    """A (p, p) result of one batch: the scatter becomes the result."""
    p = n_parameters
    n_bytes = scatter_bytes(p, "full", dtype.itemsize) + block_bytes(p, dtype.itemsize)
    require(
        n_bytes,
        f"{what} of shape ({p:,}, {p:,})",
        {"dtype='float32'": scatter_bytes(p, "full", 4) + block_bytes(p, 4)} if dtype.itemsize == 8 else None,
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
