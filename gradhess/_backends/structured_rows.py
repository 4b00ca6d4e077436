"""Rows that know their own structure: what they must be able to say, so that every backend can serve them.

Their contractions are made of matrix products, which NumPy hands to BLAS, in float64 and a few MiB of rows at a time.
Only moments need rows as such: these are formed a few slabs at a time (``structured_backend``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self, cast

from gradhess._backends.protocol import AnyArray, Float64Array, Rows

WORK_BYTES: Final = 4 << 20
"""What a contraction holds of rows, or of their factors, at a time."""
PAIR_ROWS: Final = 1024
"""Rows, at most, on each side of a tile of ``G G^T``."""
PAIR_BYTES: Final = 16 << 20
"""Rows that are formed for one side of a tile."""


def formed_pair_rows(n_parameters: int) -> int:
    """Rows on each side of a tile of ``G G^T`` where they are formed."""
    return min(PAIR_ROWS, max(PAIR_BYTES // (8 * n_parameters), 1))


@dataclass(slots=True, eq=False)
class StructuredRows(Rows):
    """``kind`` is ``"structured"``; the other fields of ``Rows`` that a subclass does not name mean nothing.

    ``threads`` plays no part here: BLAS has its own. The order of summation is fixed by the shapes.
    """

    @abstractmethod
    def expand(self, out: AnyArray) -> None:
        """Write the rows into ``out`` (n, p), of the compute type, or float64."""

    @abstractmethod
    def bad_rows(self) -> AnyArray:
        """(n,) booleans: which rows are not finite in the compute type."""

    @abstractmethod
    def norms(self) -> Float64Array:
        """(n,)."""

    @abstractmethod
    def matvec(self, vectors: Float64Array) -> Float64Array:
        """(n, M) for (p, M)."""

    @abstractmethod
    def rmatvec(self, vectors: Float64Array) -> Float64Array:
        """(p, M) for (n, M)."""

    @abstractmethod
    def squares(self) -> Float64Array:
        """(p,): ``diag(G^T G)``."""

    @property
    def pair_rows(self) -> int:
        """Rows that ``inner_products`` should be given on each side."""
        return formed_pair_rows(self.n_parameters)

    @abstractmethod
    def inner_products(self, other: Self) -> Float64Array:
        """(n, n') products of these rows with those of ``other``, rows of the same kind and width."""

    def gram_matvec(self, vectors: Float64Array) -> Float64Array:
        """``G^T (G V)``."""
        return self.rmatvec(self.matvec(vectors))

    def portion(self, start: int, stop: int) -> Self:
        """``slice``, of the same type."""
        return cast(Self, self.slice(start, stop))

    def portions(self, numbers_per_row: int) -> Iterator[tuple[slice, Self]]:
        """Ranges of rows of which each has ``numbers_per_row`` float64 numbers, within ``WORK_BYTES``."""
        step = max(1, WORK_BYTES // (8 * max(numbers_per_row, 1)))
        for start in range(0, self.n_samples, step):
            stop = min(start + step, self.n_samples)
            yield slice(start, stop), self.portion(start, stop)
