"""What the backends are compared with: two passes in long double over a matrix of gradients that is really formed.

Nothing here is shared with the backends but ``Rows``; the losses are written once more. Beside each value stands a
bound on its rounding error. With u = eps / 2 of the compute type, u64 of float64 and u_acc of the accumulator:

* eta = x . w + b carries (d + 4) u64 (|x| . |w| + |b|), a derivative r of the loss |r'| times that, and a few roundings
  of its own; a row r x is then rounded twice to the compute type. The sum of these is ``RowsOracle.error``, E.
* A chain of m additions carries m u times the sum of magnitudes. Products are added over a slab in the compute type,
  and slabs, then blocks, in the accumulator type: c = (slab + 16) u + (4096 / slab + blocks + 16) u_acc.
* Let z be the rows minus the provisional shift of their block, A_i^2 = sum |w| z_i^2, and E_i^2 = sum |w| E_i^2. By
  Cauchy's inequality sum |w z_i z_j| <= A_i A_j, and the same holds for the two corrections of Chan's formula. So a
  scatter matrix carries 3 c A_i A_j + A_i E_j + E_i A_j + E_i E_j. An error v in the row's own weight adds D_i D_j,
  D_i^2 = sum v z_i^2.
* A mean is a float64 that was updated once per block: e_j = (blocks + 4) u64 max |g_j|. An error of e_j in a mean
  moves a centred scatter matrix by sqrt(W) (A_i e_j + e_i A_j) + W e_i e_j.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradhess._backends import layout
from gradhess._backends.protocol import (
    LOSS,
    ROWS,
    WEIGHT,
    WEIGHT_SQUARES,
    Backend,
    LossSpec,
    MomentState,
    Rows,
    Structure,
)

LD = np.longdouble
Array = npt.NDArray[Any]
U64 = 2.0**-53


def unit_roundoff(dtype: npt.DTypeLike) -> float:
    return float(np.finfo(dtype).eps) / 2


# ---- losses -----------------------------------------------------------------------------------------------------


def log_cosh(eta: float, y: float) -> float:
    return np.log(np.cosh(eta - y))


def log_cosh_first(eta: float, y: float) -> float:
    return np.tanh(eta - y)


def log_cosh_second(eta: float, y: float) -> float:
    return 1.0 - np.tanh(eta - y) ** 2


LOSSES = {
    "squared": LossSpec("squared"),
    "logistic": LossSpec("logistic"),
    "poisson": LossSpec("poisson"),
    "huber": LossSpec("huber", 0.75),
    "softmax": LossSpec("softmax"),
    "custom": LossSpec("custom", functions=(log_cosh, log_cosh_first, log_cosh_second)),
}


class LossTerms(NamedTuple):
    """Long double derivatives at eta, and what their errors are measured in."""

    value: Array
    slope: Array
    value_size: Array
    """Magnitude of the terms that the value is made of."""
    slope_size: Array
    steepness: Array
    """|d slope / d eta|, or a bound."""


def scalar_terms(loss: LossSpec, eta: Array, y: Array, second: bool) -> LossTerms:
    size = np.abs(eta) + np.abs(y)
    error = eta - y
    one = np.ones_like(eta)
    if loss.name == "squared":
        value, first, curve = error**2 / 2, error, one
        sizes, third = (size**2, size, one), 0 * one
    elif loss.name == "logistic":
        probability = 1 / (1 + np.exp(-eta))
        value, first, curve = (
            np.log1p(np.exp(eta)) - y * eta,
            probability - y,
            probability * (1 - probability),
        )
        sizes, third = (1 + size, np.abs(first), curve), curve
    elif loss.name == "poisson":
        rate = np.exp(eta)
        value, first, curve = rate - y * eta, rate - y, rate
        sizes, third = (rate + np.abs(y * eta), rate + y, rate), rate
    elif loss.name == "huber":
        delta = LD(loss.parameter)
        inside = np.abs(error) <= delta
        value = np.where(inside, error**2 / 2, delta * np.abs(error) - delta**2 / 2)
        first, curve = np.where(inside, error, delta * np.sign(error)), inside.astype(LD)
        sizes, third = (size**2 + delta * size, size, one), 0 * one
    else:
        value, first, curve = np.log(np.cosh(error)), np.tanh(error), 1 / np.cosh(error) ** 2
        sizes, third = (1 + size, 1 + size, one), 2 * curve
    slope, steepness = (curve, third) if second else (first, np.maximum(curve, loss.name == "huber"))
    return LossTerms(
        value, slope[:, None], sizes[0], (sizes[2] if second else sizes[1])[:, None], steepness[:, None]
    )


def softmax_terms(eta: Array, y: Array) -> LossTerms:
    label = np.arange(eta.shape[1]) == y[:, None]
    probability = np.exp(eta) / np.exp(eta).sum(axis=1, keepdims=True)
    value = -np.log(probability[label])
    slope = probability - label
    largest = np.abs(eta).max(axis=1)
    return LossTerms(
        value, slope, 2 + largest + np.log(eta.shape[1]), eta.shape[1] * np.abs(slope), 2 * np.abs(slope)
    )


# ---- rows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowsOracle:
    G: Array
    """(n, p) long double."""
    error: Array
    """(n, p): bound on the error of a row as a backend may compute it."""
    weight: Array
    """(n,): the weight that a row brings with it."""
    weight_error: Array
    loss: Array
    loss_error: Array


def evaluate(rows: Rows) -> RowsOracle:
    u = unit_roundoff(rows.compute_dtype)
    X = rows.X.astype(rows.compute_dtype).astype(LD)
    n, d = X.shape
    features = np.hstack([X, np.ones((n, 1), LD)]) if rows.unit_column else X
    zero = np.zeros(n)
    if rows.kind == "dense":
        return RowsOracle(features, np.zeros(features.shape), np.ones(n), zero, zero, zero)
    assert rows.coef is not None
    assert rows.loss is not None
    assert rows.y is not None
    coef, y = rows.coef.astype(LD), rows.y.astype(LD)
    intercept = np.zeros(len(coef), LD) if rows.intercept is None else rows.intercept.astype(LD)
    c = np.ones(n, LD) if rows.loss_weight is None else rows.loss_weight.astype(LD)
    eta = X @ coef.T + intercept
    eta_error = (d + 4) * U64 * (np.abs(X) @ np.abs(coef).T + np.abs(intercept)).max(axis=1)

    second = rows.kind == "hessian"
    softmax = rows.loss.name == "softmax"
    terms = softmax_terms(eta, y) if softmax else scalar_terms(rows.loss, eta[:, 0], y, second)
    first = terms.slope if softmax or not second else scalar_terms(rows.loss, eta[:, 0], y, False).slope
    conditioning = 16 * U64 * (1 + np.abs(eta).max(axis=1))
    slope = c[:, None] * terms.slope
    slope_error = np.abs(c)[:, None] * (
        terms.steepness * eta_error[:, None] + conditioning[:, None] * terms.slope_size
    )
    loss = c * terms.value
    loss_error = np.abs(c) * (2 * np.abs(first).max(axis=1) * eta_error + conditioning * terms.value_size)
    if second:
        return RowsOracle(
            features, np.zeros(features.shape), slope[:, 0], slope_error[:, 0], loss, loss_error
        )
    G = (slope[:, :, None] * features[:, None, :]).reshape(n, -1)
    error = (slope_error[:, :, None] * np.abs(features)[:, None, :]).reshape(n, -1) + 3 * u * np.abs(G)
    return RowsOracle(G, error, np.ones(n), zero, loss, loss_error)


# ---- moments ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MomentsOracle:
    scatter: Array
    """(p, p), full and symmetric."""
    scatter_bound: Array
    location: Array
    location_bound: Array
    weight: float
    weight_squares: float
    weight_bound: float
    """Relative to the sum of magnitudes, for all three scalars."""
    weight_size: float
    loss: float
    loss_bound: float


def moments(
    rows: Rows,
    weights: Array | None,
    *,
    centred: bool,
    structure: Structure = "full",
    accumulator: npt.DTypeLike = np.float64,
    blocks: int | None = None,
) -> MomentsOracle:
    oracle = evaluate(rows)
    G = oracle.G
    n, p = G.shape
    given = np.ones(n, LD) if weights is None else weights.astype(LD)
    w = given * oracle.weight
    size = np.abs(w)
    total = size.sum()
    slab = layout.slab_rows(p, structure)
    blocks = -(-n // layout.BLOCK_ROWS) if blocks is None else blocks
    u, u_acc = unit_roundoff(rows.compute_dtype), unit_roundoff(accumulator)
    inner = layout.BLOCK_ROWS // slab + blocks + 16
    c = (slab + 16) * u + inner * u_acc
    c64 = (slab + inner) * U64

    mean = (w @ G) / w.sum() if centred and w.sum() != 0 else np.zeros(p, LD)
    Z = G - mean if centred else G
    scatter = Z.T @ (w[:, None] * Z)
    shift = block_shifts(G, w, slab) if centred else np.zeros_like(G)
    deviation = np.abs(G - shift) + 4 * u * np.abs(shift)
    A = np.sqrt(size @ (deviation * deviation))
    E = np.sqrt(size @ (oracle.error * oracle.error))
    weight_error = np.abs(given) * oracle.weight_error
    D = np.sqrt(weight_error @ (deviation * deviation))
    bound = 3 * c * np.outer(A, A) + np.outer(A, E) + np.outer(E, A) + np.outer(E, E)
    bound += np.outer(D, D)
    spread = c64 * (size @ deviation) + size @ (oracle.error + 2 * u * deviation) + weight_error @ deviation
    if centred:
        e = (blocks + 4) * U64 * np.abs(G).max(axis=0)
        root = np.sqrt(total)
        bound += root * (np.outer(A, e) + np.outer(e, A)) + total * np.outer(e, e)
        location, location_bound = mean, 2 * e + (3 * spread / total if total != 0 else 0)
    else:
        location, location_bound = w @ G, spread + c64 * (size @ np.abs(G))
    return MomentsOracle(
        scatter=scatter,
        scatter_bound=bound.astype(np.float64) + np.finfo(accumulator).tiny,
        location=location,
        location_bound=location_bound.astype(np.float64),
        weight=float(w.sum()),
        weight_squares=float((w * w).sum()),
        weight_bound=c64,
        weight_size=float(total) + float(weight_error.sum()) / c64,
        loss=float(oracle.loss.sum()),
        loss_bound=float(c64 * np.abs(oracle.loss).sum() + oracle.loss_error.sum()),
    )


def block_shifts(G: Array, w: Array, slab: int) -> Array:
    """The provisional shift of each row's block."""
    out = np.empty_like(G)
    for start in range(0, len(G), layout.BLOCK_ROWS):
        first, weight = G[start : start + slab], w[start : start + slab]
        known = weight.sum() != 0
        shift = weight @ first / weight.sum() if known else first.mean(axis=0)
        out[start : start + layout.BLOCK_ROWS] = shift
    return out


# ---- running and comparing --------------------------------------------------------------------------------------


def accumulate(
    ops: Backend,
    rows: Rows,
    weights: Array | None = None,
    *,
    structure: Structure = "full",
    centred: bool = True,
    dtype: npt.DTypeLike = np.float64,
    threads: int = 2,
    cuts: tuple[int, ...] = (),
) -> MomentState:
    """The finished state of ``rows``, given in one call, or in pieces that end at ``cuts``."""
    state = MomentState.empty(rows.n_parameters, structure, centred=centred, dtype=dtype)
    edges = [0, *cuts, rows.n_samples]
    for start, stop in itertools.pairwise(edges):
        piece = None if weights is None else weights[start:stop]
        ops.accumulate(rows.slice(start, stop), piece, state, threads=threads)
    ops.close_block(state)
    return state


def assert_close(actual: Array, expected: Array, bound: Array | float, what: str) -> None:
    excess = np.abs(actual.astype(LD) - expected) - bound
    worst = np.unravel_index(np.argmax(excess), excess.shape) if excess.size else ()
    assert not excess.size or excess[worst] <= 0, (
        f"{what}{list(map(int, worst))} is {actual[worst]!r}, not {expected[worst]!r}: "
        f"off by {float(excess[worst] + np.broadcast_to(bound, excess.shape)[worst]):.3g}, "
        f"allowed {float(np.broadcast_to(bound, excess.shape)[worst]):.3g}"
    )


def assert_moments(state: MomentState, expected: MomentsOracle, n: int) -> None:
    if state.structure == "full":
        assert state.scatter is not None
        assert not np.triu(state.scatter, 1).any()
        assert_close(state.scatter, np.tril(expected.scatter), expected.scatter_bound, "scatter")
    elif state.structure == "diagonal":
        assert state.scatter is not None
        assert_close(state.scatter, np.diag(expected.scatter), np.diag(expected.scatter_bound), "scatter")
    assert_close(state.location, expected.location, expected.location_bound, "location")
    weight_bound = expected.weight_bound * expected.weight_size
    assert abs(state.scalars[WEIGHT] - expected.weight) <= weight_bound
    largest = 1 + abs(expected.weight_squares) + expected.weight_size**2
    assert abs(state.scalars[WEIGHT_SQUARES] - expected.weight_squares) <= 2 * expected.weight_bound * largest
    assert abs(state.scalars[LOSS] - expected.loss) <= expected.loss_bound
    assert state.counts[ROWS] == n
    assert not state.scalars[LOSS + 1 :].any()
    assert not state.counts[ROWS + 1 :].any()


def assert_same_bits(left: MomentState, right: MomentState) -> None:
    for name, array in left.arrays().items():
        other = right.arrays()[name]
        assert array.tobytes() == other.tobytes(), (
            f"{name} differs by up to {np.abs(array - other).max():.3g}"
        )


# ---- problems ---------------------------------------------------------------------------------------------------


def make_rows(
    n: int,
    d: int,
    *,
    kind: str = "dense",
    loss: str | None = None,
    unit_column: bool = False,
    loss_weight: bool = False,
    dtype: npt.DTypeLike = np.float64,
    outputs: int = 3,
    mean: float = 0.5,
    seed: int = 0,
) -> Rows:
    """Random rows whose predictions are of order 1."""
    rng = np.random.default_rng([seed, n, d])
    X = (rng.standard_normal((n, d)) + mean).astype(dtype)
    if loss is None:
        return Rows(X, "dense", unit_column)
    k = outputs if loss == "softmax" else 1
    y = {
        "logistic": lambda: rng.integers(0, 2, n),
        "poisson": lambda: rng.poisson(1.5, n),
        "softmax": lambda: rng.integers(0, k, n),
    }.get(loss, lambda: rng.standard_normal(n))()
    return Rows(
        X,
        kind,
        unit_column,
        LOSSES[loss],
        y.astype(np.float64),
        rng.standard_normal((k, d)) / np.sqrt(d),
        rng.standard_normal(k) if unit_column else None,
        rng.uniform(0.2, 2.0, n) if loss_weight else None,
    )
