"""The Gram matrix of outer rows, block by block: ``A^T diag(s_pq) A`` for every pair of outputs (p, q).

Both the matrix and each of its blocks are symmetric, so about n k^2 w^2 / 4 multiply-adds are needed, for k outputs and
w features: half of what dense rows of the same width take. Memory: that of the result, and what a backend packs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from gradhess import _memory
from gradhess import _validation as check
from gradhess._backends import registry
from gradhess._backends.layout import WIDE_SLAB_ROWS
from gradhess._backends.protocol import AnyArray, PairWeights, Rows
from gradhess._gradients import passes

PairSource: TypeAlias = Callable[[int, int], PairWeights]
"""The weights of rows ``start`` to ``stop``."""

PIECE_BYTES: Final = 8 << 20
"""Rows of A that a backend works on at a time, in the compute type, where one slab is not larger."""
PIECE_ROWS: Final = 3072
"""And no more rows than this: at 256 columns they are packed into a twentieth of what G would take for 10,000 rows."""

FORMED_MIN_WIDTH: Final = 16
"""Below this many features the edges of blocks cost more than their symmetry saves, if rows would have to be formed."""
FUSED_MIN_WIDTH: Final = 48
"""The same where a backend makes the rows itself, on their way into its kernel."""


def pays(n_outputs: int, width: int, *, fused: bool = False) -> bool:
    """Whether the blocks cost less than dense rows. It depends on shapes alone, since it decides about bits."""
    return n_outputs > 1 and width >= (FUSED_MIN_WIDTH if fused else FORMED_MIN_WIDTH)


def gram(
    rows: Rows,
    A: AnyArray,
    pairs: PairSource,
    dtype: npt.DTypeLike = np.float64,
    what: str = "a Gram matrix",
) -> AnyArray:
    """(k w, k w), complete and symmetric. ``rows`` are those of G, for its shape and its messages; ``A`` is (n, m)."""
    accumulator = check.accumulator_dtype(dtype)
    check.accumulator_fits(accumulator, rows.compute_dtype, "dtype")
    p = rows.n_parameters
    _memory.require(
        accumulator.itemsize * p * p + 2 * PIECE_BYTES,
        f"{what} of shape ({p:,}, {p:,})",
        {"diagonal()": _memory.batch_bytes(p, "diagonal")},
    )
    n = rows.n_samples
    if n == 0:
        return np.zeros((p, p), accumulator)
    out = np.empty((p, p), accumulator)
    backend, threads = registry.active(), registry.num_threads()
    size = piece_rows(A.shape[1], rows.compute_dtype.itemsize)
    for start, stop in passes.spans(n, size):
        piece = np.require(A[start:stop], rows.compute_dtype, ["C", "A"])
        backend.outer_gram(
            piece,
            pairs(start, stop),
            rows.unit_column,
            out,
            begin=start == 0,
            end=stop == n,
            threads=threads,
        )
    # What is too large for a row of the compute type is too large for its square, which may be summed in a wider one.
    limit = np.square(np.float64(np.finfo(rows.compute_dtype).max), dtype=np.longdouble)
    if not (np.abs(np.diagonal(out)) <= min(limit, np.finfo(np.float64).max)).all():
        passes.refuse_nonfinite(backend, rows, None)
    return out


def piece_rows(features: int, itemsize: int) -> int:
    """Whole slabs of any width, so that cutting changes no bits."""
    rows = min(PIECE_BYTES // (features * itemsize), PIECE_ROWS)
    return max(rows // WIDE_SLAB_ROWS, 1) * WIDE_SLAB_ROWS
