"""The compiled CPU backend: a thin layer over ``gradhess._cpu`` (csrc/cpu), which picks the instruction set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gradhess._backends import layout
from gradhess._backends.custom_loss import require_second, vector_cfuncs
from gradhess._backends.groups import Groups, changed_groups
from gradhess._backends.loss_formulas import SCALAR_LOSSES
from gradhess._backends.protocol import (
    FLOAT32,
    AnyArray,
    BatchMoments,
    Float64Array,
    KroneckerFactor,
    LossSpec,
    MomentState,
    NonFiniteRow,
    PairWeights,
    Rows,
    Structure,
    Waiting,
)
from gradhess._backends.stepwise import batch_moments, extend
from gradhess.errors import BackendError, InputError

try:
    from gradhess import _cpu
except ImportError as error:
    raise ImportError(
        f"the compiled module gradhess._cpu does not load ({error}); "
        "it is absent where gradhess was installed with GRADHESS_COMPILED=off"
    ) from error

# Codes of csrc/cpu/job.hpp.
_LOSSES: Final = {name: code for code, name in enumerate([*SCALAR_LOSSES, "softmax", "custom"])}
_KINDS: Final = {"dense": 0, "gradient": 1, "hessian": 2}
_STRUCTURES: Final = {"full": 0, "diagonal": 1, "sum": 2}
_NO_FUNCTIONS: Final = (0, 0, 0)

_isa: int = 0
_forked: bool = False


def available_isas() -> tuple[str, ...]:
    """Instruction sets that were compiled in and that this processor has, best first."""
    return _cpu.isa_names()


def active_isa() -> str:
    return available_isas()[_isa]


def _mark_forked() -> None:
    global _forked  # noqa: PLW0603  a fact about the process
    _forked = True


# OpenMP's threads do not survive a fork, and a team that counts on them would wait for ever: a forked child (a worker
# of a PyTorch DataLoader, say) computes on the thread that calls. Results do not depend on it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def _team(threads: int) -> int:
    return 1 if _forked else threads


def _select(name: str) -> None:
    global _isa  # noqa: PLW0603  one process-wide choice, made at import or by tests
    if name not in available_isas():
        raise BackendError(
            f"GRADHESS_ISA={name!r} is not available here; available: {', '.join(available_isas())}"
        )
    _isa = available_isas().index(name)


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Force an instruction set within a ``with`` block, for the whole process."""
    before = active_isa()
    _select(name)
    try:
        yield
    finally:
        _select(before)


def _function_addresses(spec: LossSpec, kind: str) -> tuple[int, int, int]:
    if spec.functions is None:
        return _NO_FUNCTIONS
    if kind == "hessian":
        require_second(spec)
    return vector_cfuncs(spec).addresses


def _rows(rows: Rows) -> _cpu.Rows:
    spec = rows.loss
    return _cpu.rows(
        rows.X,
        _KINDS[rows.kind],
        rows.unit_column,
        -1 if spec is None else _LOSSES[spec.name],
        0.0 if spec is None else spec.parameter,
        rows.y,
        rows.coef,
        rows.intercept,
        rows.loss_weight,
        _NO_FUNCTIONS if spec is None else _function_addresses(spec, rows.kind),
    )


def _moments(state: MomentState) -> _cpu.Moments:
    return _cpu.moments(
        _STRUCTURES[state.structure],
        state.centred,
        state.scatter,
        state.location,
        state.block_scatter,
        state.block_shift,
        state.block_sum,
        state.scalars,
        state.counts,
    )


class CpuBackend:
    """C++ kernels; see ``gradhess._backends.protocol.Backend`` for what each method does."""

    name = "cpu"

    def accumulate(
        self, rows: Rows, weights: Float64Array | None, state: MomentState, *, threads: int
    ) -> None:
        bad = _cpu.accumulate(
            _rows(rows), weights, _moments(state), state.slab_rows, layout.BLOCK_ROWS, _team(threads), _isa
        )
        if bad >= 0:
            raise NonFiniteRow(bad)

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
        p = rows.n_parameters
        if not layout.has_block_buffer(p):  # a large result: its memory is a matter for NumPy
            return batch_moments(
                self, rows, weights, structure, centred=centred, dtype=dtype, scale=scale, threads=threads
            )
        found = _cpu.batch_moments(
            _rows(rows),
            weights,
            _STRUCTURES[structure],
            centred,
            dtype.itemsize == FLOAT32.itemsize,
            scale,
            layout.slab_rows(p, structure),
            layout.BLOCK_ROWS,
            _team(threads),
            _isa,
        )
        if isinstance(found, int):
            raise NonFiniteRow(found)
        return BatchMoments(*found)

    def extend(
        self,
        rows: Rows,
        weights: Float64Array | None,
        state: MomentState,
        waiting: Waiting,
        *,
        threads: int,
    ) -> None:
        if rows.compute_dtype is not waiting.rows.dtype:
            extend(self, rows, weights, state, waiting, threads=threads)
            return
        weighted = weights is not None
        room = waiting.room_for_weights(weighted)
        bad = _cpu.extend(
            _rows(rows),
            weights,
            _moments(state),
            waiting.rows,
            room,
            waiting.n,
            waiting.half,
            layout.BLOCK_ROWS,
            _team(threads),
            _isa,
        )
        if bad >= 0:
            raise NonFiniteRow(bad)
        waiting.advance(rows.n_samples, room, weighted)

    def close_block(self, state: MomentState) -> None:
        _cpu.close_block(_moments(state))

    def merge(self, state: MomentState, other: MomentState) -> None:
        _cpu.merge(_moments(state), _moments(other))

    def symmetrize(self, lower: AnyArray, scale: float, out: AnyArray, *, threads: int) -> None:
        _cpu.symmetrize(lower, scale, out, _team(threads), _isa)

    def all_finite(self, array: Float64Array, *, threads: int) -> bool:
        return _cpu.all_finite(array, _team(threads))

    def materialize(self, rows: Rows, out: AnyArray) -> None:
        _cpu.materialize(_rows(rows), out, _isa)

    def first_nonfinite(self, rows: Rows, weights: Float64Array | None, *, threads: int) -> int:
        return _cpu.first_nonfinite(_rows(rows), weights, _team(threads), _isa)

    def errors(self, rows: Rows, *, threads: int) -> Float64Array:
        return _cpu.errors(_rows(rows), _team(threads), _isa)

    def norms(self, rows: Rows, *, threads: int) -> Float64Array:
        return _cpu.norms(_rows(rows), _team(threads), _isa)

    def matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        return _cpu.multiply(_rows(rows), *_by_output(rows, vectors), _team(threads), _isa)

    def rmatvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        out = _cpu.multiply_transposed(_rows(rows), vectors, None, None, _team(threads), _isa)
        return _by_parameter(out)

    def gram_matvec(self, rows: Rows, vectors: Float64Array, *, threads: int) -> Float64Array:
        out = _cpu.multiply_transposed(_rows(rows), None, *_by_output(rows, vectors), _team(threads), _isa)
        return _by_parameter(out)

    def group_sums(self, rows: Rows, groups: Groups, out: AnyArray, *, threads: int) -> None:
        bad = _cpu.group_sums(
            _rows(rows),
            groups.offsets,
            groups.indices,
            groups.slopes,
            groups.factors,
            groups.shifts,
            groups.scale,
            out,
            _team(threads),
            _isa,
        )
        if bad >= 0:
            raise InputError(changed_groups(rows.n_samples))

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
        e, c = pairs.errors, pairs.row_weight
        slab = layout.slab_rows(len(out), "full")
        _cpu.outer_gram(A, unit_column, e, c, pairs.curvature, out, begin, end, slab, _team(threads), _isa)

    def kronecker_sums(
        self, A: Float64Array, factors: Sequence[KroneckerFactor], out: Float64Array, *, threads: int
    ) -> None:
        pairs = [(factor.left, factor.right) for factor in factors]
        _cpu.kronecker_sums(A, pairs, out, layout.WIDE_SLAB_ROWS, _team(threads), _isa)

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
        rows = labels.shape[1] if n_rows is None else n_rows
        return _cpu.pair_dependence(labels, q, input_weights, target_weights, rows, _team(threads), _isa)


def _by_output(rows: Rows, vectors: Float64Array) -> tuple[Float64Array, Float64Array | None]:
    """(p, m) as (m, k, d), and apart from it the entries of the unit column, (m, k)."""
    by_output = np.ascontiguousarray(vectors.T).reshape(vectors.shape[1], rows.n_outputs, -1)
    if not rows.unit_column:
        return by_output, None
    return np.ascontiguousarray(by_output[:, :, :-1]), np.ascontiguousarray(by_output[:, :, -1])


def _by_parameter(products: Float64Array) -> Float64Array:
    """(m, k, width) as (p, m)."""
    return np.ascontiguousarray(products.reshape(len(products), -1).T)


def load() -> CpuBackend:
    """The backend, with the instruction set that ``GRADHESS_ISA`` names or the best one."""
    forced = os.environ.get("GRADHESS_ISA")
    if forced:
        _select(forced.lower())
    return CpuBackend()


def describe() -> dict[str, str]:
    """What ``show_config`` prints."""
    return {
        "instruction set": active_isa(),
        "available": ", ".join(available_isas()),
        "compiler": _cpu.compiler(),
    }
