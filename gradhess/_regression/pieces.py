"""Passes over a source of rows, in pieces that do not depend on how the source cuts them.

A source hands out chunks of any size. They are copied into one buffer of float64, and a piece is handed on whenever
the buffer is full. Its length follows from the number of columns alone, so every sum over pieces has the same bits for
any chunking of the same rows; and no more than a chunk and a piece is ever in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from gradhess._backends.layout import BLOCK_ROWS, SLAB_ROWS
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError

PIECE_BYTES: Final = 16 << 20
"""Of a piece, unless ``SLAB_ROWS`` rows are more: many blocks for the threads to share, and little beside the data."""


class Source(Protocol):
    """Rows that can be read as often as needed: every ``iter()`` starts a new pass over the same rows."""

    @property
    def feature_names(self) -> Sequence[str]: ...

    @property
    def target_name(self) -> str: ...

    @property
    def n_rows(self) -> int | None:
        """How many rows a pass will bring, where that is known beforehand; for a progress bar alone."""

    def __iter__(self) -> Iterator[tuple[AnyArray, AnyArray]]:
        """Chunks ``(X, y)`` of shapes (m, d) and (m,), finite real numbers of any dtype and strides."""


class Progress(Protocol):
    """Is told how far a fit has come."""

    def start(self, title: str, n_rows: int | None) -> None:
        """A pass begins; ``n_rows`` is None where its length is not known."""

    def advance(self, n_rows: int) -> None:
        """So many more rows of the pass are done."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the rows, timed."""

    title: str
    n_rows: int
    n_parameters: int
    seconds: float
    reading_seconds: float
    """The part of ``seconds`` that the source took, with the copy into pieces."""

    @property
    def rows_per_second(self) -> float:
        return self.n_rows / max(self.seconds, 1e-9)

    @property
    def gflops(self) -> float:
        """GFLOP/s while computing, a pass counted as one symmetric second moment: ``n p (p + 1)``."""
        flops = self.n_rows * self.n_parameters * (self.n_parameters + 1)
        return flops / max(self.seconds - self.reading_seconds, 1e-9) / 1e9


def piece_rows(n_columns: int) -> int:
    """Rows of a piece with ``n_columns`` columns: whole blocks if one fits ``PIECE_BYTES``, else whole slabs."""
    rows = PIECE_BYTES // (8 * n_columns)
    unit = BLOCK_ROWS if rows >= BLOCK_ROWS else SLAB_ROWS
    return max(rows // unit, 1) * unit


class Reader:
    """Reads a source, pass by pass, and keeps the times."""

    def __init__(self, source: Source, progress: Progress | None = None) -> None:
        if isinstance(source, Iterator):
            raise InputError("the source can be read only once; pass something that can be iterated again")
        self.feature_names = tuple(source.feature_names)
        self.target_name = source.target_name
        self.passes: list[Pass] = []
        self._source = source
        self._progress = progress
        self._n_rows: int | None = None

    def read(self, title: str, n_parameters: int) -> Iterator[Float64Array]:
        """Pieces ``[X, y]`` of shape (m, d + 1), each valid until the next is asked for.

        Raises
        ------
        InputError
            The source brought another number of rows than in the first pass.
        """
        if self._progress is not None:
            self._progress.start(title, self._source.n_rows if self._n_rows is None else self._n_rows)
        began = resumed = time.perf_counter()
        n_rows, reading = 0, 0.0
        for piece in self._pieces():
            reading += time.perf_counter() - resumed
            yield piece
            n_rows += piece.shape[0]
            if self._progress is not None:
                self._progress.advance(piece.shape[0])
            resumed = time.perf_counter()
        ended = time.perf_counter()
        if self._n_rows is None:
            self._n_rows = n_rows
        elif n_rows != self._n_rows:
            raise InputError(
                f"the data changed while being read: {self._n_rows:,} rows in the first pass, now {n_rows:,}"
            )
        self.passes.append(Pass(title, n_rows, n_parameters, ended - began, reading + ended - resumed))

    def _pieces(self) -> Iterator[Float64Array]:
        n_columns = len(self.feature_names) + 1
        size = piece_rows(n_columns)
        buffer = np.empty((size, n_columns))
        filled = 0
        for X, y in self._source:
            start = 0
            while start < X.shape[0]:
                n = min(size - filled, X.shape[0] - start)
                buffer[filled : filled + n, :-1] = X[start : start + n]
                buffer[filled : filled + n, -1] = y[start : start + n]
                start, filled = start + n, filled + n
                if filled == size:
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]
