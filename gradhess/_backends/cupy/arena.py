"""Memory that a call has before it changes anything: the call is rehearsed, and then runs in what that took.

Above ``layout.SNAPSHOT_PARAMETERS`` parameters there is no copy of an accumulator to go back to, so memory may not run
out once the first block was added, nor may a launch be refused. In a *rehearsal* (``launch.rehearsal``) everything
happens but what writes to accumulators: kernels are validated instead of launched, and products left out. All
memory that is asked for within ``Arena.used``, by CuPy's own operations, too, comes from the arena and goes back there;
the call itself asks for the same, and finds it there.

A request takes the smallest piece that is large enough. If each of several requests is at most as large as one of the
rehearsal that was alive beside the same others, all of them fit, in whatever order they come.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradhess._backends.cupy.launch import cupy


class Arena:
    """Pieces of device memory for the arrays of one call in one stream."""

    def __init__(self) -> None:
        self._more = cupy().cuda.get_allocator()
        self._free: list[_Piece] = []
        self._open = True

    @contextmanager
    def used(self) -> Iterator[Arena]:
        """CuPy's arrays of this thread are made here; at the end the memory of those that died goes back to CuPy."""
        try:
            with cupy().cuda.using_allocator(self._allocate):
                yield self
        finally:
            self._open = False
            self._free.clear()

    def _allocate(self, n_bytes: int) -> Any:
        at = bisect_left(self._free, n_bytes, key=_size)
        piece = self._free.pop(at) if at < len(self._free) else _Piece(self._more(n_bytes), n_bytes)
        cuda = cupy().cuda
        memory = cuda.UnownedMemory(piece.memory.ptr, n_bytes, _Lease(self, piece), cuda.get_device_id())
        return cuda.MemoryPointer(memory, 0)

    def take_back(self, piece: _Piece) -> None:
        if self._open:
            insort(self._free, piece, key=_size)


class _Piece:
    def __init__(self, memory: Any, size: int) -> None:
        self.memory, self.size = memory, size


def _size(piece: _Piece) -> int:
    return piece.size


class _Lease:
    """Lives as long as the memory of an array."""

    def __init__(self, arena: Arena, piece: _Piece) -> None:
        self._arena, self._piece = arena, piece

    def __del__(self) -> None:
        self._arena.take_back(self._piece)
