"""Products of the matrix of rows with vectors, by forming rows a piece at a time in float64."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Final

from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, empty, zeros
from gradhess._backends.cupy.pieces import spans
from gradhess._backends.protocol import FLOAT64, Rows

PIECE_BYTES: Final = 64 << 20
"""Rows, in float64, that a product with vectors works on at a time."""


class Products:
    """Part of ``CupyBackend``."""

    @abstractmethod
    def materialize(self, rows: Rows, out: DeviceArray) -> None: ...

    def formed(self, rows: Rows) -> Iterator[tuple[slice, DeviceArray]]:
        """The rows in float64, a piece at a time."""
        size = max(PIECE_BYTES // (8 * rows.n_parameters), 1)
        for start, stop in spans(rows.n_samples, size):
            part = rows.slice(start, stop)
            out = empty((stop - start, rows.n_parameters), rows.compute_dtype, "rows")
            self.materialize(part, out)
            yield slice(start, stop), out.astype(FLOAT64, copy=False)

    def norms(self, rows: Rows, *, threads: int = 1) -> DeviceArray:
        out = empty(rows.n_samples, FLOAT64, "norms")
        for span, G in self.formed(rows):
            out[span] = cupy().linalg.norm(G, axis=1)
        return out

    def matvec(self, rows: Rows, vectors: DeviceArray, *, threads: int = 1) -> DeviceArray:
        out = empty((rows.n_samples, int(vectors.shape[1])), FLOAT64, "a product")
        for span, G in self.formed(rows):
            out[span] = G @ vectors
        return out

    def rmatvec(self, rows: Rows, vectors: DeviceArray, *, threads: int = 1) -> DeviceArray:
        out = zeros((rows.n_parameters, int(vectors.shape[1])), FLOAT64, "a product")
        for span, G in self.formed(rows):
            out += G.T @ vectors[span]
        return out

    def gram_matvec(self, rows: Rows, vectors: DeviceArray, *, threads: int = 1) -> DeviceArray:
        out = zeros(vectors.shape, FLOAT64, "a product")
        for _, G in self.formed(rows):
            out += G.T @ (G @ vectors)
        return out
