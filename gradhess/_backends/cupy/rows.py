"""Rows whose arrays lie on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradhess._backends.protocol import FLOAT32, Rows


@dataclass(slots=True, eq=False)
class DeviceRows(Rows):
    """``Rows`` with CuPy arrays, all on one device. CuPy does not compute with bfloat16, so its bits come as uint16."""

    bfloat16: bool = False
    """``X`` is uint16 and holds the bits of bfloat16 numbers."""

    @property
    def compute_dtype(self) -> np.dtype[Any]:
        return (
            FLOAT32 if self.bfloat16 else Rows.compute_dtype.__get__(self)
        )  # slots: no zero-argument super()

    def take(self, which: Any) -> DeviceRows:
        def part(array: Any) -> Any:
            return None if array is None else array[which]

        return replace(self, X=self.X[which], y=part(self.y), loss_weight=part(self.loss_weight))
