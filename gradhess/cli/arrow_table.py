"""CSV, Parquet and Feather files, streamed with pyarrow: only the columns in use, a few batches at a time.

Each format has its own reader here. A ``pyarrow.dataset`` reads them all, but it runs ahead of a slow consumer, by
whole row groups of Parquet and without bound in Feather, so that files larger than memory would not fit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.ipc
import pyarrow.parquet

from gradhess.cli.tables import NOTHING, AnyArray
from gradhess.errors import InputError

PAGE_BUFFER_BYTES: Final = 1 << 18
"""Read at a time from each column of a Parquet file."""

SEARCHED_ROWS: Final = 1 << 16
SAMPLE_LENGTH: Final = 24
NO_HEADER: Final = (
    "every name of a column is a number: is the first line, which is taken for the names, data?"
)

Batches: TypeAlias = Callable[[list[str], int], Iterator[Any]]

_CSV_ERROR: Final = re.compile(
    r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to \S+ invalid value '(.*)'", re.DOTALL
)
_OUTER_WORDS: Final = re.compile(r".*input source '.*': (Invalid: )?")


class ArrowTable:
    """Record batches of a schema that can be read again and again.

    ``batches(names, rows)`` starts a pass over the columns of those names, in any order, in batches of at most so many
    rows. ``head`` is the first of them, if types were guessed from it: it may lack values that come later.
    """

    def __init__(
        self, schema: Any, label: str, n_rows: int | None, batches: Batches, head: Any | None = None
    ) -> None:
        self.names = tuple(schema.names)
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            hint = "; is there a line of names?" if _all_numbers(self.names) else ""
            raise InputError(f"{label} has several columns called {repeated[0]!r}{hint}")
        self.not_numeric = {
            position: _kind(field.type)
            for position, field in enumerate(schema)
            if not _is_numeric(field.type)
        }
        self.samples = {} if head is None else _text_samples(head)
        self.notes = (NO_HEADER,) if head is not None and _all_numbers(self.names) else ()
        self._unknown = (
            [] if head is None else [p for p, f in enumerate(head.schema) if pa.types.is_null(f.type)]
        )
        self.n_rows = n_rows
        self._label = label
        self._batches = batches

    def without_values(self) -> Sequence[int]:
        """Those that the guess knew nothing about, less those that have a value further on."""
        names = [self.names[column] for column in self._unknown]
        empty = set(names)
        with _readable(self._label, self.names):
            for batch in self._batches(names, SEARCHED_ROWS) if names else ():
                empty -= {name for name in empty if batch.column(name).null_count < batch.num_rows}
                if not empty:
                    break
        self._unknown = [column for column in self._unknown if self.names[column] in empty]
        return self._unknown

    def read(
        self, features: Sequence[int], target: int, chunk_rows: int
    ) -> Iterator[tuple[AnyArray, AnyArray]]:
        names = [self.names[column] for column in (*features, target)]
        with _readable(self._label, self.names):
            for batch in self._batches(names, chunk_rows):
                if batch.num_rows:
                    X = np.empty((batch.num_rows, len(features)), order="F")
                    for position, name in enumerate(names[:-1]):
                        X[:, position] = _as_float64(batch.column(name))
                    yield X, _as_float64(batch.column(names[-1]))


def open_csv(path: Path) -> ArrowTable:
    """A CSV file with a header line, separated by commas, semicolons or tabs; the header shows which."""
    with _readable(path.name, ()):
        parse = pyarrow.csv.ParseOptions(delimiter=_delimiter(path))
        with pyarrow.csv.open_csv(path, parse_options=parse) as reader:
            # Types are guessed from the first block. Integers there may be followed by fractions, nothing by anything.
            schema = pa.schema([_widened(field) for field in reader.schema])
            head = next(iter(reader), None)

        def read(names: list[str], *, use_threads: bool) -> Any:
            convert = pyarrow.csv.ConvertOptions(
                include_columns=names, column_types={name: schema.field(name).type for name in names}
            )
            threads = pyarrow.csv.ReadOptions(use_threads=use_threads)
            return pyarrow.csv.open_csv(path, threads, parse, convert)

        def batches(names: list[str], rows: int) -> Iterator[Any]:
            try:
                for batch in read(names, use_threads=True):
                    yield from _cut(batch, rows)
            except pa.ArrowInvalid:
                for _ in read(
                    names, use_threads=False
                ):  # only without threads does the error say in which line
                    pass
                raise

        return ArrowTable(schema, path.name, None, batches, head)


def open_feather(path: Path) -> ArrowTable:
    """A Feather (Arrow IPC) file, batch by batch."""

    def batches(names: list[str], rows: int) -> Iterator[Any]:
        with pyarrow.ipc.open_file(pa.OSFile(str(path))) as file:
            wanted = pyarrow.ipc.IpcReadOptions(
                included_fields=[file.schema.get_field_index(name) for name in names]
            )
        with pyarrow.ipc.open_file(pa.OSFile(str(path)), options=wanted) as file:
            for number in range(file.num_record_batches):
                yield from _cut(file.get_batch(number), rows)

    with _readable(path.name, ()):
        dataset = pyarrow.dataset.dataset(path, format="feather")
        return ArrowTable(dataset.schema, path.name, dataset.count_rows(), batches)


def open_parquet(path: Path) -> ArrowTable:
    """A Parquet file, page by page."""

    def batches(names: list[str], rows: int) -> Iterator[Any]:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=PAGE_BUFFER_BYTES) as file:
            yield from file.iter_batches(batch_size=rows, columns=names)

    with _readable(path.name, ()), pyarrow.parquet.ParquetFile(path) as file:
        return ArrowTable(file.schema_arrow, path.name, file.metadata.num_rows, batches)


def from_memory(table: Any, label: str) -> ArrowTable:
    """A ``pyarrow.Table``."""

    def batches(names: list[str], rows: int) -> Iterator[Any]:
        return iter(table.select(names).to_batches(max_chunksize=rows))

    return ArrowTable(table.schema, label, table.num_rows, batches)


def _cut(batch: Any, rows: int) -> Iterator[Any]:
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _all_numbers(names: Sequence[str]) -> bool:
    return all(_is_number(name) for name in names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text_samples(head: Any) -> dict[int, str]:
    """The first value in each column of text that is not a number, as ``'N/A?' in line 12``."""
    missing = set(pyarrow.csv.ConvertOptions().null_values)
    samples = {}
    for position, column in enumerate(head.columns):
        if not pa.types.is_string(column.type):
            continue
        for row in range(len(column)):
            value = column[row].as_py()
            if value is not None and value not in missing and not _is_number(value):
                shown = value if len(value) <= SAMPLE_LENGTH else f"{value[:SAMPLE_LENGTH]}..."
                samples[position] = f"{shown!r} in line {row + 2}"  # the header is line 1
                break
    return samples


def _widened(field: Any) -> Any:
    to_float = pa.types.is_integer(field.type) or pa.types.is_null(field.type)
    return field.with_type(pa.float64()) if to_float else field


def _as_float64(column: Any) -> AnyArray:
    """Any numeric column; missing values become NaN, integers beyond 2^53 are rounded."""
    converted: AnyArray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return converted


def _is_numeric(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    )


def _kind(kind: Any) -> str:
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_dictionary(kind):
        return "categories"
    if types.is_temporal(kind):
        return f"times ({kind})"
    return NOTHING if types.is_null(kind) else str(kind)


def _delimiter(path: Path) -> str:
    with pa.input_stream(str(path), compression="detect") as stream:
        header = stream.read(1 << 16).split(b"\n", 1)[0]
    return max(",;\t", key=lambda mark: header.count(mark.encode()))


@contextmanager
def _readable(label: str, names: Sequence[str]) -> Iterator[None]:
    """pyarrow's errors in words that a user of the command line can act on."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{label} is not encoded as UTF-8: {error}") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError) as error:
        message = str(error)
        match = _CSV_ERROR.search(message)
        if match is None:
            cause = _OUTER_WORDS.sub("", message.splitlines()[0])
            raise InputError(f"{label} cannot be read: {cause}") from None
        number, line, value = match.groups()
        column = names[int(number)] if int(number) < len(names) else f"#{number}"
        where = f" in line {line}" if line else ""
        raise InputError(
            f"column {column!r} of {label} holds {value!r}{where}, which is no number; "
            f"correct it, or choose other columns with --features"
        ) from None
