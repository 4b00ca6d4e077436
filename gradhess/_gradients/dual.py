"""What has a row for each sample on both sides, or a few random columns: ``G G^T`` and ``G R``."""

from __future__ import annotations

from typing import Final

import numpy as np

from gradhess import _memory
from gradhess._backends import registry
from gradhess._backends.protocol import Float64Array, Rows
from gradhess._backends.structured_rows import StructuredRows, formed_pair_rows
from gradhess._gradients import passes
from gradhess.sketches import Sketch

FORMED_BYTES: Final = 16 << 20
"""Rows of G that are formed at a time."""
SKETCH_BYTES: Final = 16 << 20
"""Of a random matrix that exist at a time, where one column (or group of columns) is not larger."""


def cogram(rows: Rows) -> Float64Array:
    """(n, n), symmetric to the bit."""
    n, p = rows.n_samples, rows.n_parameters
    _memory.require(8 * n * n, f"G G^T of shape ({n:,}, {n:,})", {"gram()": _memory.batch_bytes(p, "full")})
    out = np.empty((n, n))
    size = rows.pair_rows if isinstance(rows, StructuredRows) else formed_pair_rows(p)
    for top, bottom in passes.spans(n, size):
        upper = _Side(rows, top, bottom)
        for left, right in passes.spans(top, size):
            tile = upper.times(_Side(rows, left, right))
            out[top:bottom, left:right] = tile
            out[left:right, top:bottom] = tile.T
        tile = np.tril(upper.times(upper))
        out[top:bottom, top:bottom] = tile + np.tril(tile, -1).T
    passes.check_result(registry.active(), rows, np.diagonal(out))
    return out


class _Side:
    """Some rows, as they enter a product with others: formed, unless they know better."""

    def __init__(self, rows: Rows, start: int, stop: int) -> None:
        part = rows.slice(start, stop)
        if isinstance(part, StructuredRows):
            self.structured: StructuredRows | None = part
            return
        self.structured = None
        formed = np.empty((stop - start, rows.n_parameters), rows.compute_dtype)
        registry.active().materialize(part, formed)
        self.formed = formed.astype(np.float64, copy=False)

    def times(self, other: _Side) -> Float64Array:
        with np.errstate(all="ignore"):  # rows that are not finite are found and reported by their index
            if self.structured is not None and other.structured is not None:
                return self.structured.inner_products(other.structured)
            return np.asarray(self.formed @ other.formed.T)


def project(rows: Rows, sketch: Sketch) -> Float64Array:
    """``G R`` (n, m)."""
    return _project_sparse(rows, sketch) if sketch.kind == "sjlt" else _project_dense(rows, sketch)


def _project_dense(rows: Rows, sketch: Sketch) -> Float64Array:
    backend, threads = registry.active(), registry.num_threads()
    out = np.empty((rows.n_samples, sketch.size))
    for first, last in passes.spans(sketch.size, max(SKETCH_BYTES // (8 * rows.n_parameters), 1)):
        columns = np.ascontiguousarray(sketch.columns(rows.n_parameters, first, last))
        size = passes.piece_rows(2 * rows.n_parameters * (last - first), threads)
        for start, stop in passes.spans(rows.n_samples, size):
            out[start:stop, first:last] = backend.matvec(rows.slice(start, stop), columns, threads=threads)
    passes.check_result(backend, rows, out)
    return out


def _project_sparse(rows: Rows, sketch: Sketch) -> Float64Array:
    """Rows are formed a few at a time, which costs no more than the product itself: n p s."""
    backend, p = registry.active(), rows.n_parameters
    out = np.empty((rows.n_samples, sketch.size))
    width = sketch.size // sketch.nonzeros
    size = max(FORMED_BYTES // (8 * p), 1)
    for first, last in passes.spans(sketch.nonzeros, max(SKETCH_BYTES // (12 * p), 1)):
        R = sketch.sparse(p, first, last).T.tocsr()
        for start, stop in passes.spans(rows.n_samples, size):
            formed = np.empty((stop - start, p), rows.compute_dtype)
            backend.materialize(rows.slice(start, stop), formed)
            with np.errstate(all="ignore"):
                out[start:stop, first * width : last * width] = (R @ formed.T.astype(np.float64)).T
    passes.check_result(backend, rows, out)
    return out
