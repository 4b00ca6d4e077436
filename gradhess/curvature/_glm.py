"""H, M and C of generalised linear models, from one pass over the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from gradhess import _memory
from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array, Rows
from gradhess._gradients import glm_gradients, weighted_gram
from gradhess._streaming import StreamingCovariance
from gradhess.curvature import _checks
from gradhess.curvature._curvature import Curvature
from gradhess.curvature._layer import layer_curvature
from gradhess.curvature._outputs import cross_entropy
from gradhess.curvature._samples import LayerSamples
from gradhess.errors import InputError, NonFiniteError
from gradhess.losses import Loss

LARGE: Final = 1e35
"""Entries of X from which on they alone may be why M, of the fourth power of X, overflows."""
CHUNK_ENTRIES: Final = 1 << 20
"""Entries of X in a chunk: 8 MiB, so that the second and third use of a chunk find it in the cache."""


def glm_curvature(
    X: Any, y: Any, coef: Any, loss: Loss | str, *, intercept: Any = None, batch_size: int = 1
) -> Curvature:
    """H, M and C of a generalised linear model, exactly, from one pass over X.

    A sample has the Hessian ``h = s x x^T`` with ``s = l''(eta, y)``, so ``H = E[s x x^T]`` and
    ``M = E[s^2 ||x||^2 x x^T]``; ``C = Cov(l' x) / B``, centred as it goes. For softmax ``h = S (x) x x^T`` with
    ``S = diag(P) - P P^T``.

    Parameters
    ----------
    X : array_like, shape (n, d)
        Rows are samples. float32 and float64, integers and booleans, without a copy.
    y : array_like, shape (n,)
        Labels in the domain of the loss.
    coef : array_like, shape (d,), or (k, d) for softmax
    loss : str or Loss
        As for ``glm_gradients``.
    intercept : float, or array_like of shape (k,) for softmax, optional
        As for ``glm_gradients``: one more parameter, last (for softmax last in the row of each class).
    batch_size : int
        B, 1 by default.

    Returns
    -------
    Curvature
        Over the p parameters of ``glm_gradients``. Everything is divided by n, and C by B too.

    Raises
    ------
    InputError, InputTypeError
        As ``glm_gradients``; no rows; a custom loss without a second derivative.
    NonFiniteError
        A row is not finite, or is so large that H, M or C overflows; ``row`` is the first.
    ResultTooLargeError
        The matrices would not fit in memory.
    """
    size = _checks.batch_size(batch_size)
    gradients = glm_gradients(X, y, coef, loss, intercept=intercept)
    rows = gradients.rows
    resolved = check.resolve_loss(loss)
    if not resolved.has_second_derivative:
        raise InputError("this custom loss has no second derivative; pass second= to gradhess.losses.custom")
    if rows.n_samples == 0:
        raise InputError(f"X has shape {np.shape(X)}: there are no rows to take the mean of")
    step = max(CHUNK_ENTRIES // rows.X.shape[1], 64)
    spans = [(start, min(start + step, rows.n_samples)) for start in range(0, rows.n_samples, step)]
    if resolved.name == "softmax":
        return _softmax(rows, spans, size)
    return _scalar(rows, resolved, spans, size)


def _scalar(rows: Rows, loss: Loss, spans: list[tuple[int, int]], batch_size: int) -> Curvature:
    p = rows.n_parameters
    _memory.require(8 * p * p * 5, f"H, M and C of shape ({p:,}, {p:,})")
    H, M = np.zeros((p, p)), np.zeros((p, p))
    covariance = StreamingCovariance()
    kappa, positive = 0.0, True
    assert rows.coef is not None
    assert rows.y is not None
    for start, stop in spans:
        x, eta = _features(rows, start, stop)
        labels = rows.y[start:stop]
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by its row
            s = loss.second_derivative(eta[:, 0], labels)
            slopes = loss.derivative(eta[:, 0], labels)
            lengths = np.einsum("pi,pi->p", x, x)
            stiffness = s * lengths
            traces = stiffness * stiffness + slopes * slopes * lengths  # of h^2 and g g^T
        _refuse(rows, start, eta, np.isfinite(traces) & np.isfinite(labels))
        try:
            covariance.partial_fit(
                glm_gradients(
                    x[:, : rows.X.shape[1]], labels, rows.coef[0], loss,
                    intercept=None if rows.intercept is None else rows.intercept[0],
                )
            )  # fmt: skip
        except NonFiniteError as error:
            raise _error(rows, start + error.row, eta[error.row]) from None
        weighted_gram(x, s, out=H)
        weighted_gram(x, s * stiffness, out=M)
        kappa = max(kappa, float(np.abs(stiffness).max()))
        positive = positive and not (s < 0).any()
    n = rows.n_samples
    H /= n
    M /= n
    C = covariance.covariance_
    C /= batch_size
    return Curvature(H, M, C, kappa, positive, n, batch_size)


def _softmax(rows: Rows, spans: list[tuple[int, int]], batch_size: int) -> Curvature:
    def samples() -> Iterator[LayerSamples]:
        assert rows.y is not None
        for start, stop in spans:
            x, eta = _features(rows, start, stop)
            _refuse(rows, start, eta, np.isfinite(x).all(axis=1) & np.isfinite(eta).all(axis=1))
            errors, S = cross_entropy(eta, rows.y[start:stop].astype(np.intp))
            yield LayerSamples(x, errors, S, None, positive=True)

    try:
        return layer_curvature(samples, batch_size=batch_size)
    except NonFiniteError as error:
        _, eta = _features(rows, error.row, error.row + 1)
        raise _error(rows, error.row, eta[0]) from None


def _features(rows: Rows, start: int, stop: int) -> tuple[Float64Array, Float64Array]:
    """``x~`` and eta (n, k), float64: small eigenvalues of H and M would drown in the rounding of float32 products."""
    assert rows.coef is not None
    x = np.asarray(rows.X[start:stop], np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        eta = x @ rows.coef.T
    if rows.intercept is not None:
        eta += rows.intercept
        x = np.column_stack([x, np.ones(len(x))])
    return x, eta


def _refuse(rows: Rows, start: int, eta: Float64Array, good: Any) -> None:
    """NonFiniteError at the first row that is not good, of those from ``start`` on, with predictors ``eta``."""
    flags = as_numpy(good, "rows")
    if not flags.all():
        index = int(np.argmin(flags))
        raise _error(rows, start + index, eta[index])


def _error(rows: Rows, row: int, eta: Float64Array) -> NonFiniteError:
    """What is wrong with a row: an entry, the linear predictor, or the size of what it adds to H, M and C."""
    entry = rows.nonfinite_entry(row, row)
    if entry is not None:
        return NonFiniteError(row, f"{entry}; drop such rows")
    assert rows.coef is not None
    assert rows.y is not None
    size = float(np.abs(rows.X[row].astype(np.float64)).max())
    sizes = (
        f"entries of X up to {size:.3g}, of coef up to {float(np.abs(rows.coef).max()):.3g}, "
        f"y {float(rows.y[row]):.3g}"
    )
    if not np.isfinite(eta).all():
        return NonFiniteError(
            row, f"row {row} of X times coef overflows float64 ({sizes}); rescale X or coef"
        )
    todo = "check coef and y"
    if size > LARGE:
        todo = "divide X by a number c and multiply coef by it, which divides H and C by c^2 and M by c^4"
    return NonFiniteError(row, f"row {row} of X overflows H, M or C ({sizes}); {todo}")
