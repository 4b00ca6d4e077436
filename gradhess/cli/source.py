"""The columns of a table that a fit uses, as a source of rows without missing values."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from gradhess.cli.tables import AnyArray, Table, default_chunk_rows
from gradhess.errors import InputError

NAMES_SHOWN: Final = 12


class TableSource:
    """Chunks ``(X, y)`` of a table, for ``gradhess._regression.fit``.

    Parameters
    ----------
    table : Table
    target : str
        Name of a column, or its position; -1 is the last.
    features : sequence of str or None
        Names or positions; None for all numeric columns but the target.
    chunk_rows : int or None
        Rows read at a time; None for about 8 MiB.
    drop_missing : bool
        Leave out rows with a missing value in a column in use, and count them, instead of refusing them.
    """

    def __init__(
        self,
        table: Table,
        target: str,
        features: Sequence[str] | None = None,
        *,
        chunk_rows: int | None = None,
        drop_missing: bool = False,
    ) -> None:
        self._table = table
        self._target = _find(target, table, "--target")
        self.notes: list[str] = []
        if features is None:
            self._features = [
                column
                for column in range(len(table.names))
                if column != self._target and column not in table.not_numeric
            ]
            left_out = [name for column, name in enumerate(table.names) if column in table.not_numeric]
            if left_out:
                self.notes.append(f"columns that are not numeric are left out: {_listed(left_out)}")
            if not self._features:
                raise InputError("there is no numeric column besides the target")
        else:
            self._features = [_find(name, table, "--features") for name in features]
            self._refuse_repeated()
        self.feature_names = tuple(table.names[column] for column in self._features)
        self.target_name = table.names[self._target]
        self.n_rows = table.n_rows
        self._chunk_rows = default_chunk_rows(len(self._features) + 1) if chunk_rows is None else chunk_rows
        self._drop_missing = drop_missing
        self.n_dropped = 0
        """Rows left out in the last pass."""

    def __iter__(self) -> Iterator[tuple[AnyArray, AnyArray]]:
        self.n_dropped = 0
        first_row = 0
        for X, y in self._table.read(self._features, self._target, self._chunk_rows):
            keep = None if _all_finite(X, y) else self._complete_rows(X, y, first_row)
            first_row += X.shape[0]
            if keep is None:
                yield X, y
            else:
                self.n_dropped += int(np.count_nonzero(~keep))
                yield X[keep], y[keep]

    def _complete_rows(self, X: AnyArray, y: AnyArray, first_row: int) -> AnyArray:
        """(m,) booleans: rows without a missing value. An infinite value is an error in any case."""
        in_features, in_target = np.isnan(X), np.isnan(y)
        infinite = np.isinf(X), np.isinf(y)
        missing = in_features.any(axis=1) | in_target
        if infinite[0].any() or infinite[1].any():
            self._refuse(*infinite, first_row, "is infinite", "correct the data")
        if missing.any() and not self._drop_missing:
            self._refuse(
                in_features, in_target, first_row, "has no value", "leave such rows out with --drop-missing"
            )
        return ~missing

    def _refuse(
        self, in_features: AnyArray, in_target: AnyArray, first_row: int, what: str, advice: str
    ) -> None:
        row = int(np.argmax(in_features.any(axis=1) | in_target))
        bad = np.flatnonzero(in_features[row])
        name = self.feature_names[bad[0]] if bad.size else self.target_name
        raise InputError(
            f"column {name!r} {what} in row {first_row + row:,} (the first row is 0): "
            f"{advice}, or choose other columns with --features"
        )

    def _refuse_repeated(self) -> None:
        for position, column in enumerate(self._features):
            name = self._table.names[column]
            if column == self._target:
                raise InputError(f"--features: {name!r} is the target")
            if column in self._features[:position]:
                raise InputError(f"--features: {name!r} is given twice")


def _all_finite(X: AnyArray, y: AnyArray) -> bool:
    """Whether everything is finite, told by the sums; False may also mean that a sum overflowed."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(X.sum(dtype=np.float64) + y.sum(dtype=np.float64)))


def _find(wanted: str, table: Table, option: str) -> int:
    """Position of a column given by name or position, which must be numeric."""
    names = list(table.names)
    if wanted in names:
        column = names.index(wanted)
    else:
        try:
            column = range(len(names))[int(wanted)]
        except (ValueError, IndexError):
            raise InputError(f"{option}: there is no column {wanted!r}{_suggestion(wanted, names)}") from None
    kind = table.not_numeric.get(column)
    if kind is not None:
        usable = [name for position, name in enumerate(names) if position not in table.not_numeric]
        raise InputError(
            f"{option}: column {names[column]!r} holds {kind}, not numbers; numeric columns are {_listed(usable)}"
        )
    return column


def _suggestion(wanted: str, names: list[str]) -> str:
    close = difflib.get_close_matches(wanted, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; columns are {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:NAMES_SHOWN])} and {len(names) - NAMES_SHOWN} more"
