"""Orthogonal noise: n vectors of length n, of squared length n, without the n x n matrix of them."""

from __future__ import annotations

import numpy as np

from gradhess._backends.protocol import Float64Array


def orthogonal_rows(n: int, start: int, stop: int) -> Float64Array:
    """Rows ``start`` to ``stop`` of U (n, n) with ``U U^T = U^T U = n I``.

    Sylvester's Hadamard matrix, of signs alone, where n is a power of two; else the discrete cosine transform (DCT-II),
    which exists for any n and whose entries are at most sqrt(2).
    """
    rows, columns = np.arange(start, stop)[:, np.newaxis], np.arange(n)[np.newaxis]
    if n & (n - 1) == 0:
        common = rows & columns
        parity = np.zeros_like(common)
        while common.any():
            parity ^= common & 1
            common = common >> 1
        return np.asarray(1.0 - 2.0 * parity)
    # The angle is reduced by its period 4 n in integers, where it is exact.
    angle = (rows * (2 * columns + 1)) % (4 * n)
    return np.asarray(np.where(rows == 0, 1.0, np.sqrt(2.0) * np.cos(np.pi * angle / (2 * n))))
