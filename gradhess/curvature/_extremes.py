"""Extreme eigenvalues of per-sample Hessians: the largest of all, and whether one is negative."""

from __future__ import annotations

from typing import Final

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess.curvature._samples import LayerSamples

NEGATIVE: Final = 64.0
"""An eigenvalue of Q counts as negative below this many k eps times the norm of Q."""
PIECE_ENTRIES: Final = 1 << 20
"""Entries of Q that are formed at a time, 8 MiB."""


def largest_eigenvalue(samples: LayerSamples, lengths: Float64Array) -> float:
    """Of ``||a||^2 Q``, by size, over the samples.

    ``Q = F^T S F`` shares its eigenvalues, but for zeros, with ``R^T S R`` for ``R R^T = F F^T``, which has as many
    rows as F.
    """
    if samples.factor is None or samples.factor.shape[1] >= samples.shape[0]:
        matrices = samples.hessians()
    else:
        scale, basis = np.linalg.eigh(samples.factor @ samples.factor.transpose(0, 2, 1))
        root = basis * np.sqrt(np.maximum(scale, 0.0))[:, np.newaxis, :]
        matrices = root.transpose(0, 2, 1) @ samples.core @ root
    return float((np.abs(np.linalg.eigvalsh(matrices)).max(axis=1) * lengths).max(initial=0.0))


def all_positive(samples: LayerSamples) -> bool:
    """Whether no h has a negative eigenvalue: enough that no S has; where one has, Q decides, unless a is zero."""
    if samples.positive:
        return True
    cores = np.linalg.eigvalsh(samples.core)
    suspects = np.flatnonzero((cores[:, 0] < 0) & samples.activations.any(axis=1))
    piece = max(PIECE_ENTRIES // samples.shape[0] ** 2, 8)
    for start in range(0, len(suspects), piece):
        values = np.linalg.eigvalsh(samples.select(suspects[start : start + piece]).hessians())
        roundoff = NEGATIVE * samples.shape[0] * np.finfo(np.float64).eps * np.abs(values).max(axis=1)
        if (values[:, 0] < -roundoff).any():
            return False
    return True
