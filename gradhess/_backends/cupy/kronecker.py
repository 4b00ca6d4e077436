"""Sums of Kronecker products of small symmetric matrices and outer products of rows: a product of two matrices of pairs
for each factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gradhess._backends.cupy.engine import DeviceArray, Engine
from gradhess._backends.cupy.launch import cupy, device_errors, empty, table
from gradhess._backends.cupy.pieces import piece_rows, spans
from gradhess._backends.protocol import FLOAT64, KroneckerFactor

PIECE_BYTES: Final = 256 << 20
"""Of products of pairs of columns, in float64, that exist at a time."""


def kronecker_sums(
    engine: Engine, A: DeviceArray, factors: Sequence[KroneckerFactor], out: DeviceArray
) -> None:
    """See ``Backend.kronecker_sums``. The order of summation is that of ``Engine.product``, in pieces from the first
    row on."""
    k = int(factors[0].right.shape[2])
    with device_errors("sums of Kronecker products"):
        first, second = _pairs(int(A.shape[1]))
        rows, columns = _pairs(k)
        n_pairs = int(rows.shape[0])
        size = piece_rows(PIECE_BYTES // (8 * int(first.shape[0])))
        for start, stop in spans(int(A.shape[0]), size):
            part = A[start:stop]
            U = part[:, first] * part[:, second]
            W = empty((stop - start, n_pairs), FLOAT64, "products of factors")
            for f, factor in enumerate(factors):
                right = factor.right[start:stop]
                left = None if factor.left is None else factor.left[start:stop]
                table(
                    "pair_products",
                    FLOAT64,
                    stop - start,
                    n_pairs,
                    left,
                    right,
                    stop - start,
                    int(right.shape[1]),
                    k,
                    rows,
                    columns,
                    n_pairs,
                    W,
                )
                engine.product(W.T, U, out[f], add=True)


def _pairs(size: int) -> tuple[DeviceArray, DeviceArray]:
    """Both indices of the pairs i <= j, in the order of ``np.triu_indices``, on the device."""
    first, second = np.triu_indices(size)
    return cupy().asarray(first), cupy().asarray(second)
