"""Narrow rows into a ``MomentState``: several blocks are the job of a thread, as one takes a few microseconds."""

from __future__ import annotations

from typing import Any, Final

from gradhess._backends.layout import BLOCK_ROWS, SLAB_ROWS
from gradhess._backends.numba import narrow_kernels, workers
from gradhess._backends.numba.moments import Block, Blocks, close_block, fold_narrow
from gradhess._backends.numba.row_source import MAX_GROUP_ROWS, RowSource
from gradhess._backends.protocol import BLOCK_ROWS as OPEN_ROWS
from gradhess._backends.protocol import ROWS, MomentState, NonFiniteRow

GROUP_BYTES: Final = 1 << 21
"""Rows that are handled together take about as much: more than elsewhere, since calls cost more than caches here."""
JOBS_PER_THREAD: Final = 8
"""At least, where there are so many blocks, so that threads finish together."""
ROUND_BYTES: Final = 1 << 22
"""Blocks wait for their turn to be added to the totals while they and those before them take no more, or one for each
thread."""
TEAM_WORK: Final = 5_000_000
"""Multiply-adds that are worth a second thread."""
JOB_WORK: Final = 2_000_000
"""Multiply-adds of a job, at least: threads that take one wait for each other, some 50 us."""
ROW_WORK: Final = 40
"""What a row costs beside its products, in multiply-adds."""


def add_blocks(source: RowSource, state: MomentState, threads: int) -> None:
    n = source.rows.n_samples
    opened = int(state.counts[OPEN_ROWS])
    slab_bytes = SLAB_ROWS * source.features * source.dtype.itemsize
    slabs = max(1, GROUP_BYTES // slab_bytes)
    open_block = Block.of(state)
    if opened + n <= BLOCK_ROWS:  # no other block is needed, and nothing has to wait for its turn
        _require_finite(_add_span(source, (0, n), state, Blocks.of(open_block), slabs * SLAB_ROWS))
        state.counts[OPEN_ROWS] = opened + n
        if opened + n == BLOCK_ROWS:
            close_block(state)
        return

    head = min(BLOCK_ROWS - opened, n) if opened else 0
    whole = -(-(n - head) // BLOCK_ROWS)
    many = min(GROUP_BYTES // (slab_bytes * (BLOCK_ROWS // SLAB_ROWS)), MAX_GROUP_ROWS // BLOCK_ROWS)
    if _work(state, n) < TEAM_WORK:
        threads = 1
    else:
        many = min(many, max(whole // (threads * JOBS_PER_THREAD), JOB_WORK // _work(state, BLOCK_ROWS)))
    many = max(1, min(many, whole))
    group = min(many * BLOCK_ROWS, slabs * SLAB_ROWS)
    spans = [(0, head)] if head else []
    spans += [(at, min(at + many * BLOCK_ROWS, n)) for at in range(head, n, many * BLOCK_ROWS)]

    slots = max(1, min(len(spans), max(threads, ROUND_BYTES // (many * (open_block.scatter.nbytes + 1)))))
    rooms = [Blocks.like(open_block, many) for _ in range(slots)]

    for first in range(0, len(spans), slots):
        batch = spans[first : first + slots]
        bad = [-1] * len(batch)

        def add(slot: int, batch: list[tuple[int, int]] = batch, bad: list[int] = bad) -> None:
            rooms[slot].clear()
            if head and batch[slot][0] == 0:
                open_block.copy_to(rooms[slot].at(0))
            bad[slot] = _add_span(source, batch[slot], state, rooms[slot], group)

        workers.run(len(batch), add, threads)
        for slot, (start, stop) in enumerate(batch):
            _require_finite(bad[slot])
            before = opened if start == 0 else 0
            _commit(state, rooms[slot], before + stop - start)


def _work(state: MomentState, n: int) -> int:
    p = state.n_parameters
    return n * (ROW_WORK + (p * (p + 1) // 2 if state.structure == "full" else p))


def _require_finite(bad: int) -> None:
    if bad >= 0:
        raise NonFiniteRow(bad)


def _add_span(
    source: RowSource, span: tuple[int, int], state: MomentState, blocks: Blocks, group: int
) -> int:
    """Add rows to blocks, a group at a time: some blocks, or slabs of one. The first row that is not finite, or -1."""
    start, stop = span
    add: Any = narrow_kernels.add_blocks
    plain = source.weights is None and source.rows.kind != "hessian"
    for at in range(start, stop, group):
        end = min(at + group, stop)
        b = (at - start) // BLOCK_ROWS
        bad = add(
            *source.place(at, end), source.rows.unit_column, *source.slab_terms(at, end), plain, state.centred,
            state.structure == "diagonal", blocks.scatter[b:], blocks.shift[b:], blocks.total[b:], blocks.totals[b:],
        )  # fmt: skip
        if bad >= 0:
            found = source.find_bad(source.terms(at, end), (at, end), bad)
            if found >= 0:
                return found
    return -1


def _commit(state: MomentState, blocks: Blocks, rows: int) -> None:
    """Add the blocks that are full to the totals; the last one, if it is not, becomes the open block."""
    complete, rest = divmod(rows, BLOCK_ROWS)
    if complete:
        fold_narrow(state, blocks, complete)
        state.counts[ROWS] += complete * BLOCK_ROWS
    if rest:
        last = blocks.at(complete)
        last.rows = rest
        last.store(state)
    else:
        Block.of(state).clear()
        state.counts[OPEN_ROWS] = 0
