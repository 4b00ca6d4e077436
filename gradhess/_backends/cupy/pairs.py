"""Pairwise dependence of inputs under a class of targets, by matrix products of indicator columns."""

from __future__ import annotations

from typing import Final

import numpy as np

from gradhess._backends.cupy.engine import DeviceArray, Engine
from gradhess._backends.cupy.launch import cupy, device_errors, empty, zeros
from gradhess._backends.cupy.products import row_sums
from gradhess._backends.protocol import FLOAT64

TILE_BYTES: Final = 128 << 20
"""Of indicators, in float64, that exist at a time."""


def pair_dependence(
    engine: Engine,
    labels: DeviceArray,
    q: int,
    input_weights: DeviceArray,
    target_weights: DeviceArray | None,
    n_rows: int | None = None,
) -> DeviceArray:
    """See ``Backend.pair_dependence``. Counts are integers below 2^31, exact in float64; weighted ones are summed in
    the order of ``Engine.product``, and inputs in that of the predictor, tile by tile."""
    xp = cupy()
    n_targets, n_inputs = labels.shape
    asked = n_inputs if n_rows is None else n_rows
    out = zeros(asked, FLOAT64, "pairwise dependence")
    total = float(n_targets) if target_weights is None else 1.0
    size = int(max(1, min(n_inputs, TILE_BYTES // (8 * n_targets))))
    with device_errors("pairwise dependence"):
        numbers = xp.arange(n_inputs)
        for top in range(0, asked, size):
            end = min(top + size, asked)
            x = labels[:, top:end]
            for left in range(top, n_inputs, size):
                other = labels[:, left : left + size]
                shape = int(x.shape[1]), int(other.shape[1])
                eps = zeros(shape, FLOAT64, "pairwise dependence")
                joint = empty(shape, FLOAT64, "pairwise dependence")
                for y in range(q):
                    mine = (x == np.uint8(y)).astype(FLOAT64)
                    if target_weights is not None:
                        mine = mine * target_weights[:, None]
                    for z in range(q):
                        engine.product(mine.T, (other == np.uint8(z)).astype(FLOAT64), joint)
                        eps += xp.abs(joint / total - 1.0 / (q * q))
                later = numbers[left : left + size][None, :] > numbers[top:end][:, None]
                found = empty(shape[0], FLOAT64, "pairwise dependence")
                row_sums(xp.where(later, eps * eps, 0.0), input_weights[left : left + size], found)
                out[top:end] += found
    return out
