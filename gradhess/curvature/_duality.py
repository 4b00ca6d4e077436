"""Activity-weight duality: a change of the layer's input is a change of its weight, and what follows for C.

Source: Feng, Zhang and Tu, *Activity-weight duality in feed-forward neural networks reveals two co-determinants for
generalization* (Nature Machine Intelligence 2023), and Zhang, Yang and Tu (arXiv 2602.05600).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.protocol import Float64Array
from gradhess._gradients import as_gradients
from gradhess._streaming import StreamingCovariance
from gradhess.curvature import _checks
from gradhess.curvature._alignment import cosine
from gradhess.curvature._kronecker import mean_kronecker
from gradhess.curvature._layer import layer_curvature
from gradhess.curvature._samples import LayerSamples
from gradhess.errors import InputError, InputTypeError

ENTRIES: Final = 1 << 22
"""Entries of rows or distances that are formed at a time: 32 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class DualityTerm:
    """One link of the chain of approximations to C.

    Attributes
    ----------
    name : str
    matrix : (p, p)
        The approximation, with 1/B inside.
    cosine : float
        Cosine of its angle with the exact C.
    scale : float
        Its trace over that of C; 1 would be exact.
    """

    name: str
    matrix: Float64Array
    cosine: float
    scale: float


def duality_delta(W: Any, a: Any, a2: Any) -> Float64Array:
    """``(W (a2 - a)) a^T / ||a||^2``: the smallest change of W with ``(W + dW) a = W a2``.

    Parameters
    ----------
    W : array_like, shape (k, m)
    a, a2 : array_like, shape (m,) or (n, m)
        Inputs of the layer, and those that replace them.

    Returns
    -------
    array, shape (k, m) or (n, k, m)

    Raises
    ------
    InputError
        Shapes that do not agree, NaN or infinity, or an input that is zero, of which no weight makes another.
    InputTypeError
        Data that are not real numbers.

    Notes
    -----
    With ``A = I (x) (a da^T) / ||a||^2``, ``grad_W l(a2, W) = (I + A)^T grad_W l(a, W + dW)`` exactly.
    """
    weight, first, second = (_finite(x, name) for x, name in ((W, "W"), (a, "a"), (a2, "a2")))
    if weight.ndim != 2 or first.ndim not in (1, 2) or first.shape != second.shape:
        raise InputError(f"W, a and a2 have shapes {weight.shape}, {first.shape}, {second.shape}; they must be (k, m), "
                         "and twice (m,) or twice (n, m)")  # fmt: skip
    if first.shape[-1] != weight.shape[1]:
        raise InputError(
            f"a has shape {first.shape}, but W has shape {weight.shape}: it must end in {weight.shape[1]}"
        )
    lengths = np.square(first).sum(axis=-1)
    if (lengths == 0).any():
        raise InputError(
            f"a[{int(np.argmin(lengths))}] is zero: no change of the weight acts on it; leave it out"
        )
    change = (second - first) @ weight.T / lengths[..., np.newaxis]
    return np.asarray(change[..., :, np.newaxis] * first[..., np.newaxis, :])


def same_class_neighbours(activations: Any, labels: Any) -> npt.NDArray[np.intp]:
    """For each sample the nearest other one of its class, by Euclidean distance; the first of several.

    Parameters
    ----------
    activations : array_like, shape (n, m)
    labels : array_like, shape (n,)

    Returns
    -------
    array of int, shape (n,)

    Raises
    ------
    InputError
        Shapes that do not agree, NaN or infinity, or a class of one sample.
    """
    from scipy.spatial.distance import cdist  # SciPy is slow to import

    points = _finite(activations, "activations")
    classes = as_numpy(labels, "labels")
    if points.ndim != 2 or classes.shape != (len(points),):
        raise InputError(
            f"labels has shape {classes.shape}, but activations has shape {points.shape}: one for each row"
        )
    out = np.empty(len(points), np.intp)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        if len(members) < 2:
            raise InputError(f"class {label:g} has one sample, which has no neighbour; leave it out")
        step = max(ENTRIES // len(members), 1)
        for start in range(0, len(members), step):
            rows = np.arange(start, min(start + step, len(members)))
            distances = cdist(points[members[rows]], points[members], "sqeuclidean")
            distances[np.arange(len(rows)), rows] = np.inf
            out[members[rows]] = members[distances.argmin(axis=1)]
    return out


def duality_terms(
    samples: LayerSamples, W: Any, neighbours: Any, *, batch_size: int = 1
) -> list[DualityTerm]:
    """The chain of approximations from C to ``(sigma^2 / 2B) E[h^2]``, each beside the exact C.

    Sample p and its neighbour p' are two draws from one class, so half the covariance of ``g_p' - g_p`` stands for
    that of g. With ``dw = vec(dW)`` of ``duality_delta``, and ``h dw = (Q W da) (x) a``:

    1. ``all terms``: ``Cov(g_p' - g_p) / 2B``;
    2. ``h dw``: ``Cov(h_p dw_p) / 2B``, the linear term alone;
    3. ``same sample``: ``E[h dw dw^T h] / 2B``, without the products of two samples, which make up the mean;
    4. ``diagonal``: ``E[h D h] / 2B``, with ``D = diag E[dw^2]`` instead of ``dw dw^T``;
    5. ``isotropic``: ``sigma^2 E[h^2] / 2B``, with ``sigma^2`` the mean of D.

    Parameters
    ----------
    samples : LayerSamples
        All samples in one piece; those with a zero activation left out.
    W : array_like, shape (k, m)
        The layer's weight.
    neighbours : array_like of int, shape (n,)
        p' for each p, as from ``same_class_neighbours(samples.activations, labels)``.
    batch_size : int
        B, 1 by default.

    Returns
    -------
    list of DualityTerm

    Raises
    ------
    InputError, InputTypeError
        Shapes that do not agree; a neighbour that does not exist; an activation that is zero.
    """
    size = _checks.batch_size(batch_size)
    if not isinstance(samples, LayerSamples):
        raise InputTypeError(f"samples must be LayerSamples, not {type(samples).__name__}")
    weight = _finite(W, "W")
    if weight.shape != samples.shape:
        raise InputError(
            f"W has shape {weight.shape}, but the samples are of a layer of shape {samples.shape}"
        )
    other = as_numpy(neighbours, "neighbours")
    if other.shape != (samples.n_samples,) or other.dtype.kind not in "iu":
        expected = f"({samples.n_samples},) and hold indices"
        raise InputError(f"neighbours has shape {other.shape} and dtype {other.dtype}; it must be {expected}")
    if other.size and not (other.min() >= 0 and other.max() < samples.n_samples):
        raise InputError(f"neighbours must be from 0 to {samples.n_samples - 1}")

    a, b = samples.activations, samples.errors
    lengths = samples.squared_lengths()
    if (lengths == 0).any():
        raise InputError(
            f"activations[{int(np.argmin(lengths))}] is zero, and has no dual; leave such samples out"
        )
    push = (a[other] - a) @ weight.T
    linear = samples.apply(push[:, np.newaxis, :])[:, 0, :]  # h dw = linear (x) a
    squares = np.square(push / lengths[:, np.newaxis]).T @ np.square(a) / len(a)  # E[dw^2], (k, m)
    Q = samples.hessians()
    spread = np.square(a) @ squares.T  # (n, k): sum_i a_i^2 D_ri
    curvature = layer_curvature(samples, batch_size=size)
    half = 0.5 / size
    found = {
        "all terms": half * _covariance(samples, [(b[other], a[other]), (-b, a)], centred=True),
        "h dw": half * _covariance(samples, [(linear, a)], centred=True),
        "same sample": half * _covariance(samples, [(linear, a)], centred=False),
        "diagonal": half * mean_kronecker(a, Q @ (spread[:, :, np.newaxis] * Q)),
        "isotropic": half * float(squares.mean()) * curvature.M,
    }
    exact, trace = curvature.C, float(np.trace(curvature.C))
    return [
        DualityTerm(
            name, matrix, cosine(matrix, exact), float(np.trace(matrix)) / trace if trace > 0 else np.nan
        )
        for name, matrix in found.items()
    ]


def _finite(value: Any, name: str) -> Float64Array:
    return check.finite(np.asarray(as_numpy(value, name), np.float64), name)


def _covariance(
    samples: LayerSamples, terms: list[tuple[Float64Array, Float64Array]], *, centred: bool
) -> Float64Array:
    """Covariance, or second moment, of the rows ``sum_t u_t (x) v_t``, formed some at a time."""
    moments = StreamingCovariance(assume_centered=not centred)
    for rows in _spans(samples.n_samples, max(ENTRIES // samples.n_parameters, 1)):
        block = sum(u[rows, :, np.newaxis] * v[rows, np.newaxis, :] for u, v in terms)
        assert isinstance(block, np.ndarray)
        moments.partial_fit(as_gradients(block.reshape(len(block), -1)))
    return np.asarray(moments.covariance_ if centred else moments.second_moment_)


def _spans(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
