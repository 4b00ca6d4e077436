"""For backends that have the steps alone: the moments of one batch, and a check of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradhess._backends.protocol import BatchMoments, Float64Array, MomentState, Rows, Structure

if TYPE_CHECKING:
    from gradhess._backends.protocol import Backend


def batch_moments(
    backend: Backend,
    rows: Rows,
    weights: Float64Array | None,
    structure: Structure,
    *,
    centred: bool,
    dtype: np.dtype[Any],
    scale: float | None,
    threads: int,
) -> BatchMoments:
    """``Backend.moments``, step by step."""
    state = MomentState.empty(rows.n_parameters, structure, centred=centred, dtype=dtype)
    backend.accumulate(rows, weights, state, threads=threads)
    return finish(backend, state, scale, threads=threads)


def finish(backend: Backend, state: MomentState, scale: float | None, *, threads: int) -> BatchMoments:
    """Close the open block, and with ``scale`` multiply a full scatter by it and mirror it."""
    backend.close_block(state)
    if scale is not None and state.scatter is not None and state.structure == "full":
        backend.symmetrize(state.scatter, scale, state.scatter, threads=threads)
    return BatchMoments.of(state)


class Stepwise:
    """Gives a backend its ``moments`` and ``all_finite``."""

    moments = batch_moments

    def all_finite(self, array: Float64Array, *, threads: int) -> bool:
        return bool(np.isfinite(array).all())
