"""The columns of a table that a fit uses, as a source of rows without missing values."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from gradhess.cli.tables import NOTHING, AnyArray, Table, default_chunk_rows
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
        self.notes: list[str] = list(table.notes)
        if features is None:
            self._features = self._all_features()
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
        self._has_value = np.zeros(len(self._features) + 1, np.bool_)
        """Of features and target, in the chunks of the last pass that lack something."""

    def __iter__(self) -> Iterator[tuple[AnyArray, AnyArray]]:
        self.n_dropped = 0
        self._has_value[:] = False
        first_row = 0
        for X, y in self._table.read(self._features, self._target, self._chunk_rows):
            keep = None if _all_finite(X, y) else self._complete_rows(X, y, first_row)
            first_row += X.shape[0]
            if keep is None:
                yield X, y
            else:
                self.n_dropped += int(np.count_nonzero(~keep))
                yield X[keep], y[keep]
        if 0 < first_row == self.n_dropped:
            self._refuse_nothing_left(first_row)

    def _all_features(self) -> list[int]:
        """The numeric columns besides the target; notes say which others there are, and why they are left out."""
        table = self._table
        nothing = {column for column, kind in table.not_numeric.items() if kind == NOTHING}
        empty = nothing | set(table.without_values()) - {self._target}
        text = [column for column in table.not_numeric if column not in empty]
        left_out = [
            f"{table.names[column]} ({table.samples[column]})"
            if column in table.samples
            else table.names[column]
            for column in sorted(text)
        ]
        if left_out:
            self.notes.append(f"columns that are not numeric are left out: {_listed(left_out)}")
        if empty:
            names = _listed([table.names[column] for column in sorted(empty)])
            self.notes.append(
                f"column {names} has no values and is left out"
                if len(empty) == 1
                else f"columns that have no values are left out: {names}"
            )
        unusable = {self._target, *text, *empty}
        features = [column for column in range(len(table.names)) if column not in unusable]
        if not features:
            others = f"; left out: {_listed(left_out)}" if left_out else ""
            raise InputError(f"there is no numeric column besides the target{others}")
        return features

    def _refuse_nothing_left(self, n_rows: int) -> None:
        names = (*self.feature_names, self.target_name)
        empty = [name for name, has_value in zip(names, self._has_value, strict=True) if not has_value]
        if not empty:
            why = f"each of the {n_rows:,} lacks a value in some column"
        elif len(empty) == 1:
            why = f"column {empty[0]!r} has no values"
        else:
            why = f"columns without any value are {_listed(empty)}"
        raise InputError(f"there are no rows to fit: {why}; choose other columns with --features")

    def _complete_rows(self, X: AnyArray, y: AnyArray, first_row: int) -> AnyArray:
        """(m,) booleans: rows without a missing value. An infinite value is an error in any case."""
        in_features, in_target = np.isnan(X), np.isnan(y)
        infinite = np.isinf(X), np.isinf(y)
        missing = in_features.any(axis=1) | in_target
        self._has_value |= np.append(~in_features.all(axis=0), not in_target.all())
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
        sample = f" ({table.samples[column]})" if column in table.samples else ""
        raise InputError(
            f"{option}: column {names[column]!r} holds {kind}{sample}, not numbers; "
            f"numeric columns are {_listed(usable)}"
        )
    return column


def _suggestion(wanted: str, names: list[str]) -> str:
    close = difflib.get_close_matches(wanted, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; columns are {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:NAMES_SHOWN])} and {len(names) - NAMES_SHOWN} more"
