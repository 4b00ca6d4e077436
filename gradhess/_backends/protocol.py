"""What a backend is asked, and with what: rows of per-sample gradients in, moments out.

Everything here is plain data. Arguments arrive checked (see ``gradhess._validation``): shapes agree, ``X`` has a real
dtype, vectors are contiguous float64 (labels float64 or float32), labels lie in the domain of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from gradhess._backends import layout
from gradhess._backends.groups import Groups

AnyArray: TypeAlias = npt.NDArray[Any]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Structure: TypeAlias = Literal["full", "diagonal", "sum"]
ScalarFunction: TypeAlias = Callable[[float, float], float]

FLOAT32: Final = np.dtype(np.float32)
FLOAT64: Final = np.dtype(np.float64)


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether rows of that type are computed in float32: float32, float16 and bfloat16 (whose kind is V)."""
    return dtype.kind in "fV" and dtype.itemsize <= 4


@dataclass(frozen=True, slots=True)
class LossSpec:
    """A per-sample loss as the backends know it: a name, at most one parameter, or three scalar functions.

    ``name`` is ``"squared"``, ``"logistic"``, ``"poisson"``, ``"huber"``, ``"softmax"`` or ``"custom"``;
    ``parameter`` is the delta of ``huber`` and 0 elsewhere. ``functions`` is None, or for ``"custom"`` the
    Numba-jittable ``(value, derivative, second)`` of ``(eta, y)``, any but the derivative None.
    """

    name: str
    parameter: float = 0.0
    functions: tuple[ScalarFunction | None, ScalarFunction, ScalarFunction | None] | None = None


@dataclass(slots=True, eq=False)
class Rows:
    """Where the rows ``g_i`` come from. The matrix of them is never formed.

    Not to be changed once made. It is not frozen, as a frozen one takes 0.7 us more to make, a twentieth of a tiny job.

    With ``x~_i = x_i``, or ``[x_i, 1]`` if ``unit_column``, ``eta_i = coef @ x_i + intercept``, and ``c_i`` the loss
    weight (1 where None):

    ==============  ===================================================  ==========================================
    ``kind``        row ``g_i``                                          weight that the row brings with it
    ==============  ===================================================  ==========================================
    ``"dense"``     ``x~_i``                                             1
    ``"gradient"``  ``c_i l'(eta_i, y_i) x~_i``; softmax:                1
                    ``c_i (P_i - onehot(y_i)) (x) x~_i``, row-major
    ``"hessian"``   ``x~_i`` (not for softmax)                           ``c_i l''(eta_i, y_i)``, of any sign
    ==============  ===================================================  ==========================================

    A row is rounded to the compute type (``Rows.compute_dtype``) once: first the factor ``c_i l'_i``, computed in
    float64, then its product with ``x~_i``.
    """

    X: AnyArray
    """(n, d), any real dtype, any strides, never written to."""
    kind: Literal["dense", "gradient", "hessian", "structured"] = "dense"
    """``"structured"``: a subclass in ``structured_rows``, which says itself what its rows are."""
    unit_column: bool = False
    loss: LossSpec | None = None
    y: AnyArray | None = None
    """(n,) contiguous float64 or float32, whatever the type of ``X``; for softmax the class index."""
    coef: Float64Array | None = None
    """(k, d) C-contiguous; k = 1 except for softmax."""
    intercept: Float64Array | None = None
    """(k,), or None. Given exactly where ``unit_column`` and a loss are."""
    loss_weight: Float64Array | None = None

    @property
    def n_samples(self) -> int:
        n: int = self.X.shape[0]
        return n

    @property
    def n_outputs(self) -> int:
        """k of an outer row, 1 for all others."""
        if self.kind == "gradient" and self.coef is not None:
            return int(self.coef.shape[0])
        return 1

    @property
    def n_parameters(self) -> int:
        width: int = self.X.shape[1] + self.unit_column
        return width if self.coef is None or self.kind != "gradient" else width * self.coef.shape[0]

    @property
    def compute_dtype(self) -> np.dtype[Any]:
        """float32 where ``X`` is float32 (or narrower floating), else float64."""
        dtype = self.X.dtype
        return FLOAT32 if dtype is not FLOAT64 and is_narrow(dtype) else FLOAT64

    def slice(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop`` as views."""
        return self if stop - start == self.n_samples else self.take(slice(start, stop))

    def take(self, which: Any) -> Rows:
        """The rows that an index of the first axis picks: views for a slice, copies for a mask."""
        return Rows(
            self.X[which],
            self.kind,
            self.unit_column,
            self.loss,
            None if self.y is None else self.y[which],
            self.coef,
            self.intercept,
            None if self.loss_weight is None else self.loss_weight[which],
        )

    def nonfinite_entry(self, index: int, row: int) -> str | None:
        """What of the data of row ``index`` is not finite, for people who know it as ``row``; None if all is."""
        finite = np.isfinite(self.X[index])
        if not finite.all():
            column = int(np.argmin(finite))
            return f"X[{row}, {column}] is {self.X[index, column]}"
        if self.y is not None and not np.isfinite(self.y[index]):
            return f"y[{row}] is {self.y[index]}"
        return None


# Positions in MomentState.scalars and MomentState.counts, shared with csrc/cpu/job.hpp.
N_SCALARS, N_COUNTS = 6, 2
WEIGHT, WEIGHT_SQUARES, LOSS, BLOCK_WEIGHT, BLOCK_WEIGHT_SQUARES, BLOCK_LOSS = range(N_SCALARS)
ROWS, BLOCK_ROWS = range(N_COUNTS)


@dataclass(slots=True)
class MomentState:
    """Weighted moments of the rows seen so far: totals of the finished blocks, and the block still open.

    ``scatter`` is ``sum_i w_i (g_i - m)(g_i - m)^T`` with m the weighted mean if ``centred``, else 0. Of a full
    scatter only the lower triangle is kept; the rest stays zero. ``counts[ROWS]`` and the scalars ``WEIGHT``,
    ``WEIGHT_SQUARES``, ``LOSS`` hold finished blocks only; the ``BLOCK_*`` entries hold the open one.

    While a block is open, its scatter about ``block_shift`` is in ``block_scatter`` where there is one
    (``layout.has_block_buffer``), else already in ``scatter``, not yet corrected. ``close_block`` folds it in.
    """

    structure: Structure
    centred: bool
    scatter: AnyArray | None
    """(p, p) lower triangle, (p,) for "diagonal", None for "sum"; float64 or float32."""
    location: Float64Array
    """(p,): the mean of the finished blocks if ``centred``, else their weighted sum of rows."""
    block_scatter: AnyArray | None
    """Same shape and dtype as ``scatter``, or None."""
    block_shift: Float64Array
    """(p,): the provisional shift of the open block; zero if not ``centred``."""
    block_sum: Float64Array
    """(p,): weighted sum of ``g_i - block_shift`` over the open block."""
    scalars: Float64Array
    counts: npt.NDArray[np.int64]
    vectors: Float64Array | None = field(default=None, kw_only=True)
    """The memory of the five arrays above in one piece, so that a copy is one; None on a device."""

    @classmethod
    def over(
        cls,
        structure: Structure,
        centred: bool,
        scatter: AnyArray | None,
        block_scatter: AnyArray | None,
        vectors: Float64Array,
    ) -> MomentState:
        """A state whose vectors are parts of ``vectors``, (3 p + 8,)."""
        p = (vectors.size - N_SCALARS - N_COUNTS) // 3
        counts = vectors[3 * p + N_SCALARS :].view(np.int64)
        return cls(
            structure,
            centred,
            scatter,
            vectors[:p],
            block_scatter,
            vectors[p : 2 * p],
            vectors[2 * p : 3 * p],
            vectors[3 * p : 3 * p + N_SCALARS],
            counts,
            vectors=vectors,
        )

    @classmethod
    def empty(
        cls, n_parameters: int, structure: Structure, *, centred: bool, dtype: npt.DTypeLike = np.float64
    ) -> MomentState:
        p = n_parameters
        shape = (p, p) if structure == "full" else (p,) if structure == "diagonal" else None
        return cls.over(
            structure,
            centred,
            None if shape is None else np.zeros(shape, dtype),
            np.zeros(shape, dtype) if shape is not None and layout.has_block_buffer(p) else None,
            np.zeros(3 * p + N_SCALARS + N_COUNTS),
        )

    @property
    def n_parameters(self) -> int:
        p: int = self.location.shape[0]
        return p

    @property
    def slab_rows(self) -> int:
        return layout.slab_rows(self.n_parameters, self.structure)

    def arrays(self) -> dict[str, AnyArray]:
        """Every array of the state by name, those that are None left out; not copies."""
        named = {
            "scatter": self.scatter,
            "location": self.location,
            "block_scatter": self.block_scatter,
            "block_shift": self.block_shift,
            "block_sum": self.block_sum,
            "scalars": self.scalars,
            "counts": self.counts,
        }
        return {name: array for name, array in named.items() if array is not None}

    def copy(self) -> MomentState:
        assert self.vectors is not None
        return MomentState.over(
            self.structure,
            self.centred,
            None if self.scatter is None else self.scatter.copy(),
            None if self.block_scatter is None else self.block_scatter.copy(),
            self.vectors.copy(),
        )

    def assign(self, other: MomentState) -> None:
        """Write the numbers of ``other``, a state of the same kind, into the arrays of this one."""
        assert self.vectors is not None
        assert other.vectors is not None
        if self.scatter is not None:
            self.scatter[...] = other.scatter
        if self.block_scatter is not None:
            self.block_scatter[...] = other.block_scatter
        self.vectors[...] = other.vectors


@dataclass(slots=True)
class Waiting:
    """The rows of a stream that do not fill a slab yet, formed, in one half of the room for two slabs.

    Where a slab gets full, the rows that wait after it lie in the other half: a step that fails leaves those from
    before as they were.
    """

    rows: AnyArray
    """(2, slab_rows, p) of the compute type: ``rows[half, :n]`` wait, all others mean nothing."""
    weights: Float64Array | None = None
    """(2, slab_rows), or None where the weights of the rows that wait are all one."""
    n: int = 0
    half: int = 0

    @classmethod
    def empty(cls, state: MomentState, compute_dtype: np.dtype[Any]) -> Waiting:
        return cls(np.empty((2, state.slab_rows, state.n_parameters), compute_dtype))

    def as_rows(self) -> tuple[Rows, Float64Array | None]:
        weights = None if self.weights is None else self.weights[self.half, : self.n]
        return Rows(self.rows[self.half, : self.n]), weights

    def noted(self) -> Waiting:
        """Which rows wait: not a copy of them."""
        return Waiting(self.rows, self.weights, self.n, self.half)

    def copy(self) -> Waiting:
        new = Waiting(np.empty_like(self.rows), None, self.n, self.half)
        new.rows[self.half, : self.n] = self.rows[self.half, : self.n]
        if self.weights is not None:
            new.weights = self.weights.copy()
        return new

    def room_for_weights(self, weighted: bool) -> Float64Array | None:
        """Where weights of rows to come go, and those of the rows that wait are; ``weighted`` if they have any."""
        if weighted:
            return np.ones(self.rows.shape[:2]) if self.weights is None else self.weights
        return self.weights if self.n else None

    def advance(self, n: int, weights: Float64Array | None, weighted: bool) -> None:
        """``n`` rows have come, of which those after the last full slab are in their half."""
        slab = self.rows.shape[1]
        n += self.n
        if n >= slab:
            n %= slab
            self.half = 1 - self.half
            if not weighted:
                weights = None
        self.n, self.weights = n, weights


class BatchMoments(NamedTuple):
    """Sums over one batch of rows, finished: nothing can be added to them."""

    scatter: AnyArray | None
    """(p, p), the lower triangle or all of it; (p,) for "diagonal", None for "sum"."""
    location: Float64Array
    """(p,): the mean if centred, else the weighted sum of rows."""
    loss: float

    @classmethod
    def of(cls, state: MomentState) -> BatchMoments:
        """Those of a state without an open block."""
        return cls(state.scatter, state.location, float(state.scalars[LOSS]))


class NonFiniteRow(Exception):
    """Raised by a backend at the first row that is not finite; ``index`` counts from the rows of the call."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


@dataclass(frozen=True, slots=True)
class PairWeights:
    """The weights ``s_pq`` (n,) of the blocks of an outer-row Gram matrix, for n rows and every pair of outputs.

    ``s_pq = c e_p e_q`` where not ``curvature`` (rows ``e (x) a``), else ``s_pq = c e_p (delta_pq - e_q)``: the Hessian
    of a softmax loss with probabilities e.
    """

    errors: Float64Array
    """(n, k), C-contiguous: e."""
    row_weight: Float64Array | None = None
    """(n,): c, ones where None."""
    curvature: bool = False


@dataclass(frozen=True, slots=True)
class KroneckerFactor:
    """A symmetric matrix (k, k) for each of n rows, ``left_i^T right_i``, or ``right_i`` itself."""

    right: Float64Array
    """(n, r, k)"""
    left: Float64Array | None = None
    """(n, r, k), or None for the identity, r = k."""


class Backend(Protocol):
    """The table of operations. One implementation each for cpu, numba and reference.

    ``threads`` is a bound, never a condition: results do not depend on it.
    """

    name: str

    def accumulate(
        self, rows: Rows, weights: Float64Array | None, state: MomentState, *, threads: int
    ) -> None:
        """Add rows to ``state`` in the order that ``layout`` fixes.

        The open block holds a whole number of slabs (``counts[BLOCK_ROWS] % state.slab_rows == 0``). A number of
        rows that is no multiple of it ends in a short slab, after which only ``close_block`` may follow. Blocks
        that are complete are closed on the way. With kind ``"hessian"`` the row's own weight multiplies
        ``weights``. ``location``, the weights and ``LOSS`` have the same bits for every structure, and weights of
        one the same as None. ``LOSS`` sums ``c_i l(eta_i, y_i)`` without ``weights``; ``WEIGHT`` sums the product
        of both weights (the number of rows where there is neither).

        Raises NonFiniteRow; ``state`` is then undefined, and the caller restores it.
        """

    def moments(
        self,
        rows: Rows,
        weights: Float64Array | None,
        structure: Structure,
        *,
        centred: bool,
        dtype: np.dtype[Any],
        scale: float | None,
        threads: int,
    ) -> BatchMoments:
        """``accumulate`` from an empty state, ``close_block``, and with ``scale`` ``symmetrize`` of a full scatter in
        place: a batch of little data in one call. Same bits as in steps; raises NonFiniteRow.
        """

    def extend(
        self,
        rows: Rows,
        weights: Float64Array | None,
        state: MomentState,
        waiting: Waiting,
        *,
        threads: int,
    ) -> None:
        """Go on with a stream: ``accumulate`` the slabs that are full with ``rows``, and leave the others ``waiting``.

        The bits are those of the rows in one call, however they come. Rows of a narrower compute type than
        ``waiting`` has wait slab by slab, in the wider one. ``LOSS`` and ``BLOCK_LOSS`` are 0 after: rows that wait
        leave their loss behind, so a sum over the others means nothing.

        Raises NonFiniteRow. After any error ``state`` is undefined, and the caller restores it; ``waiting`` is as it
        was.
        """

    def close_block(self, state: MomentState) -> None:
        """Fold the open block into the totals; nothing if it is empty. ``counts[BLOCK_ROWS]`` is 0 after."""

    def merge(self, state: MomentState, other: MomentState) -> None:
        """Add ``other`` to ``state`` (Chan's formula). Both have no open block; ``other`` is only read."""

    def symmetrize(self, lower: AnyArray, scale: float, out: AnyArray, *, threads: int) -> None:
        """``out[i, j] = out[j, i] = lower[i, j] * scale`` for i >= j. ``out`` may be ``lower``."""

    def all_finite(self, array: Float64Array, *, threads: int) -> bool:
        """Whether every entry of a C-contiguous float64 array is finite."""

    def materialize(self, rows: Rows, out: AnyArray) -> None:
        """Write the rows, as ``accumulate`` sees them, into ``out`` (n, p), C-contiguous, of the compute type."""

    def first_nonfinite(self, rows: Rows, weights: Float64Array | None, *, threads: int) -> int:
        """Index of the first row (or weight) that is not finite, or -1."""

    def errors(self, rows: Rows, *, threads: int) -> Float64Array:
        """(n, k): ``c_i l'(eta_i, y_i)`` of gradient rows, before it is rounded to the compute type."""

    def norms(self, rows: Rows, *, threads: int) -> Float64Array:
        """(n,): Euclidean norms of the rows, in float64."""

    def matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        """``G @ vectors`` for C-contiguous (p, m): (n, m)."""

    def rmatvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        """``G.T @ vectors`` for C-contiguous (n, m): (p, m).

        A row that is not finite raises NonFiniteRow, or shows in the result.
        """

    def gram_matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        """``G.T @ (G @ vectors)`` for C-contiguous (p, m): (p, m), from one read of ``X``."""

    def group_sums(self, rows: Rows, groups: Groups, out: AnyArray, *, threads: int) -> None:
        """Write the sums of the groups (see ``Groups``) over dense ``rows`` into ``out`` (m, k * width).

        ``out`` is C-contiguous, of the compute type. A sum is one chain in float64 in the order of the draws, and
        is rounded to the compute type once. Where the compute type is float32, each ``layout.SHORT_CHAIN`` draws from
        the first of a group on may be a chain in float32, with factors rounded to it, and those chains one in float64.
        Draws are within the rows, unless the caller changed the array since it was checked: that is an InputError.
        """

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
        """Add ``A~^T diag(s_pq) A~`` to block (p, q) of ``out``, for all pairs of outputs.

        ``A`` (n, m) is C-contiguous, float32 or float64; A~ is A, with a column of ones at its end if
        ``unit_column``; ``out`` is (k w, k w) with w the columns of A~. The blocks are symmetric in both senses, so a
        quarter of the product is computed. A matrix comes in pieces of whole slabs (but for the last piece): ``begin``
        says that this is the first, and ``out`` holds rubbish; ``end`` that it is the last, and leaves ``out``
        complete and symmetric. In between only the backend knows what ``out`` holds.
        """

    def kronecker_sums(
        self, A: Float64Array, factors: Sequence[KroneckerFactor], out: Float64Array, *, threads: int
    ) -> None:
        """Add ``sum_i (L_i^T R_i) (x) a_i a_i^T`` to ``out[f]``, for every factor f: the entries that differ.

        ``A`` (n, m) and the factors are C-contiguous and finite. ``out`` is (factors, k (k + 1) / 2, m (m + 1) / 2),
        C-contiguous: pairs q <= r of outputs by pairs i <= l of columns of A, both in the order of ``np.triu_indices``.
        In matrices ``out[f] += W^T U`` with rows ``(L_i^T R_i)_qr`` and ``a_i a_l``, neither of which need be stored.
        Rows are cut into slabs from the first on.
        """

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
        """(n_rows,): ``sum_{x' > x} mu(x') eps(x, x')^2`` for the first inputs x (all by default), with
        ``eps(x, x') = sum_{y, y'} |P_h(h(x) = y, h(x') = y') - q^-2|``.

        ``labels`` (n_targets, n_inputs) is C-contiguous and below q; ``input_weights`` mu is (n_inputs,), and
        ``target_weights`` (n_targets,) has the sum one, or is None for equal ones; fewer than 2^31 targets. With None
        the joint counts are integers, and ``eps`` is rounded once.
        """
