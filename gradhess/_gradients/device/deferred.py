"""Rows that were not finite, found on a GPU by calls that did not wait: their errors, kept until somebody asks."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, to_host
from gradhess._device_arrays import Place
from gradhess.errors import NonFiniteError

KEPT: Final = 256
"""Calls whose flags (32 bytes on the device) are kept; of more, the oldest are forgotten."""


class Flag(NamedTuple):
    """What a call left on the device."""

    status: DeviceArray
    place: Place
    what: str

    def raise_if_set(self) -> None:
        """NonFiniteError if a row was not finite; waits for the device."""
        with self.place:
            call, row, *_ = (int(number) for number in to_host(self.status))
        if call >= 0:
            raise nonfinite(row, self.what)


_flags: deque[Flag] = deque(maxlen=KEPT)


def nonfinite(row: int, what: str) -> NonFiniteError:
    return NonFiniteError(
        row,
        f"row {row} of {what} is not finite: it holds NaN or infinity, or its gradient overflows, or its label or "
        "weight is outside of its domain; drop such rows",
    )


def remember(flag: Flag) -> None:
    _flags.append(flag)


def forget(flag: Flag) -> None:
    """The caller looks at it itself."""
    kept = [other for other in _flags if other.status is not flag.status]
    _flags.clear()
    _flags.extend(kept)


def synchronize(device: Any = None) -> None:
    """Wait for a GPU, and raise the first error that calls on its arrays have left there.

    Calls on arrays of a GPU return before they have run, so a row with NaN or infinity cannot raise there: the result
    is NaN then, an ``out`` is as it was, and the error is raised here. (``StreamingCovariance`` raises its own where a
    result is read.) Errors of calls on all devices are looked at.

    Parameters
    ----------
    device : int or str, optional
        ``1`` or ``"cuda:1"``; the current device by default.

    Raises
    ------
    NonFiniteError
        A row was not finite; ``row`` is its index in that call. Asked again, the next such call is raised.
    BackendError
        There is no CuPy.
    """
    xp = cupy()
    number = None if device is None else int(str(device).rpartition(":")[2])
    xp.cuda.Device(number).synchronize()
    while _flags:
        _flags.popleft().raise_if_set()
