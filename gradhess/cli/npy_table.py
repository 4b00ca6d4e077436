"""``.npy`` files, memory-mapped: larger than memory is fine.

Pages of the file that were read stay in the resident memory of the process until the system needs the room, which
looks like a leak and trips memory limits. So after each chunk its pages are given back; the file stays cached.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from gradhess.cli.tables import AnyArray
from gradhess.errors import InputError

MAGIC: Final = b"\x93NUMPY"
FAULT_AROUND: Final = 2 << 20
"""The system maps up to a huge page around the one that is touched, so that much is given back on both sides."""


class NpyTable:
    """The rows of a two-dimensional array; columns are called x0, x1, ..."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{path.name} is no .npy file")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(f"{path.name} cannot be read as a .npy file: {error}") from None
        if array.ndim != 2 or array.shape[1] == 0:
            raise InputError(f"{path.name} has shape {array.shape}; it must be (rows, columns)")
        if array.dtype.kind not in "fiub":
            raise InputError(f"{path.name} has dtype {array.dtype}; it must hold real numbers")
        self._array = array
        self.names = tuple(f"x{column}" for column in range(array.shape[1]))
        self.not_numeric: dict[int, str] = {}
        self.samples: dict[int, str] = {}
        self.notes: tuple[str, ...] = ()
        self.n_rows: int | None = int(array.shape[0])

    def without_values(self) -> Sequence[int]:
        return ()

    def read(
        self, features: Sequence[int], target: int, chunk_rows: int
    ) -> Iterator[tuple[AnyArray, AnyArray]]:
        array = self._array
        selection = _as_slice(features)
        for start in range(0, array.shape[0], chunk_rows):
            block = array[start : start + chunk_rows]
            yield np.asarray(block[:, selection]), np.asarray(block[:, target])
            self._give_back(start, start + block.shape[0])

    def _give_back(self, start: int, stop: int) -> None:
        """Drop the pages of these rows from the resident memory; they are clean, so nothing is lost."""
        mapping: Any = getattr(self._array, "_mmap", None)
        if mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        n_rows, n_columns = self._array.shape
        itemsize = self._array.itemsize
        # np.memmap maps from the last page boundary before the data.
        data = self._array.offset % mmap.ALLOCATIONGRANULARITY
        if self._array.flags.c_contiguous:
            runs = [(data + start * n_columns * itemsize, (stop - start) * n_columns * itemsize)]
        else:
            first = data + start * itemsize
            runs = [
                (first + column * n_rows * itemsize, (stop - start) * itemsize) for column in range(n_columns)
            ]
        for offset, length in runs:
            first_byte = max(offset - FAULT_AROUND, 0)
            page = first_byte - first_byte % mmap.PAGESIZE
            mapping.madvise(
                mmap.MADV_DONTNEED, page, min(offset + length + FAULT_AROUND, len(mapping)) - page
            )


def _as_slice(columns: Sequence[int]) -> Any:
    """Neighbouring columns as a slice, which is a view; others as a list, which copies the chunk."""
    if list(columns) == list(range(columns[0], columns[0] + len(columns))):
        return slice(columns[0], columns[0] + len(columns))
    return list(columns)
