"""What every batch of per-sample gradients on a GPU can do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gradhess import _device_memory
from gradhess import _validation as check
from gradhess._backends import registry
from gradhess._backends.cupy import selftest
from gradhess._backends.cupy.backend import CupyBackend
from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, device_errors, empty, flat, to_host
from gradhess._backends.cupy.moments import DeviceMoments, moments
from gradhess._backends.cupy.pieces import spans
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.protocol import FLOAT64, LOSS, PairWeights, Structure
from gradhess._device_arrays import Place, as_device, give_back, place_of
from gradhess._gradients.base import Gradients
from gradhess._gradients.device.deferred import Flag, forget, remember
from gradhess.errors import InputError
from gradhess.losses import Loss
from gradhess.sketches import Sketch

PAIR_BYTES: Final = 64 << 20
"""Rows that are formed for one side of a tile of ``G G^T``."""
OUTER_ROWS: Final = 16384


def device_backend(place: Place) -> CupyBackend:
    """The backend of this call, after its self-test on that device."""
    backend: CupyBackend = registry.active_device()
    selftest.ensure(backend, place.device)
    return backend


def device_rows(value: Any, name: str) -> tuple[DeviceRows, Place]:
    """Plain rows (n, d) on a device."""
    place = place_of(value, name)
    with place:
        array, bfloat16 = as_device(value, name, place, name)
        check_matrix(array, name)
        return DeviceRows(array, bfloat16=bfloat16), place


def check_matrix(array: DeviceArray, name: str) -> None:
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name} has shape {array.shape}; it must be (n, d) with d >= 1, rows are samples")


class DeviceGradients(Gradients):
    """As ``Gradients``; results are arrays on the same GPU, of the type that came in.

    No method waits for the device but ``loss``, which returns a number. So a row that is not finite does not raise: it
    makes the result NaN, and the error is raised by ``loss`` or by ``gradhess.synchronize``.
    """

    rows: DeviceRows

    def __init__(self, rows: DeviceRows, place: Place, loss: Loss | None = None) -> None:
        super().__init__(rows, place.library)
        self.place = place
        self._loss_function = loss
        self._slopes: DeviceArray = None

    # ---- moments -------------------------------------------------------------------------------------------------

    def _sums(
        self, structure: Structure = "sum", what: str = "these gradients", **options: Any
    ) -> DeviceMoments:
        """One pass over all rows, in the place of this batch."""
        backend = device_backend(self.place)
        state = moments(self.rows.n_parameters, structure, **{"centred": False, **options})
        backend.add_call(self.rows, None, state)
        remember(Flag(state.status, self.place, what))
        return state

    def _back(self, result: DeviceArray, state: DeviceMoments | None = None) -> Any:
        """To the caller; NaN where the state says that a row was not finite."""
        if state is not None:
            flat("poison", FLOAT64, int(result.size), result, int(result.size), state.status)
        return give_back(result, self.library)

    def sum(self) -> Any:
        with self.place:
            state = self._sums(what="sum()")
            return self._back(state.location, state)

    def mean(self) -> Any:
        self._need_more_than(0, "the mean")
        with self.place:
            state = self._sums(what="mean()")
            return self._back(state.location / self.n_samples, state)

    def gram(self, *, dtype: npt.DTypeLike = "float64") -> Any:
        return self._full("gram()", dtype, scale=1.0)

    def covariance(self, ddof: int = 0, *, dtype: npt.DTypeLike = "float64") -> Any:
        check.count(ddof, "ddof", 0)
        self._need_more_than(ddof, f"the covariance with ddof={ddof}")
        return self._full("covariance()", dtype, centred=True, scale=1.0 / (self.n_samples - ddof))

    def _full(self, what: str, dtype: npt.DTypeLike, *, scale: float, centred: bool = False) -> Any:
        accumulator = check.accumulator_dtype(dtype)
        check.accumulator_fits(accumulator, self.dtype, "dtype")
        with self.place:
            _device_memory.require_matrix(self.n_parameters, self.n_samples, what, accumulator)
            state = self._sums("full", what, centred=centred, dtype=accumulator)
            return self._finished(state, scale)

    def _finished(self, state: DeviceMoments, scale: float) -> Any:
        scatter = state.scatter
        device_backend(self.place).symmetrize(scatter, scale, scatter, status=state.status)
        return give_back(scatter, self.library)

    def diagonal(self) -> Any:
        with self.place:
            state = self._sums("diagonal", "diagonal()")
            return self._back(state.scatter, state)

    # ---- products ------------------------------------------------------------------------------------------------

    def norms(self) -> Any:
        with self.place:
            return self._back(device_backend(self.place).norms(self.rows))

    def matvec(self, v: Any) -> Any:
        with self.place:
            vectors, flat_one = self._factor(v, "v", self.n_parameters)
            out = device_backend(self.place).matvec(self.rows, vectors)
            return self._back(out[:, 0] if flat_one else out)

    def rmatvec(self, u: Any) -> Any:
        with self.place:
            vectors, flat_one = self._factor(u, "u", self.n_samples)
            out = device_backend(self.place).rmatvec(self.rows, vectors)
            return self._back(out[:, 0] if flat_one else out)

    def gram_matvec(self, v: Any) -> Any:
        with self.place:
            vectors, flat_one = self._factor(v, "v", self.n_parameters)
            out = device_backend(self.place).gram_matvec(self.rows, vectors)
            return self._back(out[:, 0] if flat_one else out)

    def _factor(self, value: Any, name: str, length: int) -> tuple[DeviceArray, bool]:
        """(length, m) contiguous float64, and whether it came as (length,)."""
        array, _ = as_device(value, name, self.place, "these gradients are")
        if array.ndim not in (1, 2) or array.shape[0] != length:
            raise InputError(
                f"{name} has shape {array.shape}, but the gradients have shape {self.shape}: "
                f"it must be ({length},) or ({length}, m)"
            )
        table = array.reshape(length, -1) if array.ndim == 1 else array
        with device_errors(name, int(table.size) * 8):
            return cupy().ascontiguousarray(table, FLOAT64), array.ndim == 1

    def cogram(self) -> Any:
        n, p = self.shape
        with self.place:
            _device_memory.require(8 * n * n, f"G G^T of shape ({n:,}, {n:,})")
            backend = device_backend(self.place)
            out = empty((n, n), FLOAT64, "G G^T")
            size = max(PAIR_BYTES // (8 * p), 1)
            for top, bottom in spans(n, size):
                upper = self._formed(backend, top, bottom)
                for left, right in spans(top, size):
                    tile = out[top:bottom, left:right]
                    backend.engine.product(upper, self._formed(backend, left, right).T, tile)
                    out[left:right, top:bottom] = tile.T
                tile = empty((bottom - top, bottom - top), FLOAT64, "a tile of G G^T")
                backend.engine.product(upper, upper.T, tile)
                backend.symmetrize(tile, 1.0, tile)
                out[top:bottom, top:bottom] = tile
            return self._back(out)

    def _formed(self, backend: CupyBackend, start: int, stop: int) -> DeviceArray:
        out = empty((stop - start, self.n_parameters), self.dtype, "rows")
        with device_errors("rows in float64"):
            backend.materialize(self.rows.slice(start, stop), out)
            return out.astype(FLOAT64, copy=False)

    def project(self, R: Any) -> Any:
        """As ``Gradients.project``. A ``Sketch`` is made on the host, a part at a time, and copied to the device."""
        if not isinstance(R, Sketch):
            return self.matvec(R)
        xp, p = cupy(), self.n_parameters
        sparse = R.kind == "sjlt"
        width = R.size // R.nonzeros if sparse else 1
        step = max(PAIR_BYTES // (8 * p * width), 1)
        with self.place:
            backend = device_backend(self.place)
            out = empty((self.n_samples, R.size), FLOAT64, "a projection")
            for first, last in spans(R.nonzeros if sparse else R.size, step):
                made = R.sparse(p, first, last).toarray() if sparse else R.columns(p, first, last)
                with device_errors("a projection"):
                    columns = xp.asarray(np.ascontiguousarray(made))
                    out[:, first * width : last * width] = backend.matvec(self.rows, columns)
            return self._back(out)

    def toarray(self) -> Any:
        with self.place:
            _device_memory.require(
                self.n_samples * self.n_parameters * self.dtype.itemsize, f"G of shape {self.shape}"
            )
            out = empty(self.shape, self.dtype, "G")
            device_backend(self.place).materialize(self.rows, out)
            return self._back(out)

    def as_linear_operator(self) -> Any:
        """An error: SciPy's operators are of NumPy arrays."""
        raise InputError("SciPy's linear operators take NumPy arrays, and these gradients are on a GPU")

    # ---- losses --------------------------------------------------------------------------------------------------

    def slopes(self) -> Any:
        """``c_i l'(eta_i, y_i)``: (n,), or (n, k) for softmax; float64."""
        if self._loss_function is None:
            raise InputError("these gradients have no slopes; those of glm_gradients have")
        with self.place:
            slopes = self.slopes_by_output()
            shape = (self.n_samples,) if self._loss_function.name != "softmax" else slopes.shape
            return self._back(slopes.reshape(shape).copy())

    def slopes_by_output(self) -> DeviceArray:
        """(n, k), not a copy."""
        if self._slopes is None:
            with self.place:
                self._slopes = device_backend(self.place).errors(self.rows)
        return self._slopes

    def loss(self) -> float:
        """``sum_i c_i l(eta_i, y_i)``. It waits for the device; NonFiniteError for a row that is not finite."""
        if self._loss_function is None:
            return super().loss()
        if not self._loss_function.has_value:
            raise InputError("this custom loss has no value; pass value= to gradhess.losses.custom")
        if self._loss is None:
            with self.place:
                state = self._sums(what="loss()")
                flag = Flag(state.status, self.place, "loss()")
                forget(flag)
                flag.raise_if_set()
                self._loss = float(to_host(state.scalars)[LOSS])
        return self._loss

    def hessian(self) -> Any:
        """As ``GlmGradients.hessian``."""
        loss = self._loss_function
        if loss is None:
            return super().hessian()
        if not loss.has_second_derivative:
            raise InputError(
                "this custom loss has no second derivative; pass second= to gradhess.losses.custom"
            )
        with self.place:
            _device_memory.require_matrix(self.n_parameters, self.n_samples, "a Hessian", FLOAT64)
            if loss.name == "softmax":
                return self._softmax_hessian()
            curved = DeviceGradients(replace(self.rows, kind="hessian"), self.place, loss)
            return curved._finished(curved._sums("full", "hessian()"), 1.0)

    def _softmax_hessian(self) -> Any:
        xp, rows = cupy(), self.rows
        backend = device_backend(self.place)
        p = self.n_parameters
        out = empty((p, p), FLOAT64, "a Hessian")
        if not self.n_samples:
            out.fill(0)
        for start, stop in spans(self.n_samples, OUTER_ROWS):
            part = rows.slice(start, stop)
            plain_part = DeviceRows(
                part.X, "gradient", part.unit_column, part.loss, part.y, part.coef, part.intercept,
                bfloat16=rows.bfloat16,
            )  # fmt: skip
            assert part.y is not None
            k = rows.n_outputs
            P = backend.errors(plain_part)
            P += (part.y[:, None] == xp.arange(k)[None, :]).astype(FLOAT64)
            A = empty((stop - start, int(part.X.shape[1])), self.dtype, "rows")
            backend.materialize(DeviceRows(part.X, bfloat16=rows.bfloat16), A)
            backend.outer_gram(
                A,
                PairWeights(P, part.loss_weight, curvature=True),
                rows.unit_column,
                out,
                begin=start == 0,
                end=stop == self.n_samples,
            )
        return self._back(out)
