"""Results of a stream on a GPU: finished there, returned there; numbers of Python, and errors, cost one wait."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, device_errors, empty, to_host, zeros
from gradhess._backends.cupy.moments import DeviceMoments
from gradhess._backends.cupy.pieces import spans
from gradhess._backends.cupy.products import row_squares
from gradhess._backends.protocol import FLOAT64, WEIGHT, WEIGHT_SQUARES, AnyArray
from gradhess._device_arrays import give_back
from gradhess._gradients.device import DeviceGradients, device_rows
from gradhess._gradients.device.base import device_backend
from gradhess._streaming.device_stream import DeviceStream
from gradhess.errors import InputError

ZERO_ROWS = 256
"""As ``SLAB_ROWS`` of the host: a variance within the rounding of so many rows at its mean counts as zero."""
CHUNK_BYTES = 64 << 20


class DeviceResults:
    """Reads one stream, which has seen rows."""

    def __init__(self, stream: DeviceStream, library: str) -> None:
        self.stream, self.library = stream, library

    def location(self) -> Any:
        with self.stream.ordered():
            return give_back(self._location(*self._finished(sums_only=True)), self.library)

    def weight(self) -> float:
        return float(self._finished(sums_only=True)[1][WEIGHT])

    def covariance(self, ddof: int) -> Any:
        with self.stream.ordered():
            return give_back(self._covariance(ddof)[0], self.library)

    def second_moment(self) -> Any:
        with self.stream.ordered():
            state, scalars = self._finished()
            moment = self._scaled(state, 1.0 / self._positive(scalars))
            if state.centred:
                mean: Any = state.location
                if moment.ndim == 1:
                    moment += (mean * mean).astype(moment.dtype)
                else:
                    for start, stop in spans(int(mean.shape[0]), 1024):  # no second (p, p) array
                        moment[start:stop] += (mean[start:stop, None] * mean[None, :]).astype(moment.dtype)
            return give_back(moment, self.library)

    def precision(self, ddof: int) -> Any:
        with self.stream.ordered():
            values, vectors, cutoff, _ = self._spectrum(ddof)
            if vectors is None:
                kept = values > cutoff
                safe = cupy().where(kept, values, 1.0)
                return give_back(cupy().where(kept, 1.0 / safe, 0.0), self.library)
            first = int((to_host(values) <= cutoff).sum())  # in ascending order
            with device_errors("a precision"):
                half = vectors[:, first:] / cupy().sqrt(values[first:])
            backend = device_backend(self.stream.place)
            inverse = empty((int(half.shape[0]), int(half.shape[0])), FLOAT64, "a precision")
            backend.engine.product(half, half.T, inverse)
            backend.symmetrize(inverse, 1.0, inverse)
            return give_back(inverse, self.library)

    def eigh(self, k: int, ddof: int) -> tuple[Any, Any]:
        with self.stream.ordered():
            values, vectors, _, _ = self._spectrum(ddof)
            xp = cupy()
            if vectors is None:
                order = xp.argsort(-values)[:k]
                one = zeros((int(values.shape[0]), k), FLOAT64, "eigenvectors")
                one[order, xp.arange(k)] = 1.0
                return give_back(values[order], self.library), give_back(one, self.library)
            top = xp.ascontiguousarray(values[::-1][:k])
            return give_back(top, self.library), give_back(
                xp.ascontiguousarray(vectors[:, ::-1][:, :k]), self.library
            )

    def logdet(self, ddof: int) -> float:
        with self.stream.ordered():
            values, _, cutoff, _ = self._spectrum(ddof)
            found = to_host(values)
            limit = to_host(cutoff) if hasattr(cutoff, "get") else cutoff
            return float(np.log(found).sum()) if (found > limit).all() else float("-inf")

    def mahalanobis(self, X: Any, ddof: int) -> Any:
        rows, place = (X.rows, X.place) if isinstance(X, DeviceGradients) else device_rows(X, "X")
        state = self.stream.state
        assert state is not None
        if place.device != self.stream.place.device:
            raise InputError(f"X is on {place.name}, and the rows seen are on {self.stream.place.name}")
        if rows.n_parameters != state.n_parameters:
            raise InputError(
                f"X has {rows.n_parameters} columns, but the rows seen have {state.n_parameters}"
            )
        xp = cupy()
        with self.stream.ordered(), device_errors("distances"):
            values, vectors, cutoff, centre = self._spectrum(ddof)
            scale = 1.0 / xp.sqrt(xp.where(values > cutoff, values, np.inf))
            out = empty(rows.n_samples, FLOAT64, "distances")
            backend = device_backend(place)
            for start, stop in spans(rows.n_samples, max(CHUNK_BYTES // (8 * state.n_parameters), 1)):
                formed = empty((stop - start, state.n_parameters), rows.compute_dtype, "rows")
                backend.materialize(rows.slice(start, stop), formed)
                rotated = formed - centre
                if vectors is not None:
                    plain, rotated = rotated, empty(rotated.shape, FLOAT64, "rotated rows")
                    backend.engine.product(plain, vectors, rotated)
                rotated *= scale
                row_squares(rotated, out[start:stop])
            return give_back(out, place.library)

    # ---- inside --------------------------------------------------------------------------------------------------

    def _finished(self, *, sums_only: bool = False) -> tuple[DeviceMoments, AnyArray]:
        state, _ = self.stream.finished(sums_only=sums_only)
        with self.stream.ordered():
            return state, to_host(state.scalars)

    def _positive(self, scalars: AnyArray) -> float:
        weight = float(scalars[WEIGHT])
        if not weight > 0:
            raise InputError(f"the weights of the {self.stream.n_queued} rows seen sum to {weight:g}")
        return weight

    def _location(self, state: DeviceMoments, scalars: AnyArray) -> DeviceArray:
        if not state.centred:
            return zeros(state.n_parameters, FLOAT64, "a mean")
        self._positive(scalars)
        return state.location

    def _covariance(self, ddof: int) -> tuple[DeviceArray, DeviceArray]:
        """And the mean."""
        state, scalars = self._finished()
        weight = self._positive(scalars)
        divisor = weight - ddof * float(scalars[WEIGHT_SQUARES]) / weight
        if not divisor > 0:
            raise InputError(
                f"too few rows for ddof={ddof}: {self.stream.n_queued} were seen, and the divisor would be {divisor:g}"
            )
        return self._scaled(state, 1.0 / divisor), self._location(state, scalars)

    def _scaled(self, state: DeviceMoments, scale: float) -> DeviceArray:
        scatter: Any = state.scatter
        if scatter.ndim == 1:
            return (scatter * scale).astype(scatter.dtype, copy=False)
        device_backend(self.stream.place).symmetrize(scatter, scale, scatter)
        return scatter

    def _spectrum(self, ddof: int) -> tuple[DeviceArray, DeviceArray | None, Any, DeviceArray]:
        """Eigenvalues in ascending order (of a diagonal: of the parameters), vectors, what counts as zero, mean."""
        covariance, mean = self._covariance(ddof)
        compute = self.stream.compute_dtype
        assert compute is not None
        eps = float(np.finfo(compute).eps)
        wide = covariance.astype(FLOAT64, copy=False)
        if wide.ndim == 1:
            return wide, None, (ZERO_ROWS * eps * mean) ** 2, mean
        with device_errors("an eigendecomposition"):
            values, vectors = cupy().linalg.eigh(wide)
        largest = float(to_host(values[-1:])[0])
        return values, vectors, max(largest, 0.0) * int(values.shape[0]) * eps, mean
