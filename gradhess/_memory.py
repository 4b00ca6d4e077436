"""How many bytes a result takes, and whether they are there: asked before anything large is allocated."""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gradhess import _validation as check
from gradhess._backends import layout
from gradhess._backends.protocol import Structure
from gradhess.errors import ResultTooLargeError

FLOAT64_BYTES: Final = 8
VECTORS_OF_A_STATE: Final = 4
"""Mean, block shift, block sum and a result: (p,) each, always float64."""

NEVER_REFUSED: Final = 64 << 20
"""Below this many bytes nobody asks the operating system (a file to read on every call)."""

NEVER_REFUSED_PARAMETERS: Final = 1024
"""Moments of rows of so many entries are below that in any case."""


def scatter_bytes(n_parameters: int, structure: Structure, itemsize: int = FLOAT64_BYTES) -> int:
    """Bytes of one scatter: p * p, or p of a diagonal, or nothing of a plain sum."""
    if structure == "full":
        return itemsize * n_parameters * n_parameters
    return itemsize * n_parameters if structure == "diagonal" else 0


def batch_bytes(n_parameters: int, structure: Structure, itemsize: int = FLOAT64_BYTES) -> int:
    """Bytes of the moments of one batch of rows: totals, the block that is open, and the vectors beside them."""
    scatter = scatter_bytes(n_parameters, structure, itemsize)
    block = scatter if layout.has_block_buffer(n_parameters) else 0
    return scatter + block + VECTORS_OF_A_STATE * FLOAT64_BYTES * n_parameters


def stream_bytes(n_parameters: int, structure: Structure, itemsize: int = FLOAT64_BYTES) -> int:
    """Bytes of a stream at its peak: its state, the copy that a result is finished in, and two slabs of rows."""
    slab = layout.slab_rows(n_parameters, structure) * n_parameters * FLOAT64_BYTES
    return 2 * (batch_bytes(n_parameters, structure, itemsize) + slab)


def estimate_memory(
    d: int, structure: str = "full", dtype: npt.DTypeLike = "float64", *, device: str | None = None
) -> int:
    """Bytes that a ``StreamingCovariance`` over ``d`` columns takes at its peak, before it is made.

    Parameters
    ----------
    d : int
        Width of the rows: features of data, parameters of gradients. At least 1.
    structure : {"full", "diagonal"}
        As in ``StreamingCovariance``.
    dtype : {"float64", "float32"}
        Of the accumulator, as in ``StreamingCovariance``.
    device : str, optional
        ``"cuda"`` for a stream on a GPU. On one of 141 GB, 100,000 columns fit with ``dtype="float32"``.

    Returns
    -------
    int
        The state (the (d, d) or (d,) sums, those of the open block up to 512 columns, and a few vectors), the copy
        that a result is finished in, which becomes the result, and the rows that do not fill a slab yet. Not counted:
        your data, the workspace of the threads (4 MiB each at most, and above 512 columns ``2048 d`` once), and an
        eigendecomposition (``eigh``, ``precision_``: about ``24 d^2`` bytes more).

    Raises
    ------
    InputError, InputTypeError
        ``d`` is below 1 or no integer, or the structure or dtype is unknown.
    """
    width = check.count(d, "d", 1)
    check.one_of(structure, check.STRUCTURES, "structure")
    kind: Structure = "full" if structure == "full" else "diagonal"
    if device not in (None, "cpu"):
        from gradhess import _device_memory

        return _device_memory.stream_bytes(width, kind, check.accumulator_dtype(dtype).itemsize)
    return stream_bytes(width, kind, check.accumulator_dtype(dtype).itemsize)


def available_bytes() -> int | None:
    """Memory that can be had without swapping, or None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def readable(n_bytes: int) -> str:
    """``n_bytes`` for people: three digits and a binary unit."""
    size = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"


def require(n_bytes: int, what: str, alternatives: dict[str, int] | None = None) -> None:
    """Raise ResultTooLargeError if ``n_bytes`` are not available.

    ``what`` names the result; ``alternatives`` maps what else could be asked for to its bytes.
    """
    if n_bytes < NEVER_REFUSED:
        return
    available = available_bytes()
    if available is not None and n_bytes > available:
        raise too_large(n_bytes, what, available, alternatives)


def too_large(
    n_bytes: int, what: str, available: int, alternatives: dict[str, int] | None, *, where: str = ""
) -> ResultTooLargeError:
    """The error: what was asked for, what is available (on ``where``), and which alternatives would fit."""
    fitting = [
        f"{name} ({readable(size)})" for name, size in (alternatives or {}).items() if size <= available
    ]
    advice = f"; what would fit: {', '.join(fitting)}" if fitting else ""
    on, there = (f" on {where}", " there") if where else ("", "")
    return ResultTooLargeError(
        f"{what} needs {n_bytes:,} bytes ({readable(n_bytes)}){on}, but {readable(available)} are available"
        f"{there}{advice}"
    )


def require_stream(n_parameters: int, structure: Structure, dtype: np.dtype[Any]) -> None:
    """Raise ResultTooLargeError if a stream of that width would not fit."""
    n_bytes = stream_bytes(n_parameters, structure, dtype.itemsize)
    if n_bytes < NEVER_REFUSED:
        return
    alternatives = (
        {"structure='diagonal'": stream_bytes(n_parameters, "diagonal")} if structure == "full" else None
    )
    require(n_bytes, f"a {structure} covariance of {n_parameters:,} parameters", alternatives)


def require_matrix(n_parameters: int, what: str, dtype: np.dtype[Any]) -> None:
    """Raise ResultTooLargeError if a (p, p) result of one batch would not fit."""
    if n_parameters <= NEVER_REFUSED_PARAMETERS:
        return  # nearly every call: nothing is counted for it
    n_bytes = batch_bytes(n_parameters, "full", dtype.itemsize)
    if n_bytes < NEVER_REFUSED:
        return
    require(
        n_bytes,
        f"{what} of shape ({n_parameters:,}, {n_parameters:,})",
        {"diagonal()": batch_bytes(n_parameters, "diagonal")},
    )
