"""The arguments of ``grouped``: every way to say which rows are in which group becomes offsets and indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradhess import _validation as check
from gradhess._arrays import as_numpy
from gradhess._backends.groups import Indices
from gradhess._backends.protocol import AnyArray, Float64Array
from gradhess.errors import InputError, InputTypeError


@dataclass(frozen=True, slots=True)
class ResolvedGroups:
    """Draws in the order of the groups."""

    offsets: Indices
    """(m + 1,)."""
    indices: Indices | None
    """(t,); None where draw t is row t."""
    shape: tuple[int, ...]
    """That of one number for each draw."""
    order: npt.NDArray[np.intp] | None = None
    """(n,): of labelled rows, which row each draw is; what the caller gives for rows is put in this order."""
    ragged: bool = False
    """Whether the caller's groups are a list of arrays."""

    @property
    def count(self) -> int:
        return len(self.offsets) - 1


def resolve(groups: Any, group_size: int | None, offsets: Any, n_rows: int) -> ResolvedGroups:
    """Offsets and indices, checked against the number of rows."""
    if (groups is None) == (group_size is None):
        raise InputError("pass either groups or group_size")
    if group_size is not None:
        if offsets is not None:
            raise InputError("offsets belong to groups, not to group_size")
        return _consecutive(check.count(group_size, "group_size", 1), n_rows)
    if isinstance(groups, (list, tuple)) and offsets is None and not groups:
        return _listed(groups, n_rows)
    if isinstance(groups, (list, tuple)) and groups and np.ndim(groups[0]) == 1 and _is_ragged(groups):
        if offsets is not None:
            raise InputError("offsets belong to one array of groups, not to a list of arrays")
        return _listed(groups, n_rows)
    array = groups if isinstance(groups, np.ndarray) else np.asarray(groups)
    if array.ndim == 1 and offsets is None:
        return _labelled(array, n_rows)
    indices = _row_numbers(array, "groups", n_rows)
    if offsets is not None:
        if array.ndim != 1:
            raise InputError(f"with offsets, groups must be (t,), and it has shape {array.shape}")
        return ResolvedGroups(_offsets(offsets, len(indices)), indices, indices.shape)
    if array.ndim != 2:
        raise InputError(
            f"groups has shape {array.shape}; it must be (m, b), a list of arrays, or labels (n,)"
        )
    m, b = array.shape
    return ResolvedGroups(np.arange(m + 1, dtype=np.int64) * b, indices.reshape(-1), array.shape)


def per_draw(value: Any, name: str, groups: ResolvedGroups) -> Float64Array | None:
    """(t,) contiguous float64 in the order of the draws, or None."""
    if value is None:
        return None
    if groups.ragged and isinstance(value, (list, tuple)) and any(np.ndim(part) for part in value):
        lengths = [np.size(part) for part in value]
        if lengths != np.diff(groups.offsets).tolist():
            raise InputError(f"{name} must hold arrays of the same lengths as groups")
        value = np.concatenate([np.ravel(part) for part in value])
    array = as_numpy(value, name)
    flat = (int(np.prod(groups.shape)),)
    if array.shape not in (groups.shape, flat):
        raise InputError(
            f"{name} has shape {array.shape}, but the groups have shape {groups.shape}: one number for each draw"
        )
    flattened = check.finite(np.require(array, np.float64, ["C", "A"]), name).reshape(-1)
    return flattened if groups.order is None else flattened[groups.order]


def per_group(array: AnyArray, name: str, count: int) -> Float64Array:
    """(m,) contiguous float64."""
    if array.shape != (count,):
        raise InputError(
            f"{name} has shape {array.shape}, but there are {count} groups: it must be ({count},)"
        )
    return check.finite(np.require(array, np.float64, ["C", "A"]), name)


def _is_ragged(groups: Any) -> bool:
    return len({len(part) for part in groups}) > 1 or not len(groups[0])


def _consecutive(size: int, n_rows: int) -> ResolvedGroups:
    if n_rows % size:
        rest = n_rows % size
        raise InputError(
            f"group_size is {size}, but {n_rows} rows leave {rest} over; pass the first {n_rows - rest} rows"
        )
    return ResolvedGroups(np.arange(0, n_rows + 1, size, dtype=np.int64), None, (n_rows,))


def _listed(groups: Any, n_rows: int) -> ResolvedGroups:
    parts = [np.asarray(part) for part in groups]
    for number, part in enumerate(parts):
        if part.ndim != 1:
            raise InputError(f"groups[{number}] has shape {part.shape}; it must be a list of rows")
    filled = [_row_numbers(part, "groups", n_rows) for part in parts if part.size]
    indices = np.concatenate(filled) if filled else np.zeros(0, np.int64)
    offsets = np.concatenate(
        [np.zeros(1, np.int64), np.cumsum([len(part) for part in parts], dtype=np.int64)]
    )
    return ResolvedGroups(offsets, indices, indices.shape, ragged=True)


def _labelled(labels: AnyArray, n_rows: int) -> ResolvedGroups:
    if labels.shape != (n_rows,):
        raise InputError(
            f"groups has shape {labels.shape}, but there are {n_rows} rows: without offsets, it holds the label of "
            "every row; the rows of each group are (m, b), or a list of arrays"
        )
    if labels.dtype.kind not in "iubSU":
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise InputError("groups holds labels that are NaN or infinite")
        if labels.dtype.kind == "O" and not any(
            all(isinstance(label, kind) for label in labels) for kind in (str, int)
        ):
            raise InputTypeError("groups holds labels that are neither all text nor all integers")
    _, which = np.unique(labels, return_inverse=True)
    order = np.argsort(which, kind="stable")
    counts = np.bincount(which) if n_rows else np.zeros(0, np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return ResolvedGroups(offsets, order.astype(np.int64), (n_rows,), order=order)


def _row_numbers(array: AnyArray, name: str, n_rows: int) -> Indices:
    """Contiguous int64 of the same shape, all within the rows."""
    if array.dtype.kind not in "iu" and array.size:
        raise InputTypeError(f"{name} has dtype {array.dtype}; it must hold integers, the numbers of rows")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{name} names row {array.max()}, but there are {n_rows} rows")
    indices = np.require(array, np.int64, ["C", "A"])
    # Seen as unsigned, a negative number is larger than any row: one pass finds both.
    if indices.size and int(indices.view(np.uint64).max()) >= n_rows:
        outside = indices[(indices < 0) | (indices >= n_rows)]
        raise InputError(
            f"{name} names row {outside.flat[0]}, but there are {n_rows} rows, 0 to {n_rows - 1}"
        )
    return indices


def _offsets(value: Any, n_draws: int) -> Indices:
    array = as_numpy(value, "offsets")
    if array.dtype.kind not in "iu":
        raise InputTypeError(f"offsets has dtype {array.dtype}; it must hold integers")
    if array.ndim != 1 or not array.size:
        raise InputError(f"offsets has shape {array.shape}; it must be (m + 1,)")
    offsets = np.require(array, np.int64, ["C", "A"])
    if offsets[0] != 0 or offsets[-1] != n_draws or (np.diff(offsets) < 0).any():
        raise InputError(
            f"offsets must begin with 0, not decrease, and end with the {n_draws} draws of groups"
        )
    return offsets
