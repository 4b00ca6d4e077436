"""What the shapes of structured rows follow from: the same on the host and on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess._backends.groups import Groups
from gradhess._backends.protocol import FLOAT32, FLOAT64, AnyArray, Rows, is_narrow


class OuterShape(Rows):
    """Of rows ``sum_t delta_it (x) a~_it``. Comes first among the bases; adds no field."""

    __slots__ = ()
    errors: AnyArray

    @property
    def n_outputs(self) -> int:
        """k."""
        return int(self.errors.shape[-1])

    @property
    def steps(self) -> int:
        """T; 1 without a sequence axis."""
        return int(self.X.shape[1]) if self.X.ndim == 3 else 1

    @property
    def width(self) -> int:
        """w: features, and the unit column."""
        return int(self.X.shape[-1]) + int(self.unit_column)

    @property
    def n_parameters(self) -> int:
        return self.width * self.n_outputs

    @property
    def compute_dtype(self) -> np.dtype[Any]:
        """float32 where activations and errors both are float32 (or narrower floating), else float64."""
        return FLOAT32 if is_narrow(self.X.dtype) and is_narrow(self.errors.dtype) else FLOAT64


class GroupedShape(Rows):
    """Of sums of rows. Comes first among the bases; adds no field."""

    __slots__ = ()
    groups: Groups

    @property
    def n_outputs(self) -> int:
        return self.groups.n_outputs

    @property
    def n_parameters(self) -> int:
        return (int(self.X.shape[1]) + int(self.unit_column)) * self.n_outputs
