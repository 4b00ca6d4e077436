"""Device memory of the stand-in: guarded, poisoned, and known by address."""

from __future__ import annotations

import ctypes
import weakref

import numpy as np

GUARD = 256
PATTERN = 0xA5
_live: weakref.WeakValueDictionary[int, Allocation] = weakref.WeakValueDictionary()


class OutOfMemoryError(MemoryError):
    """As ``cupy.cuda.memory.OutOfMemoryError``."""


class Allocation:
    """Bytes on a device, between two guards. New memory is NaN, so that reading what nobody wrote shows."""

    limit: int | None = None
    """Bytes that an allocation may have, for tests of what happens where memory runs out."""

    def __init__(self, nbytes: int, device: int) -> None:
        if Allocation.limit is not None and nbytes > Allocation.limit:
            raise OutOfMemoryError(f"Out of memory allocating {nbytes:,} bytes")
        self.nbytes, self.device = nbytes, device
        self.raw = np.empty(nbytes + 3 * GUARD, np.uint8)
        skip = GUARD + (-(self.raw.ctypes.data + GUARD)) % GUARD
        self.raw[:] = PATTERN
        self.bytes = self.raw[skip : skip + nbytes]
        self.bytes[:] = 0xFF
        self.before, self.after = self.raw[skip - GUARD : skip], self.raw[skip + nbytes :]
        self.ptr = self.raw.ctypes.data + skip
        _live[self.ptr] = self

    def check(self) -> None:
        assert (self.before == PATTERN).all(), "a kernel wrote in front of an array"
        assert (self.after == PATTERN).all(), "a kernel wrote behind an array"


class UnownedMemory:
    """Memory that lives as long as ``owner``; only inside of an allocation."""

    def __init__(self, ptr: int, size: int, owner_object: object, device_id: int = -1) -> None:
        inside = owner(ptr)
        assert device_id in (-1, inside.device)
        start = ptr - inside.ptr
        assert start + size <= inside.nbytes, "memory that reaches beyond its allocation"
        self.ptr, self.nbytes, self.device, self._owner = ptr, size, inside.device, owner_object
        self.bytes = inside.bytes[start : start + size]
        self.bytes[:] = 0xFF


class MemoryPointer:
    def __init__(self, memory: Allocation | UnownedMemory, offset: int) -> None:
        self.mem, self.ptr = memory, memory.ptr + offset
        self.device_id = memory.device


def owner(ptr: int) -> Allocation:
    for allocation in list(_live.values()):
        if allocation.ptr <= ptr < allocation.ptr + max(allocation.nbytes, 1):
            return allocation
    raise AssertionError(f"{ptr:#x} is no address on a device")


def check_all() -> None:
    for allocation in list(_live.values()):
        allocation.check()


def view(ptr: int, rows: int, columns: int, lead: int, dtype: type) -> np.ndarray:
    """A row-major matrix at an address, checked against the end of its allocation."""
    size = np.dtype(dtype).itemsize
    last = ptr + ((rows - 1) * lead + columns) * size
    allocation = owner(ptr)
    assert last <= allocation.ptr + allocation.nbytes, "a matrix reaches beyond its allocation"
    assert lead >= columns, "the leading dimension is smaller than a row"
    count = (rows - 1) * lead + columns
    flat = np.frombuffer((ctypes.c_char * (count * size)).from_address(ptr), dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (lead * size, size))
