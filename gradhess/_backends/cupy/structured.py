"""Rows of layers, embeddings and groups on the device: formed block by block, and dense from there on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, table
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.cupy.slopes import plain, strides
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import FLOAT32, FLOAT64


@dataclass(slots=True, eq=False)
class DeviceStructuredRows(DeviceRows):
    """``kind`` is ``"structured"``."""

    @abstractmethod
    def expand(self, out: DeviceArray) -> None:
        """Write the rows into ``out`` (n, p), C-contiguous, of the compute type."""


@dataclass(slots=True, eq=False)
class DeviceOuterRows(DeviceStructuredRows):
    """``outer_rows.OuterRows`` on a device: X (n, m) or (n, T, m), errors alike with k."""

    errors: DeviceArray = field(kw_only=True)
    mask: DeviceArray | None = None

    @property
    def n_outputs(self) -> int:
        return int(self.errors.shape[-1])

    @property
    def steps(self) -> int:
        return int(self.X.shape[1]) if self.X.ndim == 3 else 1

    @property
    def width(self) -> int:
        return int(self.X.shape[-1]) + int(self.unit_column)

    @property
    def n_parameters(self) -> int:
        return self.width * self.n_outputs

    @property
    def compute_dtype(self) -> np.dtype[Any]:
        narrow = all(array.dtype.kind == "f" and array.dtype.itemsize <= 4 for array in (self.X, self.errors))
        return FLOAT32 if narrow else FLOAT64

    def take(self, which: Any) -> DeviceRows:
        mask = None if self.mask is None else self.mask[which]
        return replace(self, X=self.X[which], errors=self.errors[which], mask=mask)

    def expand(self, out: DeviceArray) -> None:
        n, dtype = self.n_samples, self.compute_dtype
        table(
            "outer_rows",
            dtype,
            n,
            self.n_parameters,
            cupy().ascontiguousarray(self.X, dtype),
            cupy().ascontiguousarray(self.errors, dtype),
            None if self.mask is None else cupy().ascontiguousarray(self.mask),
            n,
            self.steps,
            int(self.X.shape[-1]),
            bool(self.unit_column),
            self.n_outputs,
            out,
        )


@dataclass(slots=True, eq=False)
class DeviceSelectedRows(DeviceStructuredRows):
    """``selected_rows.SelectedRows`` on a device: X (n, T, d) are the values."""

    ids: DeviceArray = field(kw_only=True)
    n_entries: int = field(kw_only=True)

    @property
    def n_parameters(self) -> int:
        return self.n_entries * int(self.X.shape[2])

    def take(self, which: Any) -> DeviceRows:
        return replace(self, X=self.X[which], ids=self.ids[which])

    def expand(self, out: DeviceArray) -> None:
        out.fill(0)
        n, steps, features = self.X.shape
        values = cupy().ascontiguousarray(self.X, self.compute_dtype)
        ids = cupy().ascontiguousarray(self.ids)
        table(
            "selected_rows", values.dtype, n, features, values, ids, n, steps, features, self.n_entries, out
        )


@dataclass(slots=True, eq=False)
class DeviceGroupedRows(DeviceStructuredRows):
    """``grouped_rows.GroupedRows`` on a device: ``groups`` holds device arrays, ``count`` is that of ``offsets``."""

    groups: Groups = field(kw_only=True)
    count: int = field(kw_only=True)

    @property
    def n_samples(self) -> int:
        return self.count

    @property
    def n_outputs(self) -> int:
        return self.groups.n_outputs

    @property
    def n_parameters(self) -> int:
        return (int(self.X.shape[1]) + int(self.unit_column)) * self.groups.n_outputs

    def take(self, which: Any) -> DeviceRows:
        start, stop, _ = which.indices(self.count)
        stop = max(start, stop)
        return replace(self, groups=self.groups.slice(start, stop), count=stop - start)

    def expand(self, out: DeviceArray) -> None:
        X = plain(self)
        flag = cupy().zeros(1, np.int64)  # draws were checked when the groups were made
        groups = self.groups
        table(
            "group_sums",
            X.dtype,
            self.count,
            self.n_parameters,
            X,
            int(X.shape[0]),
            int(X.shape[1]),
            *strides(X),
            bool(self.unit_column),
            groups.offsets,
            groups.indices,
            groups.slopes,
            groups.factors,
            groups.shifts,
            groups.scale,
            groups.n_outputs,
            self.count,
            flag,
            out,
        )
