"""Streams between the host and GPUs: the same arrays under the same names, so a file does not say where it came from.

A stream on a GPU has closed blocks and waiting rows only. Its rows that wait go into a stream of the host as rows that
come in; of a stream of the host the open block is closed, exactly, and the rows of its last slab wait on the GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess import _device_memory
from gradhess._backends import layout as host_layout
from gradhess._backends import registry
from gradhess._backends.cupy import layout
from gradhess._backends.cupy.launch import device_errors, set_from_host, to_host
from gradhess._backends.cupy.moments import moments
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import LOSS, ROWS, AnyArray, Structure
from gradhess._device_arrays import Place
from gradhess._streaming import serial
from gradhess._streaming.device_stream import DeviceStream, from_host
from gradhess._streaming.stream import MomentStream
from gradhess.errors import StateFileError

Packed = tuple[dict[str, Any], dict[str, AnyArray]]
_TOTALS = 3
"""Entries of ``scalars`` that are not of an open block."""


def pack(stream: MomentStream | DeviceStream) -> Packed:
    """Settings that JSON can hold, and arrays of the host by name: copies, of a stream on a GPU."""
    if isinstance(stream, MomentStream):
        return serial.pack(stream)
    stream.check()
    state = stream.state
    settings = {
        "slab_rows": None if state is None else layout.block_rows(state.n_parameters),
        "block_rows": layout.BLOCK_ROWS,
        "compute_dtype": None if stream.compute_dtype is None else stream.compute_dtype.name,
        "n_samples_skipped": stream.n_skipped,
        "layout": "gpu",
    }
    if state is None:
        return settings, {}
    p = state.n_parameters
    inside = stream.n_skipped - stream.skipped_before
    with stream.ordered():
        arrays = {
            "location": to_host(state.location),
            "block_shift": np.zeros(p),
            "block_sum": np.zeros(p),
            "scalars": np.concatenate([to_host(state.scalars), np.zeros(3)]),
            "counts": np.array([int(state.counts[ROWS]), 0]),
        }
        arrays["scalars"][LOSS] = 0  # rows that waited came without theirs
        arrays["counts"][ROWS] -= inside  # rows that were skipped count nowhere but in n_samples_skipped
        if state.scatter is not None:
            scatter = to_host(state.scatter)
            arrays["scatter"] = np.tril(scatter) if scatter.ndim == 2 else scatter
            if host_layout.has_block_buffer(p):
                arrays["block_scatter"] = np.zeros_like(scatter)
        if stream.waiting:
            rows, weights = stream.waiting_rows()
            arrays["pending_rows"] = to_host(rows.X)
            if weights is not None:
                arrays["pending_weights"] = to_host(weights)
    return settings, arrays


def unpack(stream: MomentStream, settings: dict[str, Any], arrays: dict[str, AnyArray]) -> None:
    """``serial.unpack``, also of what was packed on a GPU."""
    if settings.get("layout") != "gpu":
        serial.unpack(stream, settings, arrays)
        return
    totals = dict(arrays)
    rows, weights = totals.pop("pending_rows", None), totals.pop("pending_weights", None)
    p = totals["location"].shape[-1] if "location" in totals else 1
    plain = {
        **settings,
        "slab_rows": host_layout.slab_rows(p, stream.structure),
        "block_rows": host_layout.BLOCK_ROWS,
    }
    serial.unpack(stream, plain, totals)
    if rows is not None:
        from gradhess._backends.protocol import Rows

        if rows.ndim != 2 or rows.shape[1] != p or (weights is not None and weights.shape != (len(rows),)):
            raise StateFileError(f"the rows of this state that wait have shape {rows.shape}")
        stream.add(Rows(rows), weights)


def to_device(
    packed: Packed, structure: Structure, *, centred: bool, accumulator: np.dtype[Any], place: Place
) -> DeviceStream:
    """A stream on a GPU from what ``pack`` returned, copied there."""
    settings, arrays = packed
    stream = DeviceStream(structure, centred=centred, accumulator=accumulator, place=place)
    host = MomentStream(structure, centred=centred, accumulator=accumulator)
    rows, weights = arrays.get("pending_rows"), arrays.get("pending_weights")
    if settings.get("layout") == "gpu":
        unpack(
            host, settings, {name: array for name, array in arrays.items() if not name.startswith("pending")}
        )
    else:
        serial.unpack(host, settings, arrays)
        host.waiting = None
    stream.skipped_before = host.n_skipped
    if host.state is None:
        return stream
    totals = host.state.copy()
    registry.active().close_block(totals)
    p = totals.n_parameters
    with stream.ordered(), device_errors("a state"):
        _device_memory.require_stream(p, structure, accumulator)
        state = stream.state = moments(p, structure, centred=centred, dtype=accumulator)
        if state.scatter is not None:
            set_from_host(state.scatter, totals.scatter)
        set_from_host(state.location, totals.location)
        set_from_host(state.scalars, totals.scalars[:_TOTALS])
        state.counts[ROWS] = totals.counts[ROWS]
        stream.compute_dtype = host.compute_dtype
        if rows is not None:
            moved = DeviceRows(from_host(np.ascontiguousarray(rows)))
            stream.add(moved, None if weights is None else from_host(np.ascontiguousarray(weights)))
    return stream
