"""Blocks of rows for the tests of CUDA kernels, the arguments that the kernels take, and what NumPy makes of them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from emulated_cuda import Guarded

from gradhess._backends.loss_formulas import SCALAR_LOSSES

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
U64 = np.finfo(np.float64).eps / 2
NO_BAD_ROW = 2**63 - 1


class Case:
    """A block with its NumPy arrays, and what the row pass makes of it."""

    def __init__(
        self, n, d, dtype="float64", *, kind="gradient", loss="squared", layout="C", seed=0, **options
    ):
        rng = np.random.default_rng(seed + 1000 * d + n)
        options = {
            "unit_column": False,
            "weighted": False,
            "shifted": False,
            "loss_weighted": False,
        } | options
        self.n, self.d, self.dtype, self.kind, self.loss = n, d, dtype, kind, loss
        self.unit = options["unit_column"]
        self.outputs = options.get("outputs", 1)
        X = rng.standard_normal((n, d)).astype(DTYPES[dtype])
        self.X = arranged(X, layout)
        self.work = np.float64 if dtype == "float64" else np.float32
        self.parameter = 0.7 if loss == "huber" else 0.0
        labels = {"logistic": rng.integers(0, 2, n), "poisson": rng.poisson(2.0, n)}
        self.y = np.asarray(labels.get(loss, rng.standard_normal(n)), options.get("y_dtype", np.float64))
        self.coef = rng.standard_normal(d) / np.sqrt(d)
        self.intercept = rng.standard_normal(1) if self.unit else None
        self.loss_weight = rng.uniform(0.5, 2, n) if options["loss_weighted"] else None
        self.weights = rng.standard_normal(n) if options["weighted"] else None
        self.slopes = rng.standard_normal((n, self.outputs)) if loss == "given" else None
        self.values = rng.standard_normal(n) if loss == "given" else None
        width = d + self.unit
        self.p = width * (self.outputs if kind == "gradient" else 1)
        self.shift = rng.standard_normal(self.p).astype(self.work) if options["shifted"] else None
        self.first_row = 7

    def fields(self):
        def address(array):
            return 0 if array is None else array.ctypes.data

        return {
            "data": address(self.X),
            "dtype": self.dtype,
            "samples": self.n,
            "features": self.d,
            "row_stride": self.X.strides[0] // self.X.itemsize,
            "column_stride": self.X.strides[1] // self.X.itemsize,
            "kind": self.kind,
            "unit_column": self.unit,
            "loss": "none" if self.kind == "dense" or self.loss == "given" else self.loss,
            "parameter": self.parameter,
            "y": address(self.y),
            "y_is_float": self.y.dtype == np.float32,
            "coef": address(self.coef),
            "intercept": address(self.intercept),
            "loss_weight": address(self.loss_weight),
            "slopes": address(self.slopes) if self.kind != "dense" else 0,
            "values": address(self.values) if self.kind != "dense" else 0,
            "outputs": self.outputs,
            "weights": address(self.weights),
            "shift": address(self.shift),
            "first_row": self.first_row,
        }

    def run(self, cuda, *, planes=0, half=False, exponents=None, seed=0, squares=True, gate=None):
        pitch = -(-self.p // 8) * 8
        out = {
            "rows": Guarded((self.n, pitch), self.work),
            "row_weight": Guarded((self.n,), np.float64),
            "sums": Guarded((self.p,), np.float64),
            "squares": Guarded((self.p,), np.float64),
            "totals": Guarded((3,), np.float64),
            "bad": Guarded((1,), np.int64),
            "planes": Guarded((max(planes, 1), self.n, pitch), np.uint16),
            "overflow": Guarded((1,), np.int32),
        }
        out["bad"].array[0] = NO_BAD_ROW
        out["overflow"].array[0] = 0
        panel = {name: array.address for name, array in out.items()}
        if not squares:
            panel["squares"] = 0
        panel |= {"pitch": pitch, "plane_count": planes, "half": half, "plane_stride": self.n * pitch}
        if exponents is not None:
            padded = np.zeros(pitch, np.int32)
            padded[: self.p] = exponents
            panel["exponents"] = padded.ctypes.data
        work = Guarded((cuda.row_pass_workspace(self.n, self.p),), np.uint8)
        fields = self.fields()
        if gate is not None:
            closed = np.array([gate], np.int64)
            fields["gate"] = closed.ctypes.data
        cuda.emulate_schedule(seed)
        cuda.row_pass(fields, panel, workspace=work.address, stream=0)
        assert work.intact()
        assert all(array.intact() for array in out.values())
        return {name: array.array for name, array in out.items()}

    def expected(self):
        """z, w, loss values and the error bound of a row's slope, relative to the magnitudes."""
        wide = self.X.astype(np.float64)
        tilde = np.hstack([wide, np.ones((self.n, 1))]) if self.unit else wide
        w = np.ones(self.n) if self.weights is None else self.weights.copy()
        value = np.zeros(self.n)
        slope_error = np.zeros(self.n)
        rows = tilde.astype(self.work)
        if self.kind != "dense":
            if self.loss == "given":
                slope, value = self.slopes, self.values
                second = self.slopes[:, 0]
            else:
                eta = wide @ self.coef + (0 if self.intercept is None else self.intercept[0])
                # Rounding of eta moves the slope by |l''| d(eta), at most |l''| + 1 for these losses; another order
                # of summation and other exp: a few units each.
                size = np.abs(wide) @ np.abs(self.coef) + 1
                c = np.ones(self.n) if self.loss_weight is None else self.loss_weight
                first, second, value = evaluate(self.loss, eta, self.y.astype(np.float64), self.parameter)
                slope_error = c * ((self.d + 8) * U64 * size * (np.abs(second) + 1) + 8 * U64 * np.abs(first))
                slope, second, value = (c * first)[:, None], c * second, c * value
            if self.kind == "hessian":
                w = w * second
            else:
                rows = (slope.astype(self.work)[:, :, None] * rows[:, None, :]).reshape(self.n, self.p)
        z = rows if self.shift is None else rows - self.shift
        return z, w, value, slope_error, tilde


def arranged(X, layout):
    n, d = X.shape
    if layout == "C":
        return X
    if layout == "F":
        return np.asfortranarray(X)
    if layout == "padded":  # rows that start at multiples of 16 bytes, and others in between
        return np.hstack([X, X[:, :1].repeat(-d % 8 + 8, axis=1)])[:, :d]
    if layout == "odd":
        wide = np.empty((n, d + 3), X.dtype)
        wide[:, 1 : d + 1] = X
        return wide[:, 1 : d + 1]
    return np.ascontiguousarray(X[::-1])[::-1]  # "backwards"


def evaluate(loss, eta, y, parameter):
    value, first, second = (np.vectorize(f, otypes=[float])(eta, y, parameter) for f in functions_of(loss))
    return first, second, value


def functions_of(loss):
    found = SCALAR_LOSSES[loss]
    return tuple(getattr(f, "py_func", f) for f in found)
