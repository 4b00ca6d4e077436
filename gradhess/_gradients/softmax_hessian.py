"""The Hessian of the summed softmax loss, block by block.

Block (q, r) is ``X~^T diag(c P_q (delta_qr - P_r)) X~`` (Boehning, *Multinomial logistic regression algorithm*, 1992):
a weighted Gram matrix for each pair of classes, so cost n k^2 d^2 / 2, and memory that of the result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from gradhess import _memory
from gradhess._backends import registry
from gradhess._backends.layout import BLOCK_ROWS, SLAB_ROWS
from gradhess._backends.protocol import Float64Array, MomentState, Rows
from gradhess._gradients import passes
from gradhess.losses import softmax_probabilities

MAX_CHUNK_ENTRIES: Final = 1 << 20
"""Entries of X that are widened to float64 at a time, for the probabilities: 8 MiB."""


def hessian(rows: Rows) -> Float64Array:
    """(p, p) for the softmax gradients ``rows``, symmetric to the bit."""
    assert rows.coef is not None
    k, width = rows.n_outputs, rows.n_parameters // rows.n_outputs
    pairs = [(q, r) for q in range(k) for r in range(q + 1)]
    _memory.require(
        8 * rows.n_parameters**2 + len(pairs) * _memory.batch_bytes(width, "full"),
        f"a Hessian of shape ({rows.n_parameters:,}, {rows.n_parameters:,})",
        {"diagonal()": _memory.batch_bytes(rows.n_parameters, "diagonal")},
    )
    backend, threads = registry.active(), registry.num_threads()
    passes.refuse_nonfinite(backend, rows, None)
    data = replace(rows, kind="dense", loss=None, y=None, coef=None, intercept=None, loss_weight=None)
    states = [MomentState.empty(width, "full", centred=False) for _ in pairs]
    for start, stop in passes.spans(rows.n_samples, _chunk_rows(int(rows.X.shape[1]))):
        chunk = data.slice(start, stop)
        P = _probabilities(rows, start, stop)
        for (q, r), state in zip(pairs, states, strict=True):
            weights = P[q] * ((q == r) - P[r])
            if rows.loss_weight is not None:
                weights *= rows.loss_weight[start:stop]
            passes.add(backend, chunk, weights, state, threads=threads)
    out = np.empty((k, width, k, width))
    for (q, r), state in zip(pairs, states, strict=True):
        backend.close_block(state)
        assert state.scatter is not None
        backend.symmetrize(state.scatter, 1.0, state.scatter, threads=threads)
        out[q, :, r, :] = state.scatter
        out[r, :, q, :] = state.scatter
    return out.reshape(rows.n_parameters, rows.n_parameters)


def _chunk_rows(d: int) -> int:
    """Whole slabs, so that cutting changes no bits."""
    return max(min(MAX_CHUNK_ENTRIES // d, BLOCK_ROWS) // SLAB_ROWS, 1) * SLAB_ROWS


def _probabilities(rows: Rows, start: int, stop: int) -> Float64Array:
    """(k, n): each class contiguous, as weights must be."""
    assert rows.coef is not None
    eta = rows.X[start:stop].astype(np.float64) @ rows.coef.T
    if rows.intercept is not None:
        eta += rows.intercept
    return np.ascontiguousarray(softmax_probabilities(eta).T)
