"""All targets of a class at all inputs, in blocks of targets, so that the matrix of them never exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from gradhess import _memory
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.informativeness._bounds import derivatives
from gradhess.informativeness._exact import BLOCK_TARGETS
from gradhess.informativeness._targets import TargetClass
from gradhess.informativeness.models import Model, jacobian
from gradhess.losses import Loss

BLOCK_ENTRIES: Final = 1 << 22
"""Derivatives of a block: 32 MiB of float64."""
FEWEST_TARGETS: Final = 16
"""Of a block, where the inputs are many: products with fewer columns read the gradients too often."""
COPIES: Final = 6
"""Arrays of the size of a block that exist at the same time: labels, values, derivatives, squares, weighted rows."""


class DerivativesInBlocks:
    """``L'(p(x), h(x))`` for blocks of targets h, and after one pass over them what the report needs besides.

    Attributes
    ----------
    labels : ndarray of uint8, shape (n_targets, n_inputs), or None
        None for a class with real values.
    mean, mean_square : ndarray, shape (n_inputs,)
        Over targets, by their weights: of the derivative, and of its square.
    """

    def __init__(
        self, target_class: TargetClass, points: AnyArray, predicted: Float64Array, loss: Loss | str
    ) -> None:
        n_inputs, n_targets = len(points), len(target_class)
        self.step = max(FEWEST_TARGETS, min(BLOCK_TARGETS, BLOCK_ENTRIES // n_inputs))
        _memory.require(COPIES * 8 * n_inputs * min(self.step, n_targets), "a block of targets at all inputs")
        self.labels: npt.NDArray[np.uint8] | None = None
        if target_class.q is not None:
            # The pairs want them whole, once as they are and twice in the order that the kernel reads.
            _memory.require(
                3 * n_targets * n_inputs, f"the labels of {n_targets:,} targets at {n_inputs:,} inputs"
            )
            self.labels = np.empty((n_targets, n_inputs), np.uint8)
        self.target_class, self.points, self.predicted, self.loss = target_class, points, predicted, loss
        self.mean: Float64Array = np.zeros(n_inputs)
        self.mean_square: Float64Array = np.zeros(n_inputs)

    def __iter__(self) -> Iterator[Float64Array]:
        whole = self.target_class
        for start in range(0, len(whole), self.step):
            block = slice(start, min(start + self.step, len(whole)))
            members = whole.members[block]
            if self.labels is None:
                values = whole.targets(self.points, members)
            else:
                self.labels[block] = whole.labels(self.points, members)
                values = whole.label_values[self.labels[block].T]
            found = derivatives(self.loss, self.predicted, values)
            shares = (
                np.full(found.shape[1], 1 / len(whole)) if whole.weights is None else whole.weights[block]
            )
            self.mean += found @ shares
            self.mean_square += np.square(found) @ shares
            yield found


def require_gradients(model: Model, points: AnyArray) -> AnyArray:
    """(n_inputs, p) gradients of the predictions, or ResultTooLargeError before they are made."""
    if len(points) > 1:
        one = as_numpy(model.jacobian(points[:1]), "model.jacobian(x)")
        width = one.shape[-1] if one.ndim else 1
        _memory.require(
            3 * 8 * len(points) * width, f"the gradients of the predictions, {(len(points), width)},"
        )
    return jacobian(model, points)
