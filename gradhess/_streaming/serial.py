"""A stream as plain settings and named arrays, and back: for state files, ``state_dict``, copies and pickles."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess._backends import protocol
from gradhess._backends.layout import BLOCK_ROWS
from gradhess._backends.protocol import AnyArray, MomentState, Waiting
from gradhess._streaming.stream import MomentStream
from gradhess.errors import StateFileError


def pack(stream: MomentStream) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    """Settings that JSON can hold, and arrays by name: not copies."""
    settings = {
        "slab_rows": None if stream.state is None else stream.state.slab_rows,
        "block_rows": BLOCK_ROWS,
        "compute_dtype": None if stream.compute_dtype is None else stream.compute_dtype.name,
        "n_samples_skipped": stream.n_skipped,
    }
    arrays = {} if stream.state is None else stream.state.arrays()
    if stream.waiting is not None and stream.waiting.n:
        rows, weights = stream.waiting.as_rows()
        arrays["pending_rows"] = rows.X
        if weights is not None:
            arrays["pending_weights"] = weights
    return settings, arrays


def unpack(stream: MomentStream, settings: dict[str, Any], arrays: dict[str, AnyArray]) -> None:
    """Fill an empty stream with what ``pack`` returned; takes over the arrays. StateFileError if they do not fit."""
    stream.n_skipped = int(settings.get("n_samples_skipped", 0))
    if not arrays:
        return
    left = dict(arrays)
    pending_rows, pending_weights = left.pop("pending_rows", None), left.pop("pending_weights", None)
    stream.compute_dtype = _compute_dtype(settings.get("compute_dtype"))
    location = left.get("location")
    if location is None or location.ndim != 1:
        raise StateFileError("this state has no array 'location' of one dimension")
    empty = MomentState.empty(
        location.shape[0], stream.structure, centred=stream.centred, dtype=stream.accumulator
    )
    expected = empty.arrays()
    if left.keys() != expected.keys():
        raise StateFileError(
            f"this state holds the arrays {sorted(left)}, and should hold {sorted(expected)}"
        )
    for name, array in left.items():
        _check(name, array, expected[name].shape, expected[name].dtype)
    _check_layout(settings, empty)
    counts = left["counts"]
    if (counts < 0).any() or counts[protocol.BLOCK_ROWS] % empty.slab_rows:
        raise StateFileError(f"this state counts {counts.tolist()} rows, which no stream does")
    stream.waiting = _waiting(pending_rows, pending_weights, empty, stream.compute_dtype)
    for name, array in left.items():
        if name in ("scatter", "block_scatter"):
            setattr(empty, name, array)  # may be large
        else:
            getattr(empty, name)[...] = array
    stream.state = empty


def _check_layout(settings: dict[str, Any], state: MomentState) -> None:
    """Rows that were cut elsewhere cannot be continued bit for bit."""
    theirs, ours = (settings.get("slab_rows"), settings.get("block_rows")), (state.slab_rows, BLOCK_ROWS)
    if theirs != ours:
        raise StateFileError(
            f"this state was summed in slabs of {theirs[0]} and blocks of {theirs[1]} rows, and this release sums in "
            f"{ours[0]} and {ours[1]}; read it with the release that wrote it"
        )


def _compute_dtype(name: Any) -> np.dtype[Any]:
    if name == "float32":
        return np.dtype(np.float32)
    if name == "float64":
        return np.dtype(np.float64)
    raise StateFileError(f"this state was computed in {name!r}, not float32 or float64")


def _waiting(
    rows: AnyArray | None, weights: AnyArray | None, state: MomentState, dtype: np.dtype[Any]
) -> Waiting | None:
    if rows is None:
        return None
    n = rows.shape[0]
    if not 0 < n < state.slab_rows:
        raise StateFileError(f"{n} rows of this state wait for a slab of {state.slab_rows}")
    _check("pending_rows", rows, (n, state.n_parameters), dtype)
    waiting = Waiting.empty(state, dtype)
    waiting.rows[0, :n] = rows
    if weights is not None:
        _check("pending_weights", weights, (n,), np.dtype(np.float64))
        room = waiting.weights = np.ones((2, state.slab_rows))
        room[0, :n] = weights
    waiting.n = n
    return waiting


def _check(name: str, array: AnyArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise StateFileError(
            f"the array {name!r} of this state is {array.dtype} {array.shape}, and should be {dtype} {shape}"
        )
