"""The row pass of the CUDA kernels, run by the emulator, against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from emulated_cuda import Guarded, build, why_not

from gradhess._backends.loss_formulas import SCALAR_LOSSES

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
U64 = np.finfo(np.float64).eps / 2
NO_BAD_ROW = 2**63 - 1


@pytest.fixture(scope="module")
def cuda():
    return build(900)


@pytest.fixture(autouse=True)
def in_order(cuda):
    yield
    cuda.emulate_schedule(0)


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
            "values": address(self.values),
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


def check(case, got):
    z, w, value, slope_error, tilde = case.expected()
    u = np.finfo(case.work).eps / 2
    rows = got["rows"]
    assert (rows[:, case.p :] == 0).all()
    # The slope is rounded to the compute type, and may round the other way if it differs by a little.
    exact = case.kind != "gradient" or case.loss == "given"
    allowed = (
        0.0 if exact else (slope_error[:, None] + 2 * u * np.abs(z)) * (np.abs(tilde) + 1) + u * np.abs(z)
    )
    shift = 0.0 if case.shift is None else u * np.abs(case.shift)
    assert (np.abs(rows[:, : case.p].astype(float) - z) <= allowed + shift * (not exact)).all()

    scale = np.abs(w) + (slope_error if case.kind == "hessian" else 0)
    assert (np.abs(got["row_weight"] - w) <= slope_error + 4 * U64 * scale).all()
    used_w, used_z = got["row_weight"], rows[:, : case.p].astype(np.float64)
    bound = (case.n + 2) * U64
    for name, terms in (("sums", used_w[:, None] * used_z), ("squares", used_w[:, None] * used_z**2)):
        assert (np.abs(got[name] - terms.sum(0)) <= bound * np.abs(terms).sum(0)).all(), name
    for i, terms in enumerate((used_w, used_w**2)):
        assert abs(got["totals"][i] - terms.sum()) <= bound * np.abs(terms).sum()
    loss_error = bound * np.abs(value).sum() + (slope_error * 8 + 8 * U64 * np.abs(value)).sum()
    assert abs(got["totals"][2] - value.sum()) <= loss_error
    assert got["bad"][0] == NO_BAD_ROW


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (63, 17), (300, 65), (129, 200), (5, 1025)])
def test_sizes_and_types(cuda, n, d, dtype):
    case = Case(n, d, dtype, weighted=True, shifted=True)
    check(case, case.run(cuda))


@pytest.mark.parametrize("loss", ["squared", "logistic", "poisson", "huber"])
@pytest.mark.parametrize("kind", ["gradient", "hessian"])
@pytest.mark.parametrize("y_dtype", ["float64", "float32"])
def test_losses(cuda, loss, kind, y_dtype):
    case = Case(
        150,
        9,
        "float32",
        kind=kind,
        loss=loss,
        y_dtype=y_dtype,
        unit_column=True,
        loss_weighted=True,
        weighted=True,
    )
    check(case, case.run(cuda))


@pytest.mark.parametrize("layout", ["F", "padded", "odd", "backwards"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [33, 4100])
def test_strides(cuda, layout, dtype, d):
    n = 140 if d < 100 else 9
    plain, strided = (Case(n, d, dtype, layout=at, weighted=True, unit_column=True) for at in ("C", layout))
    assert strided.X.strides != plain.X.strides
    first, second = plain.run(cuda), strided.run(cuda)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    check(plain, first)


@pytest.mark.parametrize("kind", ["dense", "gradient", "hessian"])
def test_given_slopes_and_dense_rows(cuda, kind):
    outputs = 3 if kind == "gradient" else 1
    case = Case(70, 11, "float32", kind=kind, loss="given", outputs=outputs, unit_column=True, shifted=True)
    check(case, case.run(cuda))


@pytest.mark.parametrize(("planes", "half"), [(1, False), (2, False), (3, False), (2, True)])
def test_planes_sum_to_the_rows(cuda, planes, half):
    case = Case(65, 21, "float32", shifted=True)
    exponents = np.arange(case.p, dtype=np.int32) % 9 - 4 if half else None
    got = case.run(cuda, planes=planes, half=half, exponents=exponents)
    rest = got["rows"].copy()
    if half:
        rest[:, : case.p] = np.ldexp(rest[:, : case.p], exponents)
    for plane in got["planes"].view(np.float16 if half else ml_dtypes.bfloat16):
        part = rest.astype(plane.dtype)
        np.testing.assert_array_equal(part, plane)
        rest -= part.astype(np.float32)
    assert got["overflow"][0] == 0


def test_what_float16_cannot_hold_is_flagged(cuda):
    case = Case(65, 21, "float32", shifted=True)
    assert case.run(cuda, planes=2, half=True, exponents=np.full(case.p, 17, np.int32))["overflow"][0] == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_order_of_threads_does_not_matter(cuda, dtype, seed):
    case = Case(300, 40, dtype, loss="logistic", weighted=True, shifted=True)
    first, second = case.run(cuda), case.run(cuda, seed=seed)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("where", ["X", "y", "weights", "loss_weight", "coef"])
def test_the_first_row_that_is_not_finite(cuda, where):
    case = Case(300, 5, "float32", weighted=True, loss_weighted=True)
    array = getattr(case, where)
    if where == "coef":
        array[2] = np.inf
    else:
        array[200] = np.nan
        array[131] = np.inf
    assert case.run(cuda, seed=4)["bad"][0] == case.first_row + (0 if where == "coef" else 131)


def test_a_closed_gate_makes_every_row_zero(cuda):
    case = Case(140, 10, weighted=True, shifted=True)
    got = case.run(cuda, gate=3)
    for name in ("rows", "row_weight", "sums", "squares", "totals"):
        assert not got[name].any()
    assert case.run(cuda, gate=-1)["totals"].any()


def test_no_rows_leave_zero_sums(cuda):
    case = Case(0, 4)
    got = case.run(cuda)
    assert not got["sums"].any()
    assert not got["totals"].any()
