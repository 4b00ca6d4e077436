"""Every check of an argument, once, before anything is computed or changed.

Functions take what the user passed and the name it was passed under, and return what the backends expect
(``gradhess._backends.protocol``). Messages name the argument, both shapes or the row, and what to do.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from gradhess import losses
from gradhess._arrays import as_numpy, first_false
from gradhess._backends.outer_rows import OuterRows
from gradhess._backends.plain import are_plain_glm, are_zero_or_within
from gradhess._backends.protocol import FLOAT32, FLOAT64, AnyArray, Float64Array, Rows
from gradhess.errors import InputError, InputTypeError
from gradhess.losses import Loss

STRUCTURES: Final = ("full", "diagonal")
NONFINITE_POLICIES: Final = ("error", "skip")
_LOSSES: Final = {
    loss.name: loss
    for loss in (losses.squared, losses.logistic, losses.poisson, losses.huber(), losses.softmax)
}

FEW: Final = 4096
"""Entries of an array that NumPy's BLAS multiplies on the calling thread."""

FLOAT32_WEIGHT_MAX: Final = 1e18
"""A weight of this size leaves products of rows of up to 1e9 within the range of float32."""


# ---- settings ----------------------------------------------------------------------------------------------------


def one_of(value: Any, allowed: tuple[str, ...], name: str) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def flag(value: Any, name: str) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise InputTypeError(f"{name} must be True or False, not {value!r}")


def count(value: Any, name: str, minimum: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InputTypeError(f"{name} must be an integer, not {type(value).__name__}")
    if value < minimum:
        raise InputError(f"{name} is {value}; it must be at least {minimum}")
    return int(value)


def seed(value: Any, name: str = "rng") -> int:
    """Where a generator, which the caller has looked for, would do as well."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InputTypeError(
            f"{name} must be an integer seed or a numpy.random.Generator, not {type(value).__name__}"
        )
    if value < 0:
        raise InputError(f"{name} is {value}; a seed must not be negative")
    return int(value)


def number(value: Any, name: str) -> float:
    """A real number, which may be infinite or NaN."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputTypeError(f"{name} must be a number, not {type(value).__name__}")
    return float(value)


def nonnegative(value: Any, name: str) -> float:
    real = number(value, name)
    if not (math.isfinite(real) and real >= 0):
        raise InputError(f"{name} is {real}; it must be finite and not negative")
    return real


def positive(value: Any, name: str) -> float:
    real = number(value, name)
    if not (math.isfinite(real) and real > 0):
        raise InputError(f"{name} is {real}; it must be finite and positive")
    return real


def instance(value: Any, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        raise InputTypeError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")


def accumulator_dtype(value: Any, name: str = "dtype") -> np.dtype[Any]:
    if isinstance(value, str) and value == "float64":  # the default: nothing is looked up for it
        return FLOAT64
    try:
        dtype: np.dtype[Any] | None = None if value is None else np.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or dtype not in (np.float64, np.float32):
        raise InputError(f"{name} is {value!r}; it must be 'float64' or 'float32'")
    return dtype


def accumulator_fits(accumulator: np.dtype[Any], rows: np.dtype[Any], name: str) -> None:
    """float64 rows are not summed in float32: the digits would be lost in silence."""
    if accumulator.itemsize < rows.itemsize:
        raise InputTypeError(
            f"{name} is {accumulator}, but the rows are {rows}; pass float32 data, or {name}='float64'"
        )


def rows_fit_stream(n_parameters: int, stream_parameters: int | None) -> None:
    """None for a stream that has seen no rows."""
    if stream_parameters is not None and n_parameters != stream_parameters:
        raise InputError(f"these rows have {n_parameters} parameters, but the stream has {stream_parameters}")


def resolve_loss(loss: Any) -> Loss:
    """A loss object, from itself or its name."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in _LOSSES:
        return _LOSSES[loss]
    names = ", ".join(map(repr, _LOSSES))
    raise InputError(f"loss is {loss!r}; it must be one of {names}, or an object from gradhess.losses")


# ---- arrays ------------------------------------------------------------------------------------------------------


def matrix(value: Any, name: str) -> AnyArray:
    """(n, d) of any real dtype and any strides; d at least 1, n may be 0."""
    array = as_numpy(value, name)
    shape = array.shape
    if len(shape) == 1:
        raise InputError(
            f"{name} has shape {shape}, but rows are samples: {name}.reshape(-1, 1) is one feature, "
            f"{name}.reshape(1, -1) is one sample"
        )
    if len(shape) != 2:
        raise InputError(f"{name} has shape {shape}; it must be (n, d), rows are samples")
    if shape[1] == 0:
        raise InputError(f"{name} has shape {shape}: there are no columns")
    return array


def per_row(value: Any, name: str, n_rows: int, shape: tuple[int, ...]) -> Float64Array:
    """(n,) contiguous float64, one entry for each row of the array of that ``shape``."""
    array = value if type(value) is np.ndarray and value.dtype is FLOAT64 else as_numpy(value, name)
    if array.shape != (n_rows,):
        hint = (
            f"; pass {name}.ravel()" if array.ndim == 2 and array.shape in ((n_rows, 1), (1, n_rows)) else ""
        )
        raise InputError(
            f"{name} has shape {array.shape}, but X has shape {shape}: it must be ({n_rows},){hint}"
        )
    return _as_float64(array)


def _as_float64(array: AnyArray) -> Float64Array:
    """Aligned and C-contiguous; a copy only where it is not so already."""
    if array.dtype is FLOAT64 and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.require(array, np.float64, ["C", "A"])


def labels_per_row(value: Any, n_rows: int, shape: tuple[int, ...]) -> AnyArray:
    """(n,) contiguous labels: float32 as they are, since backends widen them on the way; all others float64."""
    array = as_numpy(value, "y")
    dtype = array.dtype
    # Sizes first: two types are not compared quickly.
    if dtype.itemsize == FLOAT32.itemsize and dtype == FLOAT32 and array.shape == (n_rows,):
        flags = array.flags
        return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=["C", "A"])
    return per_row(array, "y", n_rows, shape)


def nonnegative_weights(value: Any, name: str, n_rows: int, shape: tuple[int, ...]) -> Float64Array | None:
    """(n,) weights, or None. NaN passes here: rows that are not finite are the business of the pass over them."""
    if value is None:
        return None
    weights = per_row(value, name, n_rows, shape)
    if not weights.size or weights.item(weights.argmin()) >= 0:
        return weights  # as nearly always; NaN would be the smallest
    row = first_false(~(weights < 0))
    if row >= 0:
        raise InputError(f"{name}[{row}] is {weights[row]:g}; these weights must not be negative")
    return weights


def finite(array: Float64Array, name: str, *, whole: bool = True) -> Float64Array:
    """``whole`` is False for a piece of an array, where an index would mislead."""
    # In a third of the time; a large finite number may overflow here, and is looked at again.
    if array.size <= FEW and math.isfinite(np.vdot(array, array)):
        return array
    index = first_false(np.isfinite(array))
    if index >= 0:
        place = ", ".join(str(int(i)) for i in np.unravel_index(index, array.shape))
        where = f", first at [{place}]" if whole and array.size > 1 else ""
        raise InputError(f"{name} holds NaN or infinity{where}")
    return array


def coefficients(value: Any, loss: Loss, shape: tuple[int, ...]) -> Float64Array:
    """(k, d) contiguous float64; k = 1 except for softmax."""
    coef = as_numpy(value, "coef")
    d = shape[1]
    if loss.name == "softmax":
        if coef.ndim != 2 or coef.shape[0] == 0 or coef.shape[1] != d:
            raise InputError(f"coef has shape {coef.shape}, but X has shape {shape}: softmax needs (k, {d})")
    elif coef.shape != (d,):
        hint = "; pass coef.ravel()" if coef.shape in ((1, d), (d, 1)) else ""
        raise InputError(f"coef has shape {coef.shape}, but X has shape {shape}: it must be ({d},){hint}")
    coef = finite(_as_float64(coef), "coef")
    return coef if coef.ndim == 2 else coef[np.newaxis]


def intercepts(value: Any, loss: Loss, n_outputs: int) -> Float64Array | None:
    """(k,) contiguous float64, or None."""
    if value is None:
        return None
    intercept = as_numpy(value, "intercept")
    if loss.name == "softmax":
        if intercept.shape != (n_outputs,):
            raise InputError(
                f"intercept has shape {intercept.shape}, but coef has {n_outputs} rows: one number for each"
            )
    elif intercept.size != 1:
        raise InputError(f"intercept has shape {intercept.shape}; it must be one number")
    return finite(np.array(intercept, np.float64).reshape(n_outputs), "intercept")


def factor(value: Any, name: str, length: int, gradients: Any) -> tuple[Float64Array, bool]:
    """The right-hand side of a product with G: (length,) or (length, m), as contiguous float64 of two dimensions; and
    whether it is a vector. ``gradients`` has the shape of G, for the message."""
    array = as_numpy(value, name)
    n_axes = len(array.shape)
    if n_axes not in (1, 2) or array.shape[0] != length:
        raise InputError(
            f"{name} has shape {array.shape}, but the gradients have shape {gradients.shape}: "
            f"it must be ({length},) or ({length}, m)"
        )
    vectors = finite(_as_float64(array), name)
    return (vectors[:, np.newaxis], True) if n_axes == 1 else (vectors, False)


def weights_fit_float32(weights: Float64Array, name: str) -> None:
    """Rows of float32 are multiplied with their weights in float32, which must neither overflow nor vanish there."""
    if are_zero_or_within(weights, 1 / FLOAT32_WEIGHT_MAX, FLOAT32_WEIGHT_MAX):
        return  # as nearly always; what is not finite, which passes as well, is looked at apart
    sizes = np.abs(weights)
    sizes = sizes[np.isfinite(sizes) & (sizes != 0)]
    if sizes.size and not (sizes.max() <= FLOAT32_WEIGHT_MAX and sizes.min() >= 1 / FLOAT32_WEIGHT_MAX):
        raise InputError(
            f"{name} of float32 rows must be 0 or of a size from {1 / FLOAT32_WEIGHT_MAX:.0e} to "
            f"{FLOAT32_WEIGHT_MAX:.0e}, and they range from {sizes.min():.3g} to {sizes.max():.3g}; "
            "rescale them, or pass float64 rows"
        )


def accumulating_output(out: Any, d: int, rows: np.dtype[Any]) -> AnyArray:
    """The (d, d) array that ``weighted_gram`` adds to, as a NumPy array on the same memory."""
    if not isinstance(out, np.ndarray) and not hasattr(out, "__dlpack__"):
        raise InputTypeError(f"out must be an array whose memory can be written to, not {type(out).__name__}")
    if isinstance(out, np.ma.MaskedArray):
        raise InputTypeError(
            "out is a masked array, of which some entries would stay as they are; pass out.data"
        )
    total: AnyArray = out if isinstance(out, np.ndarray) else as_numpy(out, "out")
    if total.dtype not in (np.float64, np.float32) or not total.dtype.isnative:
        raise InputTypeError(f"out has dtype {total.dtype}; it must be float64 or float32")
    accumulator_fits(total.dtype, rows, "out.dtype")
    if total.shape != (d, d):
        raise InputError(f"out has shape {total.shape}, but X has {d} columns: it must be ({d}, {d})")
    if not (total.flags.c_contiguous or total.flags.f_contiguous):
        raise InputError("out must be contiguous (C or Fortran order); add the result to your view yourself")
    if not total.flags.writeable:
        raise InputError("out is read-only; pass a copy of it")
    return total


# ---- batches of rows ---------------------------------------------------------------------------------------------


def glm_rows(X: Any, y: Any, coef: Any, loss: Loss, *, intercept: Any, sample_weight: Any) -> Rows:
    """The rows of ``glm_gradients``, checked."""
    if intercept is None and sample_weight is None and are_plain_glm(X, y, coef, loss.name):
        return Rows(X, "gradient", False, loss.spec, y, coef[np.newaxis])
    data = matrix(X, "X")
    coefficient_rows = coefficients(coef, loss, data.shape)
    k = coefficient_rows.shape[0]
    labels = labels_per_row(y, data.shape[0], data.shape)
    loss.check_labels(labels, k)
    offsets = intercepts(intercept, loss, k)
    return Rows(
        data,
        kind="gradient",
        unit_column=offsets is not None,
        loss=loss.spec,
        y=labels,
        coef=coefficient_rows,
        intercept=offsets,
        loss_weight=nonnegative_weights(sample_weight, "sample_weight", data.shape[0], data.shape),
    )


def layer_rows(activations: Any, errors: Any, *, bias: Any, mask: Any) -> OuterRows:
    """The rows of ``layer_gradients``, checked."""
    flag(bias, "bias")
    A, D = as_numpy(activations, "activations"), as_numpy(errors, "errors")
    for array, name, last in ((A, "activations", "m"), (D, "errors", "k")):
        if array.ndim not in (2, 3):
            raise InputError(f"{name} has shape {array.shape}; it must be (n, {last}) or (n, T, {last})")
        if 0 in array.shape[1:]:
            raise InputError(f"{name} has shape {array.shape}: a layer has at least one {last} and one step")
    if A.shape[:-1] != D.shape[:-1]:
        raise InputError(
            f"activations has shape {A.shape}, but errors has shape {D.shape}: all but the last axis must agree"
        )
    return OuterRows(
        A, kind="structured", unit_column=bool(bias), errors=D, mask=step_mask(mask, "mask", A.shape)
    )


def step_mask(value: Any, name: str, shape: tuple[int, ...]) -> Any:
    """(n, T) booleans, or None."""
    if value is None:
        return None
    if len(shape) != 3:
        raise InputError(
            f"{name} is for a sequence axis, and the activations have shape {shape}: they have none"
        )
    mask = as_numpy(value, name)
    if mask.dtype != np.bool_:
        raise InputTypeError(f"{name} has dtype {mask.dtype}; it must be boolean, True where a step counts")
    if mask.shape != shape[:2]:
        raise InputError(
            f"{name} has shape {mask.shape}, but the activations have shape {shape}: it must be {shape[:2]}"
        )
    return mask
