"""The algorithm in obvious NumPy: the first thing to read, and what the fast backends are compared with.

It follows ``layout`` exactly, one slab at a time. Rows are rounded to the compute type, as everywhere; all arithmetic
after that is float64. Nothing is tuned, and ``threads`` is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradhess._backends import layout
from gradhess._backends.custom_loss import require_second
from gradhess._backends.groups import Groups, changed_groups
from gradhess._backends.loss_formulas import SCALAR_LOSSES
from gradhess._backends.protocol import (
    BLOCK_LOSS,
    BLOCK_ROWS,
    BLOCK_WEIGHT,
    BLOCK_WEIGHT_SQUARES,
    LOSS,
    ROWS,
    WEIGHT,
    WEIGHT_SQUARES,
    AnyArray,
    Float64Array,
    KroneckerFactor,
    LossSpec,
    MomentState,
    NonFiniteRow,
    PairWeights,
    Rows,
    ScalarFunction,
    Structure,
)
from gradhess._backends.stepwise import Stepwise
from gradhess.errors import InputError

_TOTALS = [WEIGHT, WEIGHT_SQUARES, LOSS]
_BLOCK_TOTALS = [BLOCK_WEIGHT, BLOCK_WEIGHT_SQUARES, BLOCK_LOSS]


class ReferenceBackend(Stepwise):
    """The protocol of ``Backend``, as plainly as NumPy can say it."""

    name = "reference"

    def accumulate(
        self, rows: Rows, weights: Float64Array | None, state: MomentState, *, threads: int
    ) -> None:
        with np.errstate(all="ignore"):  # rows that are not finite are found and reported by their index
            for start, slab in _slabs(rows, state.slab_rows):
                slab_weights = None if weights is None else weights[start : start + slab.n_samples]
                _add_slab(slab, slab_weights, state, start)
                if state.counts[BLOCK_ROWS] == layout.BLOCK_ROWS:
                    self.close_block(state)

    def close_block(self, state: MomentState) -> None:
        if state.counts[BLOCK_ROWS] == 0:
            return
        block_weight = float(state.scalars[BLOCK_WEIGHT])
        # The block about its own mean: sum w (z - s/W)(z - s/W)^T = sum w z z^T - s s^T / W, with s = sum w z.
        if state.scatter is not None:
            if state.block_scatter is not None:
                state.scatter += state.block_scatter
            if state.centred and block_weight != 0:
                state.scatter -= _squared(state.block_sum / np.sqrt(block_weight), state.structure)
        if not state.centred:
            state.location += state.block_sum
        elif block_weight != 0:
            # In this order: the shift and the old mean are close to each other.
            delta = (state.block_shift - state.location) + state.block_sum / block_weight
            _move_mean(state, delta, block_weight)
        state.scalars[_TOTALS] += state.scalars[_BLOCK_TOTALS]
        state.counts[ROWS] += state.counts[BLOCK_ROWS]

        state.scalars[_BLOCK_TOTALS] = 0
        state.counts[BLOCK_ROWS] = 0
        state.block_shift[:] = 0
        state.block_sum[:] = 0
        if state.block_scatter is not None:
            state.block_scatter[...] = 0

    def merge(self, state: MomentState, other: MomentState) -> None:
        if state.scatter is not None:
            state.scatter += other.scatter
        if not state.centred:
            state.location += other.location
        elif other.scalars[WEIGHT] != 0:
            _move_mean(state, other.location - state.location, float(other.scalars[WEIGHT]))
        state.scalars += other.scalars
        state.counts += other.counts

    def symmetrize(self, lower: AnyArray, scale: float, out: AnyArray, *, threads: int) -> None:
        scaled = np.tril(lower) * scale
        out[...] = scaled + np.tril(scaled, -1).T

    def materialize(self, rows: Rows, out: AnyArray) -> None:
        for start, slab in _slabs(rows):
            out[start : start + slab.n_samples] = _evaluate(slab).rows

    def first_nonfinite(self, rows: Rows, weights: Float64Array | None, *, threads: int) -> int:
        for start, slab in _slabs(rows):
            slab_weights = None if weights is None else weights[start : start + slab.n_samples]
            bad = _bad_rows(_evaluate(slab), slab_weights)
            if bad.any():
                return start + int(bad.argmax())
        return -1

    def errors(self, rows: Rows, *, threads: int) -> Float64Array:
        out = np.empty((rows.n_samples, rows.n_outputs))
        with np.errstate(all="ignore"):
            for start, slab in _slabs(rows):
                out[start : start + slab.n_samples] = _slopes(slab)[1]
        return out

    def norms(self, rows: Rows, *, threads: int) -> Float64Array:
        out = np.empty(rows.n_samples)
        for start, slab in _slabs(rows):
            G = _evaluate(slab).rows.astype(np.float64)
            out[start : start + slab.n_samples] = np.linalg.norm(G, axis=1)
        return out

    def matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        out = np.empty((rows.n_samples, vectors.shape[1]))
        for start, slab in _slabs(rows):
            out[start : start + slab.n_samples] = _evaluate(slab).rows.astype(np.float64) @ vectors
        return out

    def rmatvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        out = np.zeros((rows.n_parameters, vectors.shape[1]))
        for start, slab in _slabs(rows):
            out += _evaluate(slab).rows.T.astype(np.float64) @ vectors[start : start + slab.n_samples]
        return out

    def gram_matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        out = np.zeros_like(vectors)
        for _, slab in _slabs(rows):
            G = _evaluate(slab).rows.astype(np.float64)
            out += G.T @ (G @ vectors)
        return out

    def group_sums(self, rows: Rows, groups: Groups, out: AnyArray, *, threads: int) -> None:
        with np.errstate(all="ignore"):
            for j in range(groups.count):
                index = groups.rows_of(j)
                if index.size and not (index.min() >= 0 and index.max() < rows.n_samples):
                    raise InputError(changed_groups(rows.n_samples))
                draws = slice(groups.offsets[j], groups.offsets[j + 1])
                x = rows.X[index].astype(rows.compute_dtype).astype(np.float64)
                if rows.unit_column:
                    x = np.hstack([x, np.ones((len(x), 1))])
                f = np.ones((len(x), 1)) if groups.slopes is None else groups.slopes[index]
                if groups.factors is not None:
                    f = f * groups.factors[draws, np.newaxis]
                if groups.shifts is not None:
                    f = f + groups.shifts[draws, np.newaxis]
                scale = 1.0 if groups.scale is None else groups.scale[j]
                out[j] = scale * (f.T @ x).ravel()

    def outer_gram(
        self,
        A: AnyArray,
        pairs: PairWeights,
        unit_column: bool,
        out: AnyArray,
        *,
        begin: bool,
        end: bool,
        threads: int,
    ) -> None:
        e, c = pairs.errors, 1.0 if pairs.row_weight is None else pairs.row_weight
        k = e.shape[1]
        if begin:
            out[...] = 0
        with np.errstate(all="ignore"):
            for start in range(0, len(A), layout.SLAB_ROWS):
                slab = slice(start, start + layout.SLAB_ROWS)
                X = A[slab].astype(np.float64)
                X = np.hstack([X, np.ones((len(X), 1))]) if unit_column else X
                blocks = out.reshape(k, X.shape[1], k, X.shape[1])
                for p in range(k):
                    for q in range(k):
                        other = (p == q) - e[:, q] if pairs.curvature else e[:, q]
                        s = (c * e[:, p] * other)[slab]
                        blocks[p, :, q, :] += X.T @ (s[:, np.newaxis] * X)
        if end:
            self.symmetrize(out, 1.0, out, threads=threads)

    def kronecker_sums(
        self, A: Float64Array, factors: Sequence[KroneckerFactor], out: Float64Array, *, threads: int
    ) -> None:
        first, second = np.triu_indices(A.shape[1])
        rows, columns = np.triu_indices(factors[0].right.shape[2])
        for start in range(0, len(A), layout.SLAB_ROWS):
            slab = slice(start, start + layout.SLAB_ROWS)
            U = A[slab, first] * A[slab, second]
            for f, factor in enumerate(factors):
                right = factor.right[slab]
                Q = right if factor.left is None else factor.left[slab].transpose(0, 2, 1) @ right
                out[f] += Q[:, rows, columns].T @ U

    def pair_dependence(
        self,
        labels: npt.NDArray[np.uint8],
        q: int,
        input_weights: Float64Array,
        target_weights: Float64Array | None,
        *,
        n_rows: int | None = None,
        threads: int,
    ) -> Float64Array:
        n_targets, n_inputs = labels.shape
        rows = n_inputs if n_rows is None else n_rows
        is_label = labels[np.newaxis] == np.arange(q)[:, np.newaxis, np.newaxis]  # (q, n_targets, n_inputs)
        shares = np.full(n_targets, 1.0 / n_targets) if target_weights is None else target_weights
        sums = np.zeros(rows)
        for x in range(min(rows, n_inputs - 1)):
            here = is_label[:, :, x] * shares
            joint = np.tensordot(here, is_label[:, :, x + 1 :], axes=(1, 1))  # (q, q, inputs after x)
            dependence = np.abs(joint - q**-2.0).sum(axis=(0, 1))
            sums[x] = input_weights[x + 1 :] @ dependence**2
        return sums


def _slabs(rows: Rows, size: int = layout.SLAB_ROWS) -> Iterator[tuple[int, Rows]]:
    for start in range(0, rows.n_samples, size):
        yield start, rows.slice(start, min(start + size, rows.n_samples))


# ---- moments ----------------------------------------------------------------------------------------------------


def _squared(vector: Float64Array, structure: Structure) -> Float64Array:
    """``v v^T`` in the part that a scatter of this structure keeps: its lower triangle, or its diagonal."""
    return np.tril(np.outer(vector, vector)) if structure == "full" else vector * vector


def _add_slab(slab: Rows, weights: Float64Array | None, state: MomentState, start: int) -> None:
    batch = _evaluate(slab)
    bad = _bad_rows(batch, weights)
    if bad.any():
        raise NonFiniteRow(start + int(bad.argmax()))
    w = batch.weight if weights is None else weights * batch.weight

    # The first slab that has any weight gives the shift: the ones before it add nothing, whatever they hold.
    if state.centred and state.scalars[BLOCK_WEIGHT] == 0 and w.sum() != 0:
        state.block_shift[:] = (w @ batch.rows / w.sum()).astype(slab.compute_dtype)
    z = batch.rows.astype(np.float64) - state.block_shift
    weighted = w[:, np.newaxis] * z

    scatter = state.scatter if state.block_scatter is None else state.block_scatter
    if scatter is not None:
        scatter += np.tril(z.T @ weighted) if state.structure == "full" else (z * weighted).sum(axis=0)
    state.block_sum += weighted.sum(axis=0)
    state.scalars[BLOCK_WEIGHT] += w.sum()
    state.scalars[BLOCK_WEIGHT_SQUARES] += (w * w).sum()
    state.scalars[BLOCK_LOSS] += batch.loss.sum()
    state.counts[BLOCK_ROWS] += slab.n_samples


def _move_mean(state: MomentState, delta: Float64Array, weight: float) -> None:
    """Chan's formula: rows of total ``weight``, whose mean lies ``delta`` from that of the finished ones, join them.

    Their scatter has been added already.

    T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", COMPSTAT 1982, equation 2.1.
    """
    before = float(state.scalars[WEIGHT])
    state.location += delta * (weight / (before + weight))
    if state.scatter is not None:
        state.scatter += _squared(delta, state.structure) * (before * (weight / (before + weight)))


# ---- rows -------------------------------------------------------------------------------------------------------


class _Batch(NamedTuple):
    rows: AnyArray
    """(n, p), of the compute type."""
    weight: Float64Array
    """(n,): the weight that each row brings with it."""
    loss: Float64Array
    """(n,): ``c_i l(eta_i, y_i)``, zero without a loss."""


def _bad_rows(batch: _Batch, weights: Float64Array | None) -> npt.NDArray[np.bool_]:
    bad = ~(np.isfinite(batch.rows).all(axis=1) & np.isfinite(batch.weight))
    return bad if weights is None else bad | ~np.isfinite(weights)


def _evaluate(rows: Rows) -> _Batch:
    dtype = rows.compute_dtype
    X = np.array(rows.X, dtype, order="C")
    n = rows.n_samples
    features = np.hstack([X, np.ones((n, 1), dtype)]) if rows.unit_column else X
    if rows.kind == "dense":
        return _Batch(features, np.ones(n), np.zeros(n))

    # Overflow is not an error here: it makes the row infinite, which is found and reported by its index.
    with np.errstate(all="ignore"):
        loss, slope = _slopes(rows)
        if rows.kind == "hessian":
            return _Batch(features, slope[:, 0], loss)
        factor = slope.astype(dtype)
        gradients = factor[:, :, np.newaxis] * features[:, np.newaxis, :]  # delta_i (x) x~_i
    return _Batch(gradients.reshape(n, rows.n_parameters), np.ones(n), loss)


def _slopes(rows: Rows) -> tuple[Float64Array, Float64Array]:
    """``c_i l`` (n,) and ``c_i l'`` (n, k), or ``c_i l''`` of kind ``"hessian"``."""
    loss_spec, coef = rows.loss, rows.coef
    y = None if rows.y is None else rows.y.astype(np.float64)
    assert loss_spec is not None
    assert y is not None
    assert coef is not None
    eta = np.array(rows.X, rows.compute_dtype, order="C").astype(np.float64) @ coef.T
    if rows.intercept is not None:
        eta += rows.intercept
    c = np.ones(rows.n_samples) if rows.loss_weight is None else rows.loss_weight
    loss, slope = _loss_terms(loss_spec, rows.kind == "hessian", eta, y)
    return c * loss, c[:, np.newaxis] * slope


def _loss_terms(
    loss: LossSpec, second: bool, eta: Float64Array, y: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Value (n,), and first or second derivative (n, k) at ``eta`` (n, k)."""
    if loss.name == "softmax":
        return _softmax_terms(eta, y.astype(np.intp))
    eta = eta[:, 0]
    if loss.name == "custom":
        assert loss.functions is not None  # promised by LossSpec
        value_of, first_of, second_of = loss.functions
        if second:
            require_second(loss)
        value, slope = _apply(value_of, eta, y), _apply(second_of if second else first_of, eta, y)
    else:
        formulas = SCALAR_LOSSES[loss.name]
        value = formulas.value(eta, y, loss.parameter)
        slope = (formulas.second if second else formulas.first)(eta, y, loss.parameter)
    return value, slope[:, np.newaxis]


def _apply(function: ScalarFunction | None, eta: Float64Array, y: Float64Array) -> Float64Array:
    """A custom function, called from Python, one sample at a time; 0 where it was not given."""
    if function is None:
        return np.zeros(len(eta))
    return np.array([function(e, label) for e, label in zip(eta, y, strict=True)], np.float64)


def _softmax_terms(eta: Float64Array, label: npt.NDArray[np.intp]) -> tuple[Float64Array, Float64Array]:
    row = np.arange(len(label))
    top = eta.max(axis=1)
    odds = np.exp(eta - top[:, np.newaxis])
    total = odds.sum(axis=1)
    value = np.log(total) + (top - eta[row, label])
    delta = odds / total[:, np.newaxis]
    # P_label - 1 is minus the probability of all other classes, which loses no digits where P_label is near 1.
    delta[row, label] = 0
    delta[row, label] = -delta.sum(axis=1)
    return value, delta


def load() -> ReferenceBackend:
    return ReferenceBackend()


def describe() -> dict[str, str]:
    return {"arithmetic": f"NumPy {np.__version__}, float64, one thread"}
