"""Sums of Kronecker products of small symmetric matrices and outer products of rows, by one GEMM for each factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, device_errors
from gradhess._backends.protocol import KroneckerFactor

PIECE_BYTES: Final = 256 << 20
"""Of products of pairs of columns, in float64, that exist at a time."""


def kronecker_sums(A: DeviceArray, factors: Sequence[KroneckerFactor], out: DeviceArray) -> None:
    """See ``Backend.kronecker_sums``. The order of summation is that of cuBLAS, in pieces from the first row on."""
    xp = cupy()
    first, second = _pairs(int(A.shape[1]))
    rows, columns = _pairs(int(factors[0].right.shape[2]))
    size = max(PIECE_BYTES // (8 * int(first.shape[0])), 1)
    with device_errors("sums of Kronecker products"):
        for start in range(0, int(A.shape[0]), size):
            span = slice(start, start + size)
            part = A[span]
            U = part[:, first] * part[:, second]
            for f, factor in enumerate(factors):
                right = factor.right[span]
                Q = right if factor.left is None else xp.matmul(factor.left[span].transpose(0, 2, 1), right)
                out[f] += Q[:, rows, columns].T @ U


def _pairs(size: int) -> tuple[DeviceArray, DeviceArray]:
    """Both indices of the pairs i <= j, in the order of ``np.triu_indices``, on the device."""
    first, second = np.triu_indices(size)
    return cupy().asarray(first), cupy().asarray(second)
