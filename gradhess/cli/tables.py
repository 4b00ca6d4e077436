"""Tables on disk, whatever their format: names of columns, which are numeric, and chunks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy.typing as npt

from gradhess.errors import InputError

AnyArray = npt.NDArray[Any]

CHUNK_BYTES: Final = 8 << 20
CHUNK_MAX_ROWS: Final = 1 << 17
CHUNK_MIN_ROWS: Final = 256

NOTHING: Final = "nothing"
"""What a column of a file holds that has a type for columns without values."""

CSV_SUFFIXES: Final = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
FEATHER_SUFFIXES: Final = (".feather", ".arrow", ".ipc")


class Table(Protocol):
    """Rows and named columns, read in chunks."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def not_numeric(self) -> Mapping[int, str]:
        """Columns that hold no numbers, by position, and what they hold instead."""

    @property
    def samples(self) -> Mapping[int, str]:
        """Of columns of text, where it is cheap to know: the first value that is no number, and where it is."""

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know about the file."""

    def without_values(self) -> Sequence[int]:
        """Numeric columns without any value, if the format leaves types to be guessed; this may read the file."""

    @property
    def n_rows(self) -> int | None:
        """None where counting would mean reading."""

    def read(
        self, features: Sequence[int], target: int, chunk_rows: int
    ) -> Iterator[tuple[AnyArray, AnyArray]]:
        """Chunks ``(X, y)`` of at most ``chunk_rows`` rows, missing values as NaN."""


def default_chunk_rows(n_columns: int) -> int:
    """Rows that make about ``CHUNK_BYTES`` of float64."""
    return max(min(CHUNK_BYTES // (8 * n_columns), CHUNK_MAX_ROWS), CHUNK_MIN_ROWS)


def open_table(path: Path) -> Table:
    """The table of a file, by the ending of its name.

    Raises
    ------
    InputError
        There is no such file, its ending is unknown, or it does not hold what the ending says.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one file")
    if not path.exists():
        raise InputError(f"there is no file {path}")
    name = path.name.lower()
    if name.endswith(".npy"):
        from gradhess.cli.npy_table import NpyTable

        return NpyTable(path)
    from gradhess.cli import arrow_table

    if name.endswith(CSV_SUFFIXES):
        return arrow_table.open_csv(path)
    if name.endswith(PARQUET_SUFFIXES):
        return arrow_table.open_parquet(path)
    if name.endswith(FEATHER_SUFFIXES):
        return arrow_table.open_feather(path)
    known = ", ".join((*CSV_SUFFIXES, *PARQUET_SUFFIXES, *FEATHER_SUFFIXES, ".npy"))
    hint = "; save one array as .npy" if name.endswith(".npz") else ""
    raise InputError(f"{path.name} is of no known format; the ending must be one of {known}{hint}")
