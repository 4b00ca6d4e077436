"""What the GPU backend asks of the code that does its heavy work: the *engine*.

``CupyBackend`` decides what is summed and in which order (``gradhess._backends.cupy.layout``); an engine sums one
block of rows. There are two: ``cublas_engine.CublasEngine``, from CuPy and cuBLAS alone, and the compiled kernels of
``gradhess._backends.cuda``. An engine that lacks a method's case says so (``fused`` returns False, ``serves`` is
False), and the backend takes ``CublasEngine`` for it.

Rules for every method:

* It launches on the current device and CuPy's current stream, does not wait for the device, and copies nothing to the
  host. Memory comes from CuPy's pool or from the panel.
* What it computes is a function of the block alone: the same bits wherever the block's rows lie in memory and on any
  stream. No atomics on floating-point numbers.
* A block of gradients, and the same rows formed, dense and of the compute type, have the same bits: rows of a stream
  that wait are formed, and those of whole blocks are not.
* Arrays are ``cupy.ndarray`` (``.data.ptr``, ``.strides``); scatter matrices are (p, p) C-contiguous float64 or
  float32, of which the lower triangle (row >= column) is added to; what is above it is never read, and may be written.
* Where ``block.gate`` holds a number >= 0 the rows count as zero: sums, totals and the update are all zero, so an
  accumulator keeps its bits. Rows that are not finite lower ``panel.bad``; what they then add does not matter, since
  the backend puts accumulators back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np

from gradhess._backends.protocol import Rows

DeviceArray: TypeAlias = Any
"""A ``cupy.ndarray``, which has no types of its own."""

Accuracy: TypeAlias = Literal["float32", "fp16x3", "tf32"]
"""The least accuracy of products of float32 rows. ``"float32"``: not worse than a sum of float32 products in float32
(plain FMA, or bf16x6); ``"fp16x3"``: three products of scaled float16 parts, about 1e-6 of a diagonal; ``"tf32"``: one
product in TF32, about 1e-3. An engine may be more accurate than it is asked to be, never less."""

ACCURACIES: Final[tuple[Accuracy, ...]] = ("float32", "fp16x3", "tf32")

PRODUCT_SEGMENT: Final = 1024
"""Terms that ``Engine.product`` sums from zero: kSegmentTerms of csrc/cuda/matrix_product.cuh."""

NO_BAD_ROW: Final = 2**63 - 1
"""What ``bad`` holds where every row is finite."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are summed together: at most ``layout.batch_rows(p)`` of them, all on the current device."""

    rows: Rows
    """Kind ``"dense"``, ``"gradient"`` (softmax too) or ``"hessian"``. ``rows.X`` (n, d) has any strides and dtype
    float64, float32, float16, an integer or boolean type, or holds the bits of bfloat16 as uint16 where
    ``rows.bfloat16``. ``y`` (n,) is float64 or float32, contiguous; ``coef`` (k, d), ``intercept`` (k,) and
    ``loss_weight`` (n,) are float64, contiguous."""
    weights: DeviceArray | None = None
    """(n,) float64 of any sign, contiguous; None for ones. A hessian row brings another factor with it."""
    shift: DeviceArray | None = None
    """(p,) of the compute type: subtracted from every row, after the row was rounded to the compute type."""
    gate: DeviceArray | None = None
    """(1,) int64: a number >= 0 closes it. None is open."""
    first_row: int = 0
    """Added to the index of a row where it is written to ``panel.bad``."""
    values: DeviceArray | None = None
    """(n,) float64: the losses ``c l`` of rows that come dense, for ``panel.totals``."""
    widened: bool = False
    """Rows of 16 bits are multiplied as float32, since those that waited in a stream are."""


class Panel(Protocol):
    """A block after ``prepare``: what ``rank_update`` multiplies, in a form that the engine chooses, and its sums."""

    sums: DeviceArray
    """(p,) float64: ``sum_i w_i (g_i - shift)``."""
    squares: DeviceArray
    """(p,) float64: ``sum_i w_i (g_i - shift)^2``, entry by entry; written only where ``prepare`` is asked to."""
    totals: DeviceArray
    """(3,) float64: ``sum_i w_i``, ``sum_i w_i^2``, ``sum_i c_i l_i``, with w the product of both weights."""
    bad: DeviceArray
    """(1,) int64: the smallest ``first_row + i`` of a row, or weight, that is not finite, if it is below what is there.
    The backend puts an array of its own here, and sets it to ``NO_BAD_ROW`` before the first block of a call."""


class Engine(Protocol):
    """One block at a time."""

    name: str

    def serves(self, rows: Rows) -> bool:
        """Whether ``panel``, ``prepare``, ``slopes`` and ``fused`` take such rows (their kind, dtype and strides)."""

    def panel(self, n_rows: int, n_parameters: int, dtype: np.dtype[Any], *, accuracy: Accuracy) -> Panel:
        """Memory for blocks of up to ``n_rows`` rows of the compute type ``dtype``, used for block after block."""

    def prepare(self, block: Block, panel: Panel, *, squares: bool = False) -> None:
        """The row pass: slopes, scaled and shifted rows into the panel, ``sums``, ``totals`` and ``bad``.

        ``sums`` and ``totals`` are overwritten, ``bad`` is lowered. With ``squares`` (a diagonal) those are written,
        and ``rank_update`` is not called.
        """

    def slopes(self, rows: Rows) -> tuple[DeviceArray, DeviceArray]:
        """(n, k) slopes ``c l'``, of hessian rows ``c l''``, and (n,) values ``c l``, float64, with the bits that
        ``prepare`` and ``fused`` give a row; NaN for a label or a weight outside of its domain."""

    def rank_update(self, panel: Panel, scatter: DeviceArray) -> None:
        """``scatter += sum_i w_i z_i z_i^T``, lower triangle, of the rows z that ``prepare`` left in the panel."""

    def fused(self, block: Block, panel: Panel, scatter: DeviceArray) -> bool:
        """``prepare`` and ``rank_update`` in one read of X, for narrow rows; False, and nothing done, where the engine
        has no such kernel for the block. It depends on kind, dtypes and widths alone, never on the number of rows."""

    def product(self, left: DeviceArray, right: DeviceArray, out: DeviceArray, *, add: bool = False) -> None:
        """``out = left @ right``, or ``out += left @ right`` with ``add``: float64 matrices, of any strides.

        The compiled engine sums in an order that depends on the inner size alone: the bits of an entry are those of its
        row and its column, and a sum may be cut into calls at multiples of ``PRODUCT_SEGMENT``.
        """

    def outer_rank_update(
        self,
        A: DeviceArray,
        errors: DeviceArray,
        row_weight: DeviceArray | None,
        curvature: bool,
        out: DeviceArray,
        *,
        accuracy: Accuracy,
    ) -> bool:
        """Add ``A^T diag(s_pq) A`` to block (p, q) of ``out``, p >= q, both triangles of it; False if not served.

        ``A`` (n, w) is C-contiguous, float32 or float64; ``errors`` (n, k) float64, ``row_weight`` (n,) float64 or
        None, ``s_pq = c e_p e_q``, or with ``curvature`` ``c e_p (delta_pq - e_q)``; ``out`` (k w, k w) C-contiguous.
        The backend mirrors the blocks. Whether it is served depends on dtypes and widths alone.
        """
