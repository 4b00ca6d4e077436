"""Products of the matrix of rows with vectors, by forming rows a piece at a time.

Products are the engine's, in float64; norms are kernels of CuPy's backend, of one order of summation on every device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Final

from gradhess._backends.cupy.engine import DeviceArray, Engine
from gradhess._backends.cupy.launch import cupy, device_errors, empty, launch, zeros
from gradhess._backends.cupy.pieces import piece_rows, spans
from gradhess._backends.cupy.slopes import strides
from gradhess._backends.protocol import FLOAT64, Rows

PIECE_BYTES: Final = 64 << 20
"""Rows, in float64, that a product with vectors works on at a time."""


def row_squares(G: DeviceArray, out: DeviceArray) -> None:
    """``out[i] = sum_j G_ij^2`` in float64, of float32 or float64 rows, C-contiguous."""
    n, d = (int(size) for size in G.shape)
    launch("row_squares", G.dtype, -(-n // 8), (32, 8), G, n, d, out)


def row_sums(values: DeviceArray, weights: DeviceArray, out: DeviceArray) -> None:
    """``out[i] = sum_j values_ij weights_j``, float64, contiguous: the kernel of the predictor."""
    n, d = (int(size) for size in values.shape)
    launch("predictor", FLOAT64, -(-n // 8), (32, 8), values, n, d, *strides(values), weights, None, 1, out)


class Products:
    """Part of ``CupyBackend``."""

    engine: Engine

    @abstractmethod
    def materialize(self, rows: Rows, out: DeviceArray) -> None: ...

    def formed(self, rows: Rows) -> Iterator[tuple[slice, DeviceArray]]:
        """The rows in their compute type, a piece at a time."""
        size = piece_rows(PIECE_BYTES // (8 * rows.n_parameters))
        for start, stop in spans(rows.n_samples, size):
            part = rows.slice(start, stop)
            out = empty((stop - start, rows.n_parameters), rows.compute_dtype, "rows")
            with device_errors("the rows of a product"):
                self.materialize(part, out)
            yield slice(start, stop), out

    def norms(self, rows: Rows, *, threads: int = 1) -> DeviceArray:
        out = empty(rows.n_samples, FLOAT64, "norms")
        for span, G in self.formed(rows):
            row_squares(G, out[span])
        with device_errors("norms"):
            return cupy().sqrt(out)

    def matvec(self, rows: Rows, vectors: DeviceArray, *, threads: int = 1) -> DeviceArray:
        out = empty((rows.n_samples, int(vectors.shape[1])), FLOAT64, "a product")
        for span, G in self.formed(rows):
            self.engine.product(_wide(G), vectors, out[span])
        return out

    def rmatvec(self, rows: Rows, vectors: DeviceArray, *, threads: int = 1) -> DeviceArray:
        out = zeros((rows.n_parameters, int(vectors.shape[1])), FLOAT64, "a product")
        for span, G in self.formed(rows):
            self.engine.product(_wide(G).T, vectors[span], out, add=True)
        return out

    def gram_matvec(self, rows: Rows, vectors: DeviceArray, *, threads: int = 1) -> DeviceArray:
        m = int(vectors.shape[1])
        out = zeros(vectors.shape, FLOAT64, "a product")
        for _, formed in self.formed(rows):
            G = _wide(formed)
            images = empty((int(G.shape[0]), m), FLOAT64, "a product")
            self.engine.product(G, vectors, images)
            self.engine.product(G.T, images, out, add=True)
        return out


def _wide(G: DeviceArray) -> DeviceArray:
    with device_errors("rows in float64", int(G.size) * 8):
        return G.astype(FLOAT64, copy=False)
