"""Quick answers about arguments that are as they nearly always are.

One by one, the checks of ``gradhess._validation`` take longer than the sums over little data. Where the compiled module
is there, these functions ask it once instead. ``False`` says nothing but that somebody has to look closer.
"""

from __future__ import annotations

from typing import Any, Final

from gradhess._backends.protocol import Float64Array

try:
    from gradhess import _cpu
except ImportError:  # installed without compiled code
    COMPILED = False
else:
    COMPILED = True

_LABELS: Final = {"squared": 0, "huber": 0, "custom": 0, "logistic": 1, "poisson": 2}
"""Codes of csrc/bindings/plain_arguments.hpp for the labels of a loss; others are looked at closely."""


def are_plain_glm(X: Any, y: Any, coef: Any, loss: str) -> bool:
    """Whether these are NumPy's own arrays of float64 (``X`` and ``y``: or float32), of shapes (n, d), (n,) and (d,),
    of which no copy is needed, with labels in the domain of the loss and finite coefficients."""
    labels = _LABELS.get(loss)
    return COMPILED and labels is not None and _cpu.are_plain_glm(X, y, coef, labels)


def are_zero_or_within(weights: Float64Array, least: float, most: float) -> bool:
    """Whether the entries of a contiguous array are zero, or of a size from ``least`` to ``most``."""
    return COMPILED and _cpu.are_zero_or_within(weights, least, most)
