"""The products of softmax regression that go block by block, one for each pair of classes (q, r).

``G^T G`` has ``X~^T diag(c^2 delta_q delta_r) X~`` with ``delta = P - onehot(y)``; the Hessian of the summed loss has
``X~^T diag(c P_q (delta_qr - P_r)) X~`` (D. Boehning, "Multinomial logistic regression algorithm", 1992).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gradhess._backends import registry
from gradhess._backends.protocol import AnyArray, PairWeights, Rows
from gradhess._gradients import outer_gram, passes


def gram(rows: Rows, dtype: npt.DTypeLike) -> AnyArray:
    """(p, p), symmetric to the bit."""
    return outer_gram.gram(rows, rows.X, lambda *span: _errors(rows, *span), dtype)


def hessian(rows: Rows) -> AnyArray:
    """(p, p), float64, symmetric to the bit."""
    return outer_gram.gram(rows, rows.X, lambda *span: _curvatures(rows, *span), what="a Hessian")


def _errors(rows: Rows, start: int, stop: int) -> PairWeights:
    return PairWeights(registry.active().errors(rows.slice(start, stop), threads=registry.num_threads()))


def _curvatures(rows: Rows, start: int, stop: int) -> PairWeights:
    """From the errors, too: ``P = onehot(y) + delta``."""
    assert rows.y is not None
    unweighted = replace(rows.slice(start, stop), loss_weight=None)
    P = registry.active().errors(unweighted, threads=registry.num_threads())
    P[np.arange(stop - start), rows.y[start:stop].astype(np.intp)] += 1.0
    return PairWeights(P, passes.part(rows.loss_weight, start, stop), curvature=True)
