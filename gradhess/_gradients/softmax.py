"""The products of softmax regression that go block by block, one for each pair of classes (q, r).

``G^T G`` has ``X~^T diag(c^2 delta_q delta_r) X~`` with ``delta = P - onehot(y)``; the Hessian of the summed loss has
``X~^T diag(c P_q (delta_qr - P_r)) X~`` (D. Boehning, "Multinomial logistic regression algorithm", 1992).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradhess._backends.protocol import AnyArray, Float64Array, PairWeights, Rows
from gradhess._gradients import outer_gram, passes
from gradhess.losses import softmax_probabilities


def gram(rows: Rows, dtype: npt.DTypeLike) -> AnyArray:
    """(p, p), symmetric to the bit."""
    return outer_gram.gram(rows, rows.X, lambda *span: _errors(rows, *span), dtype)


def hessian(rows: Rows) -> AnyArray:
    """(p, p), float64, symmetric to the bit."""
    return outer_gram.gram(rows, rows.X, lambda *span: _curvatures(rows, *span), what="a Hessian")


def _errors(rows: Rows, start: int, stop: int) -> PairWeights:
    assert rows.y is not None
    delta = _probabilities(rows, start, stop)
    at, label = np.arange(stop - start), rows.y[start:stop].astype(np.intp)
    # P_label - 1 is minus the probability of all other classes, which loses no digits where P_label is near 1.
    delta[at, label] = 0
    delta[at, label] = -delta.sum(axis=1)
    if rows.loss_weight is not None:
        delta *= rows.loss_weight[start:stop, np.newaxis]
    return PairWeights(delta)


def _curvatures(rows: Rows, start: int, stop: int) -> PairWeights:
    return PairWeights(
        _probabilities(rows, start, stop), passes.part(rows.loss_weight, start, stop), curvature=True
    )


def _probabilities(rows: Rows, start: int, stop: int) -> Float64Array:
    """(n, k), C-contiguous."""
    assert rows.coef is not None
    with np.errstate(all="ignore"):  # rows that are not finite are found and reported by their index
        eta = rows.X[start:stop].astype(np.float64) @ rows.coef.T
        if rows.intercept is not None:
            eta += rows.intercept
        return softmax_probabilities(eta)
