"""The CUDA kernel of narrow rows, run by the emulator: the row pass and the rank update in one."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import DTYPES, NO_BAD_ROW, Case
from emulated_cuda import Guarded, build, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def cuda():
    return build(900)


def narrow(cuda, case, start, *, seed=0, gate=None):
    out = {
        "sums": Guarded((case.p,), np.float64),
        "totals": Guarded((3,), np.float64),
        "bad": Guarded((1,), np.int64),
    }
    out["bad"].array[0] = NO_BAD_ROW
    scatter = Guarded(start.shape, start.dtype)
    scatter.array[...] = start
    work = Guarded((cuda.narrow_workspace(case.n, case.p),), np.uint8)
    fields = case.fields()
    if gate is not None:
        closed = np.array([gate], np.int64)
        fields["gate"] = closed.ctypes.data
    panel = {name: array.address for name, array in out.items()} | {"pitch": -(-case.p // 8) * 8}
    cuda.emulate_schedule(seed)
    try:
        cuda.narrow_update(
            fields,
            panel,
            scatter=scatter.address,
            scatter_is_float=start.dtype == np.float32,
            workspace=work.address,
            stream=0,
        )
    finally:
        cuda.emulate_schedule(0)
    assert work.intact()
    assert scatter.intact()
    assert all(array.intact() for array in out.values())
    return {name: array.array for name, array in out.items()} | {"scatter": scatter.array}


def check(cuda, case, **options):
    """Against the row pass, whose rows and weights are exact in float64, so that only their sums round."""
    dtype = options.pop("dtype", np.float64)
    start = np.random.default_rng(5).standard_normal((case.p, case.p)).astype(dtype)
    got = narrow(cuda, case, start, **options)
    rows = case.run(cuda)
    z, w = rows["rows"][:, : case.p].astype(np.float64), rows["row_weight"]
    # eta is summed in another order, and a slope may round the other way.
    slope = 0.0 if case.kind == "dense" or case.loss == "given" else 4 * np.finfo(case.work).eps
    if case.kind == "hessian":
        slope = 1e-13 * case.d
    shifted = 0.0 if case.shift is None else np.abs(case.shift.astype(float))
    size = np.abs(z) + shifted
    u = (case.n + 4) * np.finfo(np.float64).eps
    lower = np.tri(case.p, dtype=bool)
    expected = start + z.T @ (w[:, None] * z)
    bound = (u + 2 * slope) * (np.abs(start) + size.T @ (np.abs(w)[:, None] * size)) + np.finfo(
        dtype
    ).eps * np.abs(expected)
    assert (np.abs(got["scatter"] - expected) <= bound)[lower].all()
    np.testing.assert_array_equal(got["scatter"][~lower], start[~lower])
    assert (np.abs(got["sums"] - rows["sums"]) <= (u + slope) * (np.abs(w)[:, None] * size).sum(0)).all()
    np.testing.assert_allclose(
        got["totals"], rows["totals"], rtol=u + 1e-13 * case.d, atol=u * np.abs(w).sum()
    )
    assert got["bad"][0] == NO_BAD_ROW
    return got


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (63, 17), (300, 32), (300, 33), (65, 64), (300, 65), (130, 127)]
)
def test_sizes_and_types(cuda, n, d, dtype):
    check(cuda, Case(n, d, dtype, weighted=True, shifted=True, unit_column=d < 100))


@pytest.mark.parametrize("loss", ["squared", "logistic", "poisson", "huber", "given"])
@pytest.mark.parametrize("kind", ["dense", "gradient", "hessian"])
def test_losses_and_kinds(cuda, kind, loss):
    check(cuda, Case(200, 9, "float32", kind=kind, loss=loss, unit_column=True, loss_weighted=True))


@pytest.mark.parametrize("layout", ["F", "padded", "odd", "backwards"])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_strides(cuda, layout, dtype):
    start = np.zeros((40, 40))
    plain, strided = (
        narrow(cuda, Case(150, 39, dtype, layout=at, weighted=True, unit_column=True), start)
        for at in ("C", layout)
    )
    for name in plain:
        np.testing.assert_array_equal(plain[name], strided[name], err_msg=name)


@pytest.mark.parametrize("d", [20, 50, 100])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_threads_does_not_matter(cuda, d, seed):
    case = Case(700, d, "float32", loss="logistic", weighted=True, shifted=True)
    start = np.ones((d, d))
    first, second = narrow(cuda, case, start), narrow(cuda, case, start, seed=seed)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_float32_scatter(cuda):
    check(cuda, Case(150, 20, "float32", weighted=True), dtype=np.float32)


def test_many_segments(cuda):
    assert cuda.narrow_workspace(70_000, 3) > 300 * 8 * 64
    check(cuda, Case(70_000, 3, "float64", weighted=True))


def test_the_first_row_that_is_not_finite(cuda):
    case = Case(300, 70, "float32", weighted=True)
    case.X[250, 69] = np.inf
    case.X[140, 2] = np.nan
    assert narrow(cuda, case, np.zeros((70, 70)), seed=3)["bad"][0] == case.first_row + 140


def test_a_closed_gate_adds_nothing(cuda):
    case = Case(140, 10, weighted=True, shifted=True)
    start = np.random.default_rng(5).standard_normal((10, 10))
    got = narrow(cuda, case, start, gate=2)
    np.testing.assert_array_equal(got["scatter"], start)
    assert not got["sums"].any()
    assert not got["totals"].any()
    assert got["bad"][0] == NO_BAD_ROW
