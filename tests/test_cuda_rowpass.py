"""The row pass of the CUDA kernels, run by the emulator, against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from cuda_cases import DTYPES, NO_BAD_ROW, U64, Case
from emulated_cuda import build, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def cuda():
    return build(900)


@pytest.fixture(autouse=True)
def in_order(cuda):
    yield
    cuda.emulate_schedule(0)


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


@pytest.mark.parametrize("loss", ["logistic", "poisson"])
@pytest.mark.parametrize("what", ["label", "weight"])
def test_labels_outside_of_the_domain_count_as_not_finite(cuda, loss, what):
    case = Case(140, 5, "float64", kind="gradient", loss=loss, loss_weighted=True)
    assert case.run(cuda)["bad"][0] == NO_BAD_ROW
    if what == "label":
        case.y[77] = -1.0 if loss == "poisson" else 0.5
    else:
        case.loss_weight[77] = -1.0
    assert case.run(cuda)["bad"][0] == case.first_row + 77
