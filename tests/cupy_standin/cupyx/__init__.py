"""What gradhess uses of ``cupyx``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_allowed = [True]


class DeviceSynchronized(RuntimeError):
    pass


@contextmanager
def allow_synchronize(allow: bool) -> Iterator[None]:
    """Within ``allow_synchronize(False)`` a wait of the host is an error."""
    _allowed.append(allow)
    try:
        yield
    finally:
        _allowed.pop()


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> Any:
    return np.empty(shape, dtype, order)
