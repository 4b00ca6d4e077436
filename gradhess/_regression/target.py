"""The target column, as the first pass sees it: is it in the domain of the loss, and what is there to predict?"""

from __future__ import annotations

from typing import Final

import numpy as np

from gradhess._backends.protocol import Float64Array
from gradhess.errors import InputError
from gradhess.losses import Loss

MAX_CLASSES: Final = 10_000
"""Above, a target of softmax is an amount or an identifier that was taken for a class."""


class TargetScan:
    """Checks the target piece by piece; ``class_counts`` is (k,) for softmax, (2,) for logistic, else None."""

    def __init__(self, name: str, loss: Loss) -> None:
        self.name = name
        self.class_counts = np.zeros(0, np.int64) if loss.name in ("softmax", "logistic") else None
        self._loss = loss
        self._sum = 0.0
        self._range = np.inf, -np.inf
        self._n_rows = 0

    def add(self, y: Float64Array) -> None:
        """Check (m,) more rows."""
        row = self._first_outside(y)
        if row >= 0:
            domain = "class numbers 0, 1, ..., k - 1" if self._loss.name == "softmax" else self._loss.labels
            raise InputError(
                f"target {self.name!r} is {y[row]:g} in row {self._n_rows + row:,} of the rows used (the first is 0), "
                f"but the {self._loss.name} loss needs {domain}"
            )
        self._n_rows += y.size
        self._sum += float(y.sum())
        self._range = min(self._range[0], float(y.min())), max(self._range[1], float(y.max()))
        if self.class_counts is not None:
            counts = np.bincount(y.astype(np.int64), minlength=self.class_counts.size)
            counts[: self.class_counts.size] += self.class_counts
            self.class_counts = counts

    def finish(self, *, intercept: bool) -> None:
        """Check what only all rows together can show."""
        low, high = self._range
        # Without an intercept, a constant other than zero is a target like any other.
        if self._loss.name in ("squared", "huber") and low == high and (intercept or low == 0):
            raise InputError(f"target {self.name!r} is {low:g} in every row; there is nothing to fit")
        if self._loss.name == "poisson" and self._sum == 0:
            raise InputError(f"target {self.name!r} is 0 in every row; there is nothing to fit")
        if self.class_counts is None:
            return
        if np.count_nonzero(self.class_counts) == 1:
            only = int(np.flatnonzero(self.class_counts)[0])
            raise InputError(f"target {self.name!r} is {only} in every row; there is nothing to fit")
        if not self.class_counts.all():
            missing = int(np.argmin(self.class_counts))
            raise InputError(
                f"target {self.name!r} has classes up to {self.class_counts.size - 1}, but no row of class {missing}: "
                f"number the classes 0, 1, ..., k - 1 without gaps"
            )

    def _first_outside(self, y: Float64Array) -> int:
        """Position of the first label outside the domain, or -1; by halving, as a check only says that there is one."""
        if not self._refused(y):
            return -1
        start, stop = 0, y.size
        while stop - start > 1:
            middle = (start + stop) // 2
            if self._refused(y[start:middle]):
                stop = middle
            else:
                start = middle
        return start

    def _refused(self, y: Float64Array) -> bool:
        try:
            self._loss.check_labels(y, MAX_CLASSES)
        except InputError:
            return True
        return False
