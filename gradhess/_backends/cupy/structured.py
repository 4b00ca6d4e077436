"""Rows of layers, embeddings and groups on the device: formed block by block, and dense from there on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.group_sums import group_sums
from gradhess._backends.cupy.launch import cupy, table
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.groups import Groups
from gradhess._backends.row_shapes import GroupedShape, OuterShape


@dataclass(slots=True, eq=False)
class DeviceStructuredRows(DeviceRows):
    """``kind`` is ``"structured"``."""

    @abstractmethod
    def expand(self, out: DeviceArray) -> None:
        """Write the rows into ``out`` (n, p), C-contiguous, of the compute type."""


@dataclass(slots=True, eq=False)
class DeviceOuterRows(OuterShape, DeviceStructuredRows):
    """``outer_rows.OuterRows`` on a device: X (n, m) or (n, T, m), errors alike with k."""

    errors: DeviceArray = field(kw_only=True)
    mask: DeviceArray | None = None

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
class DeviceGroupedRows(GroupedShape, DeviceStructuredRows):
    """``grouped_rows.GroupedRows`` on a device: ``groups`` holds device arrays, ``count`` is that of ``offsets``."""

    groups: Groups = field(kw_only=True)
    count: int = field(kw_only=True)

    @property
    def n_samples(self) -> int:
        return self.count

    def take(self, which: Any) -> DeviceRows:
        start, stop, _ = which.indices(self.count)
        stop = max(start, stop)
        return replace(self, groups=self.groups.slice(start, stop), count=stop - start)

    def expand(self, out: DeviceArray) -> None:
        group_sums(self, self.groups, out)
