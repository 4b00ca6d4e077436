"""Arguments on a GPU, checked, as gradients. Shapes and types are looked at; values are not, as that would wait for
the device: a label outside of its domain, or a negative weight, makes its row one that is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradhess import _device_memory
from gradhess import _validation as check
from gradhess._backends.cupy.engine import DeviceArray
from gradhess._backends.cupy.launch import cupy, table
from gradhess._backends.cupy.moments import moments
from gradhess._backends.cupy.rows import DeviceRows
from gradhess._backends.cupy.structured import DeviceGroupedRows, DeviceOuterRows
from gradhess._backends.groups import Groups
from gradhess._backends.protocol import FLOAT64
from gradhess._device_arrays import Place, as_device, give_back, on_device, place_of
from gradhess._gradients.device.base import DeviceGradients, device_backend, device_rows
from gradhess._gradients.device.deferred import Flag, remember
from gradhess._gradients.group_arguments import per_draw, per_group, resolve
from gradhess.errors import InputError, InputTypeError
from gradhess.losses import Loss


def as_device_gradients(G: Any, name: str = "G") -> DeviceGradients:
    return DeviceGradients(*device_rows(G, name))


def per_row(
    value: Any, name: str, n_rows: int, place: Place, shape: Any, *, nonnegative: bool
) -> DeviceArray | None:
    """(n,) contiguous float64; NaN where it is negative and must not be."""
    if value is None:
        return None
    array, bfloat16 = as_device(value, name, place)
    if bfloat16:
        raise InputTypeError(f"{name} is bfloat16; pass it as float32 or float64")
    if array.shape != (n_rows,):
        raise InputError(f"{name} has shape {array.shape}, but X has shape {shape}: it must be ({n_rows},)")
    wide = cupy().ascontiguousarray(array, FLOAT64)
    return cupy().where(wide < 0, np.float64(np.nan), wide) if nonnegative else wide


def device_glm_gradients(
    X: Any, y: Any, coef: Any, loss: Loss, *, intercept: Any, sample_weight: Any
) -> DeviceGradients:
    """See ``gradhess.glm_gradients``; all arrays are on one device, but an ``intercept`` that is a number."""
    data, place = device_rows(X, "X")
    n, d = (int(length) for length in data.X.shape)
    with place:
        labels = per_row(y, "y", n, place, data.X.shape, nonnegative=False)
        if labels is None:
            raise InputTypeError("y is None; it must hold a label for every row")
        table_of, narrow = as_device(coef, "coef", place)
        if narrow:
            raise InputTypeError("coef is bfloat16; pass it as float32 or float64")
        softmax = loss.name == "softmax"
        if softmax and (table_of.ndim != 2 or table_of.shape[0] == 0 or table_of.shape[1] != d):
            raise InputError(
                f"coef has shape {table_of.shape}, but X has shape {(n, d)}: softmax needs (k, {d})"
            )
        if not softmax and table_of.shape != (d,):
            raise InputError(f"coef has shape {table_of.shape}, but X has shape {(n, d)}: it must be ({d},)")
        coefficients = cupy().ascontiguousarray(table_of.reshape(-1, d), FLOAT64)
        offsets = _intercept(intercept, int(coefficients.shape[0]), place, softmax)
        weights = per_row(sample_weight, "sample_weight", n, place, data.X.shape, nonnegative=True)
    rows = DeviceRows(
        data.X,
        "gradient",
        offsets is not None,
        loss.spec,
        labels,
        coefficients,
        offsets,
        weights,
        bfloat16=data.bfloat16,
    )
    return DeviceGradients(rows, place, loss)


def _intercept(value: Any, k: int, place: Place, softmax: bool) -> DeviceArray | None:
    if value is None:
        return None
    if isinstance(value, (int, float, np.floating, np.integer)) and not softmax:
        offset = cupy().empty(1, FLOAT64)
        offset.fill(float(value))  # a launch, where a copy from the host would be one
        return offset
    array, _ = as_device(value, "intercept", place)
    if (array.shape != (k,) and softmax) or int(array.size) != k:
        raise InputError(
            f"intercept has shape {array.shape}; it must be {f'({k},)' if softmax else 'one number'}"
        )
    return cupy().ascontiguousarray(array.reshape(k), FLOAT64)


def device_layer_gradients(activations: Any, errors: Any, *, bias: Any, mask: Any) -> DeviceGradients:
    """See ``gradhess.layer_gradients``."""
    check.flag(bias, "bias")
    place = place_of(activations, "activations")
    with place:
        (A, narrow), (D, narrow_errors) = (
            as_device(activations, "activations", place, "activations"),
            as_device(errors, "errors", place, "activations"),
        )
        A, D = (_widened(array) if bits else array for array, bits in ((A, narrow), (D, narrow_errors)))
        for array, name, last in ((A, "activations", "m"), (D, "errors", "k")):
            if array.ndim not in (2, 3) or 0 in array.shape[1:]:
                raise InputError(f"{name} has shape {array.shape}; it must be (n, {last}) or (n, T, {last})")
        if A.shape[:-1] != D.shape[:-1]:
            raise InputError(
                f"activations has shape {A.shape}, but errors has shape {D.shape}: all but the last axis must agree"
            )
        steps = None
        if mask is not None:
            steps, _ = as_device(mask, "mask", place, "activations")
            if A.ndim != 3 or steps.dtype != np.bool_ or steps.shape != A.shape[:2]:
                raise InputError(
                    f"mask is {steps.dtype} of shape {steps.shape}; it must be boolean of shape {A.shape[:2]}, for "
                    "activations with a sequence axis"
                )
        return DeviceGradients(
            DeviceOuterRows(A, "structured", unit_column=bool(bias), errors=D, mask=steps), place
        )


def _widened(bits: DeviceArray) -> DeviceArray:
    """float32 from the bits of bfloat16."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def device_grouped(
    source: DeviceGradients,
    groups: Any,
    *,
    group_size: int | None,
    offsets: Any,
    factors: Any,
    shifts: Any,
    scale: Any,
) -> DeviceGradients:
    """See ``gradhess.grouped``. Groups, and what belongs to draws, are arrays of the host: they are checked there, and
    copied to the device."""
    if isinstance(source.rows, (DeviceOuterRows, DeviceGroupedRows)):
        raise InputTypeError(
            f"{type(source.rows).__name__} cannot be grouped; pass glm_gradients or an array of rows"
        )
    for name, value in (("groups", groups), ("offsets", offsets), ("factors", factors), ("shifts", shifts)):
        if on_device(value):
            raise InputError(f"{name} is on a GPU; groups are checked on the host: pass a NumPy array")
    resolved = resolve(groups, group_size, offsets, source.n_samples)
    xp, rows = cupy(), source.rows
    with source.place:

        def moved(array: Any) -> Any:
            return None if array is None else xp.asarray(array)

        if isinstance(scale, (int, float, np.floating, np.integer)):
            factor = None if scale == 1 else xp.full(resolved.count, float(scale))
        else:
            factor = moved(per_group(np.asarray(scale, np.float64), "scale", resolved.count))
        each = Groups(
            moved(resolved.offsets),
            moved(resolved.indices),
            source.slopes_by_output() if rows.kind == "gradient" else None,
            moved(per_draw(factors, "factors", resolved)),
            moved(per_draw(shifts, "shifts", resolved)),
            factor,
        )
    grouped_rows = DeviceGroupedRows(
        rows.X,
        "structured",
        unit_column=rows.unit_column,
        groups=each,
        count=resolved.count,
        bfloat16=rows.bfloat16,
    )
    return DeviceGradients(grouped_rows, source.place)


def device_weighted_gram(X: Any, weights: Any, out: Any) -> Any:
    """See ``gradhess.weighted_gram``. After a row that is not finite ``out`` is as it was, and a new result is NaN."""
    rows, place = device_rows(X, "X")
    n, d = (int(length) for length in rows.X.shape)
    with place:
        factors = per_row(weights, "weights", n, place, rows.X.shape, nonnegative=False)
        total = None
        if out is not None:
            total, _ = as_device(out, "out", place)
            if total.dtype not in (np.float64, np.float32) or total.shape != (d, d):
                raise InputError(
                    f"out is {total.dtype} of shape {total.shape}; it must be float64 of shape {(d, d)}"
                )
            check.accumulator_fits(total.dtype, rows.compute_dtype, "out.dtype")
            if not (total.flags.c_contiguous or total.flags.f_contiguous):
                raise InputError(
                    "out must be contiguous (C or Fortran order); add the result to your view yourself"
                )
        _device_memory.require_matrix(d, rows.n_samples, "a Gram matrix", FLOAT64)
        backend = device_backend(place)
        state = moments(d, "full", centred=False)
        backend.add_call(rows, factors, state)
        remember(Flag(state.status, place, "weighted_gram"))
        if total is None:
            backend.symmetrize(state.scatter, 1.0, state.scatter, status=state.status)
            return give_back(state.scatter, place.library)
        target = total if total.flags.c_contiguous else total.T
        table("add_symmetric", total.dtype, d, d, state.scatter, d, state.status, target)
        return out
